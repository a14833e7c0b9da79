//! Small files that are whole or not there, also after a power cut.

use crate::error::{Error, Result};
use crate::sys;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, fchown};

/// Where a record goes: a name in one directory, written first under another name in another one of the same file system.
#[derive(Debug)]
pub struct Place {
    /// The directory, and the name in it.
    pub at: (OwnedFd, Vec<u8>),
    /// The directory of the temporary file, and its name.
    pub temporary: (OwnedFd, Vec<u8>),
    /// Permission bits, whatever the umask.
    pub mode: u32,
    /// Owner on the host, if not the caller.
    pub owner: Option<(u32, u32)>,
}

/// Write `bytes` to the temporary name, then rename it.
///
/// The data is on disk before the rename can be: a later commit (ours is the snapshot) makes the name durable, and a
/// name without data, the classic zero-byte file, cannot be seen at any moment. No commit is forced here.
pub fn write(place: &Place, bytes: &[u8]) -> Result<()> {
    let (scratch, temporary) = &place.temporary;
    let attempt = || -> std::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(scratch, &temporary[..], flags, Mode::from_raw_mode(place.mode))?);
        file.write_all(bytes)?;
        if let Some((uid, gid)) = place.owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        // The caller's umask must not decide (contract, defect 28).
        if file.metadata()?.permissions().mode() & 0o7777 != place.mode {
            file.set_permissions(PermissionsExt::from_mode(place.mode))?;
        }
        sys::flush_data(&file)?;
        Ok(rustix::fs::renameat(scratch, &temporary[..], &place.at.0, &place.at.1[..])?)
    };
    attempt().map_err(|error| {
        let _ = rustix::fs::unlinkat(scratch, &temporary[..], AtFlags::empty());
        Error::io(format!("writing {}", String::from_utf8_lossy(&place.at.1)), error)
    })
}

/// Rename, failing with `EEXIST` if something is at `to`. A plain rename would replace an empty directory.
pub fn rename_new(from: (impl AsFd, &[u8]), to: (impl AsFd, &[u8])) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_nothing_on_failure() {
        let dir = tempfile::tempdir().unwrap();
        let open = || OwnedFd::from(File::open(dir.path()).unwrap());
        let place = |name: &str| Place { at: (open(), name.into()), temporary: (open(), b"t".to_vec()), mode: 0o640, owner: None };
        write(&place("r"), b"one").unwrap();
        write(&place("r"), b"two").unwrap();
        let path = dir.path().join("r");
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert!(write(&place("no/such"), b"x").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
