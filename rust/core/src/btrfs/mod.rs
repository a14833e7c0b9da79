//! BTRFS by ioctl (`linux/btrfs.h`, btrfs-ioctl(2); numbers and privileges: docs/kernel.md, "Calls").
//!
//! ```text
//! abi.rs         structures and numbers of the kernel interface
//! subvolume.rs   create, snapshot, delete (with nested ones)
//! quota.rs       modes, groups, limits, counters
//! ```

mod abi;
pub mod quota;
pub mod subvolume;

#[cfg(fuzzing)]
pub use abi::fuzzing;

use crate::error::{Error, Result};
use crate::sys;
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// statfs magic of BTRFS.
pub const MAGIC: i64 = 0x9123_683e;

/// Open a directory for ioctls. The last component may not be a link.
pub fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::io(format!("open {}", path.display()), e))
}

/// Commit the file system and wait for it; also wakes the kernel thread that finishes deletions.
pub fn sync(path: &Path) -> Result<()> {
    let dir = open_dir(path)?;
    sys::ioctl_none(dir.as_fd(), abi::SYNC).map_err(|e| Error::io(format!("sync {}", path.display()), e))
}

/// Begin a commit and do not wait for it.
pub fn start_sync(path: &Path) -> Result<()> {
    let dir = open_dir(path)?;
    sys::ioctl_none(dir.as_fd(), abi::START_SYNC).map_err(|e| Error::io(format!("start sync {}", path.display()), e))
}

/// UUID of the file system, as in the names below `/sys/fs/btrfs`.
pub fn uuid(dir: impl AsFd) -> Result<String> {
    let mut info = <abi::FsInfo as sys::Plain>::zeroed();
    sys::ioctl(dir.as_fd(), abi::FS_INFO, &mut info).map_err(|e| Error::io("BTRFS_IOC_FS_INFO", e))?;
    let hex = crate::blob::hex(&info.fsid);
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}
