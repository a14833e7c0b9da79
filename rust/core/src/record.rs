//! Small files that are whole or not there, also after a power cut.

use crate::error::{Error, Result};
use crate::sys;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// Write `bytes` to `temporary` and rename it to `path`; both must be on one file system.
///
/// The data is on disk before the rename can be: a later commit (ours is the snapshot) makes the name durable, and a
/// name without data, the classic zero-byte file, cannot be seen at any moment. No commit is forced here.
pub fn write(path: &Path, temporary: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
    let context = |e| Error::io(format!("writing {}", path.display()), e);
    let attempt = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(temporary)?;
        file.write_all(bytes)?;
        if let Some((uid, gid)) = owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        // The caller's umask must not decide (contract, defect 28).
        if file.metadata()?.permissions().mode() & 0o7777 != mode {
            file.set_permissions(PermissionsExt::from_mode(mode))?;
        }
        sys::flush_data(&file)?;
        std::fs::rename(temporary, path)
    };
    attempt().map_err(|error| {
        let _ = std::fs::remove_file(temporary);
        context(error)
    })
}

/// Rename, failing with `EEXIST` where something is at `to`. A plain rename would replace an empty directory.
pub fn rename_new(from: &Path, to: &Path) -> Result<()> {
    rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, rustix::fs::RenameFlags::NOREPLACE)
        .map_err(|e| Error::io(format!("rename {} {}", from.display(), to.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_nothing_on_failure() {
        let dir = tempfile::tempdir().unwrap();
        let (path, temporary) = (dir.path().join("r"), dir.path().join("t"));
        write(&path, &temporary, b"one", 0o640, None).unwrap();
        write(&path, &temporary, b"two", 0o640, None).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert!(write(&dir.path().join("no/such"), &temporary, b"x", 0o640, None).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
