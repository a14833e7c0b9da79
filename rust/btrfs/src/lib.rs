//! BTRFS by ioctl (`linux/btrfs.h`, btrfs-ioctl(2); numbers and privileges: docs/kernel.md, "Calls").
//!
//! ```text
//! abi.rs         structures and numbers of the kernel interface
//! sys.rs         system calls (the only unsafe code)
//! subvolume.rs   create, snapshot, ids, those nested in another
//! quota.rs       modes, groups, limits, counters
//! removal.rs     remove subvolumes and trees, whatever was made inside
//! ```
//!
//! A leaf: `core`, `store` and the privileged helper `drax` stand on it. Everything is named by a descriptor and at most
//! one name below it, because the owner of a path can change where it leads. Errors are the kernel's numbers; what was
//! being done is for callers to say.

pub mod abi;
pub mod quota;
pub mod removal;
pub mod subvolume;
mod sys;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};
use std::fmt::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use sys::Plain;

/// statfs magic of BTRFS.
pub const MAGIC: u64 = 0x9123_683e;

/// How a directory is opened: itself and no link to it, and a pipe in its place holds nobody.
pub const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// How often to try again when the kernel cannot rule out that a `..` escaped because somebody renamed something,
/// anywhere, at that moment. Each try is independent, so this many failures in a row are an attack or a bug.
const TRIES: usize = 10_000;

/// Open `path` below `dir` by `openat2(2)`, never by a magic link. Raises what the kernel says.
pub fn open(dir: impl AsFd, path: &[u8], flags: OFlags, mode: Mode, resolve: ResolveFlags) -> Result<OwnedFd> {
    for _ in 0..TRIES {
        match rustix::fs::openat2(&dir, path, flags, mode, resolve | ResolveFlags::NO_MAGICLINKS) {
            Err(Errno::AGAIN) => std::thread::yield_now(),
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Open the directory `path` below `dir`: through no link, and on the same mount.
pub fn open_below(dir: impl AsFd, path: &[u8]) -> Result<OwnedFd> {
    open(dir, path, DIRECTORY, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV)
}

/// A path as the kernel writes it in its tables (`/proc/self/mountinfo`, `/proc/swaps`): space, tab, newline and backslash are a
/// backslash and three octal digits.
#[must_use]
pub fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        if first == b'\\'
            && let Some((digits, after)) = after.split_first_chunk::<3>()
            && digits.iter().all(|digit| matches!(digit, b'0'..=b'7'))
        {
            bytes.push(digits.iter().fold(0u8, |byte, digit| (byte << 3) | (digit - b'0')));
            rest = after;
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    bytes
}

/// Whether `dir` is on BTRFS.
pub fn is_btrfs(dir: impl AsFd) -> Result<bool> {
    Ok(u64::try_from(rustix::fs::fstatfs(dir)?.f_type) == Ok(MAGIC))
}

/// Commit the file system and wait for it; also wakes the kernel thread that finishes deletions.
pub fn sync(dir: impl AsFd) -> Result<()> {
    sys::ioctl_none(dir, abi::SYNC)
}

/// Make the file system `bytes` large; it has one device. Needs `CAP_SYS_ADMIN`.
pub fn resize(dir: impl AsFd, bytes: u64) -> Result<()> {
    let mut args = abi::VolArgs::zeroed();
    let text = bytes.to_string();
    args.name[..text.len()].copy_from_slice(text.as_bytes());
    sys::ioctl(dir, abi::RESIZE, &mut args)
}

/// Share the first `length` bytes of `source`, whole blocks, with `target`.
pub fn clone_start(source: impl AsFd, target: impl AsFd, length: u64) -> Result<()> {
    let source = i64::from(source.as_fd().as_raw_fd());
    sys::ioctl(target, abi::CLONE_RANGE, &mut abi::CloneRange { source, source_offset: 0, length, target_offset: 0 })
}

/// UUID of the file system, as in the names below `/sys/fs/btrfs`.
pub fn uuid(dir: impl AsFd) -> Result<String> {
    let mut info = abi::FsInfo::zeroed();
    sys::ioctl(dir, abi::FS_INFO, &mut info)?;
    let mut text = String::new();
    for (at, byte) in info.fsid.iter().enumerate() {
        let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
        let _ = write!(text, "{dash}{byte:02x}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_escapes() {
        assert_eq!(unescape(b"/a\\040b\\134\\011\\012c\xff"), b"/a b\\\t\nc\xff");
        assert_eq!(unescape(b"\\9\\04"), b"\\9\\04");
    }
}
