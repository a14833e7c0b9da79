//! The only module with `unsafe`: system calls that `rustix` has no safe form for.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Memory that may be handed to an ioctl: plain integers and byte arrays in `repr(C)`, every bit pattern valid.
///
/// # Safety
/// Implement it only for such types, of exactly the size that the ioctl number encodes.
pub(crate) unsafe trait Plain: Sized {
    /// All bytes zero.
    fn zeroed() -> Self {
        // SAFETY: every bit pattern of a `Plain` type is valid, zero included.
        unsafe { std::mem::zeroed() }
    }
}

/// `ioctl(fd, request, argument)` where the kernel reads and writes `argument` in place.
pub(crate) fn ioctl<T: Plain>(fd: BorrowedFd<'_>, request: u32, argument: &mut T) -> io::Result<()> {
    // SAFETY: `argument` is exclusive, initialised memory of the size that `request` encodes (contract of `Plain`).
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::Ioctl::from(request), std::ptr::from_mut(argument)) };
    // GET_SUBVOL_INFO returns 1 on success (kernel-facts, section 4).
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An ioctl without an argument.
pub(crate) fn ioctl_none(fd: BorrowedFd<'_>, request: u32) -> io::Result<()> {
    // SAFETY: the kernel reads and writes nothing of ours.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::Ioctl::from(request), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Start and finish the write-back of a file's data, without a commit. What follows in any later commit then cannot
/// become durable before the data (kernel-facts, section 7).
pub(crate) fn flush_data(file: &File) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: no memory is passed.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Give the calling thread its own umask and working directory, so that setting them here does not reach the other
/// threads of the process.
pub(crate) fn unshare_fs() -> io::Result<()> {
    // SAFETY: CLONE_FS only splits umask, root and working directory off; no memory is involved.
    let result = unsafe { libc::unshare(libc::CLONE_FS) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Put the calling process, which must have one thread, into a user namespace of its own (without mappings yet).
pub(crate) fn unshare_user() -> io::Result<()> {
    // SAFETY: no memory is involved.
    let result = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Become user and group 0 of the namespace, and end when the parent ends. The process must have one thread.
pub(crate) fn become_root() -> io::Result<()> {
    // SAFETY: system calls without memory, but for `setgroups`, which reads no element of an empty list.
    let results = [
        unsafe { libc::setresgid(0, 0, 0) },
        unsafe { libc::setgroups(0, std::ptr::null()) },
        unsafe { libc::setresuid(0, 0, 0) },
        // Last: changing ids clears it.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) },
    ];
    if results.contains(&-1) { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A descriptor of our own for what `raw` refers to; `raw` stays as it is.
pub(crate) fn duplicate(raw: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; a bad number gives EBADF.
    let fd = unsafe { libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
