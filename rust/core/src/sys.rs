//! The only module with `unsafe`: system calls that `rustix` has no safe form for.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Start and finish the write-back of a file's data, without a commit. What follows in any later commit then cannot
/// become durable before the data (docs/kernel.md, "What a snapshot makes durable").
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

/// Overwrite the program's arguments at these places (argument from the end, first byte), so that the process list no longer shows what
/// stands there. Call it before other threads exist.
pub(crate) fn hide_in_arguments(places: &[(usize, usize)]) {
    let (count, arguments) = (ARGUMENTS.0.load(Ordering::Acquire), ARGUMENTS.1.load(Ordering::Relaxed));
    for &(from_end, start) in places {
        if arguments.is_null() || from_end == 0 || from_end > count {
            continue;
        }
        // SAFETY: the C library's array of `count` pointers to NUL-terminated strings in writable memory of the process;
        // the interpreter made copies for itself before this library was loaded.
        let bytes = unsafe {
            let argument = *arguments.add(count - from_end);
            if argument.is_null() {
                continue;
            }
            std::slice::from_raw_parts_mut(argument.cast::<u8>(), libc::strlen(argument))
        };
        if let Some(secret) = bytes.get_mut(start..) {
            secret.fill(b'x');
        }
    }
}

/// A user namespace with these maps (`/proc/PID/uid_map`), held by the descriptor alone.
pub(crate) fn user_namespace(uids: &str, gids: &str) -> io::Result<OwnedFd> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // Everything the child uses exists before it does: between fork and exit it may only make system calls.
    // SAFETY: the child makes four system calls and ends; it allocates nothing and takes no lock.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        // SAFETY: system calls on descriptors and a local byte.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let byte = u8::from(libc::unshare(libc::CLONE_NEWUSER) == 0);
            libc::write(write.as_raw_fd(), std::ptr::from_ref(&byte).cast(), 1);
            // Wait to be ended: the parent needs us only until it holds the namespace.
            loop {
                libc::pause();
            }
        }
    }
    drop(write);
    let mut state = [0u8; 1];
    let mut hold = || -> io::Result<OwnedFd> {
        if rustix::io::read(&read, &mut state)? != 1 || state[0] != 1 {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        std::fs::write(format!("/proc/{child}/uid_map"), uids)?;
        std::fs::write(format!("/proc/{child}/gid_map"), gids)?;
        Ok(File::open(format!("/proc/{child}/ns/user"))?.into())
    };
    let result = hold();
    // SAFETY: our own child, not yet waited for, so its number is still its own.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    result
}

/// A detached copy of the tree at the directory `dir`, as its mount shows it.
pub(crate) fn clone_mount(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned() | libc::AT_EMPTY_PATH.cast_unsigned();
    // SAFETY: a descriptor and an empty path that live through the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), c"".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Give a detached mount the id map of a user namespace.
pub(crate) fn set_idmap(mount: &OwnedFd, namespace: &OwnedFd) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        namespace: u64,
    }
    const IDMAP: u64 = 0x0010_0000;
    let attributes = MountAttr { set: IDMAP, clear: 0, propagation: 0, namespace: namespace.as_raw_fd().cast_unsigned().into() };
    // SAFETY: an empty path, and a structure of the size that is passed, both living through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(&attributes),
            size_of::<MountAttr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Put a detached mount on the directory `target`.
pub(crate) fn attach_mount(mount: &OwnedFd, target: BorrowedFd<'_>) -> io::Result<()> {
    const FROM_EMPTY_PATH: libc::c_uint = 4;
    const TO_EMPTY_PATH: libc::c_uint = 0x40;
    let flags = FROM_EMPTY_PATH | TO_EMPTY_PATH;
    // SAFETY: descriptors and empty paths that live through the call.
    let result = unsafe { libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), target.as_raw_fd(), c"".as_ptr(), flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Unmount the mount whose root the descriptor is open on; who still uses it keeps it until it is done.
pub(crate) fn unmount(root: BorrowedFd<'_>) -> io::Result<()> {
    // umount(2) knows paths only. This one is the kernel's own name for the descriptor, and no other process can change it.
    let Ok(path) = CString::new(format!("/proc/self/fd/{}", root.as_raw_fd())) else { return Err(io::ErrorKind::InvalidInput.into()) };
    // SAFETY: a NUL-terminated path that lives through the call.
    let result = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
