//! What is mounted where (proc(5), mountinfo), and whether a store that is in a file is. The one parser of mountinfo.

use crate::error::{Error, Result};
use crate::layout::normalise;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// Type of the file system.
    pub kind: String,
    /// What is mounted: a device, mostly.
    pub source: PathBuf,
    /// Options of the mount, then those of the file system.
    pub options: Vec<String>,
}

/// All mounts that this process sees, in the order in which they were made.
pub fn all() -> std::io::Result<Vec<Mount>> {
    Ok(std::fs::read("/proc/self/mountinfo")?.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

fn parse(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let end = fields.iter().position(|field| field == b"-")?;
    let unescaped = |field: &[u8]| PathBuf::from(OsString::from_vec(groot_btrfs::unescape(field)));
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let own = fields.get(5)?.split(|&byte| byte == b',');
    let of_file_system = fields.get(end + 3)?.split(|&byte| byte == b',');
    Some(Mount {
        point: unescaped(fields.get(4)?),
        kind: text(fields.get(end + 1)?),
        source: unescaped(fields.get(end + 2)?),
        options: own.chain(of_file_system).map(text).collect(),
    })
}

/// What the name of the file ends with that `init-store` keeps a store in, beside its directory.
pub const BACKING: &str = ".backing-store";

/// Refuse a store that is in a file which is not mounted: what is at `path` then is the bare mount point, even if it lies on BTRFS and
/// somebody made a store in it.
pub fn check_mounted(path: &Path) -> Result<()> {
    match is_mount(path) {
        // What may not be looked at is not known to be anything.
        Ok(true) | Err(Errno::ACCESS | Errno::PERM) => return Ok(()),
        _ => {}
    }
    match backing_file(path) {
        Some(file) => Err(Error::store(format!("store {} is in {}, which is not mounted", path.display(), file.display())).hint(format!(
            "`grootfs --store {} init-store` as root mounts it; docs/operating.md says how to do so at boot",
            path.display()
        ))),
        None => Ok(()),
    }
}

/// The file of the store that is mounted at `path`, if it is in one.
pub(crate) fn mounted_file(path: &Path) -> Option<PathBuf> {
    is_mount(path).is_ok_and(|is| is).then(|| backing_file(path)).flatten()
}

/// Bytes of a store's file, or of the file system in it if that is mounted and has less. None if the store has no such file.
#[must_use]
pub fn file_bytes(path: &Path) -> Option<u64> {
    let file = std::fs::metadata(backing_file(path)?).ok()?.len();
    let system = is_mount(path).is_ok_and(|is| is).then(|| rustix::fs::statvfs(path).ok()).flatten();
    Some(system.map_or(file, |system| file.min(system.f_blocks * system.f_frsize)))
}

/// Whether a directory is what a mount begins with. It need not be readable for that.
fn is_mount(path: &Path) -> rustix::io::Result<bool> {
    let seen = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::empty())?;
    Ok(seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// The file of a store at `path`: beside the path as it was given, or beside the place that it leads to.
fn backing_file(path: &Path) -> Option<PathBuf> {
    [Some(normalise(path)), std::fs::canonicalize(path).ok()].into_iter().flatten().find_map(|path| {
        let mut name = path.into_os_string();
        name.push(BACKING);
        let file = PathBuf::from(name);
        std::fs::metadata(&file).is_ok_and(|found| found.is_file()).then_some(file)
    })
}

/// Where an open directory is, as the kernel sees it: without links.
pub fn place_of(dir: impl AsFd) -> std::io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()))
}

/// Mount points at or below an open directory.
pub fn below(dir: impl AsFd) -> std::io::Result<Vec<PathBuf>> {
    let place = place_of(dir)?;
    Ok(all()?.into_iter().map(|mount| mount.point).filter(|point| point.starts_with(&place)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_file_beside_a_bare_directory_is_not_mounted() {
        let top = tempfile::tempdir().unwrap();
        let (real, link) = (top.path().join("real"), top.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let check = |path: &Path| check_mounted(path).map_err(|error| error.text);
        assert_eq!(check(&link), Ok(()));
        std::fs::write(top.path().join("real.backing-store"), "").unwrap();
        for path in [&real, &link, &real.join(".")] {
            assert!(check(path).unwrap_err().ends_with("real.backing-store, which is not mounted"));
        }
        assert_eq!(check(Path::new("/proc")), Ok(()));
    }

    #[test]
    fn a_line_is_taken_apart() {
        let line = b"36 35 98:0 /mnt1 /a\\040b\\134\\011\\012c rw,noatime master:1 - btrfs /dev/loop0 rw,user_subvol_rm_allowed";
        let mount = parse(line).unwrap();
        assert_eq!(mount.point.as_os_str().as_bytes(), b"/a b\\\t\nc");
        assert_eq!((mount.kind.as_str(), mount.source.to_str()), ("btrfs", Some("/dev/loop0")));
        assert_eq!(mount.options, ["rw", "noatime", "rw", "user_subvol_rm_allowed"]);
        assert_eq!(parse(b""), None);
    }
}
