//! The only module with `unsafe`: system calls that `rustix` has no safe form for.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

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
    // Where only the caller's own group is mapped, the kernel refuses to drop the others. They are the caller's anyway.
    unsafe { libc::setgroups(0, std::ptr::null()) };
    let steps: [fn() -> libc::c_int; 3] = [
        || unsafe { libc::setresgid(0, 0, 0) },
        || unsafe { libc::setresuid(0, 0, 0) },
        // Last: changing ids clears it.
        || unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) },
    ];
    for step in steps {
        if step() < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
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

/// Where the C library put the program's arguments: count and array, noted when this library is loaded.
static ARGUMENTS: (AtomicUsize, AtomicPtr<*mut libc::c_char>) = (AtomicUsize::new(0), AtomicPtr::new(std::ptr::null_mut()));

extern "C" fn note_arguments(count: libc::c_int, arguments: *mut *mut libc::c_char, _environment: *mut *mut libc::c_char) {
    ARGUMENTS.1.store(arguments, Ordering::Relaxed);
    ARGUMENTS.0.store(usize::try_from(count).unwrap_or(0), Ordering::Release);
}

// SAFETY: glibc calls the functions in this section with the arguments of `main`, also for libraries loaded later.
#[cfg(target_env = "gnu")]
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_ARGUMENTS: extern "C" fn(libc::c_int, *mut *mut libc::c_char, *mut *mut libc::c_char) = note_arguments;

/// Overwrite `secret` wherever it stands in the program's arguments, so that the process list no longer shows it. Gives how
/// many arguments held it. Call it before other threads exist.
pub(crate) fn hide_in_arguments(secret: &[u8]) -> usize {
    let (count, arguments) = (ARGUMENTS.0.load(Ordering::Acquire), ARGUMENTS.1.load(Ordering::Relaxed));
    if arguments.is_null() || secret.is_empty() {
        return 0;
    }
    let mut hidden = 0;
    for i in 0..count {
        // SAFETY: the C library's array of `count` pointers to NUL-terminated strings in writable memory of the process;
        // the interpreter made copies for itself before this library was loaded.
        let bytes = unsafe {
            let argument = *arguments.add(i);
            if argument.is_null() {
                continue;
            }
            std::slice::from_raw_parts_mut(argument.cast::<u8>(), libc::strlen(argument))
        };
        if let Some(at) = bytes.windows(secret.len()).position(|window| window == secret) {
            bytes[at..at + secret.len()].fill(b'x');
            hidden += 1;
        }
    }
    hidden
}
