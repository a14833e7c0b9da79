//! The only module with `unsafe`: what `rustix` has no safe form for.

#![allow(unsafe_code)]

use rustix::io::{Errno, Result};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Memory that may be handed to an ioctl.
///
/// # Safety
/// Only for `repr(C)` types of integers and byte arrays (every bit pattern valid), of exactly the size that the ioctl
/// number encodes.
pub(crate) unsafe trait Plain: Sized {
    /// All bytes zero.
    fn zeroed() -> Self {
        // SAFETY: every bit pattern of a `Plain` type is valid, zero included.
        unsafe { std::mem::zeroed() }
    }
}

/// `ioctl(fd, request, argument)`, of which the kernel reads and writes `argument` in place.
pub(crate) fn ioctl<T: Plain>(fd: impl AsFd, request: u32, argument: &mut T) -> Result<()> {
    // SAFETY: `argument` is exclusive, initialised memory of the size that `request` encodes (contract of `Plain`).
    done(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::Ioctl::from(request), std::ptr::from_mut(argument)) })
}

/// An ioctl without an argument.
pub(crate) fn ioctl_none(fd: impl AsFd, request: u32) -> Result<()> {
    // SAFETY: the kernel reads and writes nothing of ours.
    done(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::Ioctl::from(request), 0) })
}

fn done(result: libc::c_int) -> Result<()> {
    // GET_SUBVOL_INFO returns 1 on success (docs/kernel.md, "Calls").
    if result < 0 { Err(last_error()) } else { Ok(()) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// The root directory of subvolume `id` on the mount of `dir`, by number and not by name (`open_by_handle_at(2)`); `generation`
/// is that of its inode. Needs `CAP_DAC_READ_SEARCH`.
pub(crate) fn open_subvolume(dir: impl AsFd, id: u64, inode: u64, generation: u32) -> Result<OwnedFd> {
    /// `struct file_handle` with BTRFS's file id (`fs/btrfs/export.h`).
    #[repr(C, packed)]
    struct Handle {
        bytes: u32,
        kind: i32,
        inode: u64,
        subvolume: u64,
        generation: u32,
    }
    /// `FILEID_BTRFS_WITHOUT_PARENT` of `linux/exportfs.h`.
    const WITHOUT_PARENT: i32 = 0x4d;
    let mut handle = Handle { bytes: 20, kind: WITHOUT_PARENT, inode, subvolume: id, generation };
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: a handle whose size is said in its first field, living through the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, dir.as_fd().as_raw_fd(), std::ptr::from_mut(&mut handle), flags) };
    if fd < 0 {
        return Err(last_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The flags of an inode that `chattr` shows (`FS_IOC_GETFLAGS`).
pub(crate) fn inode_flags(fd: impl AsFd) -> Result<u32> {
    let mut flags: libc::c_int = 0;
    // SAFETY: the kernel writes one integer.
    done(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FS_IOC_GETFLAGS as libc::Ioctl, std::ptr::from_mut(&mut flags)) })?;
    Ok(flags.cast_unsigned())
}

/// Set them (`FS_IOC_SETFLAGS`).
pub(crate) fn set_inode_flags(fd: impl AsFd, flags: u32) -> Result<()> {
    let flags: libc::c_int = flags.cast_signed();
    // SAFETY: the kernel reads one integer.
    done(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FS_IOC_SETFLAGS as libc::Ioctl, std::ptr::from_ref(&flags)) })
}
