//! The only module with `unsafe`: what neither the standard library nor `rustix` has a safe form for.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Signals that end a command.
const SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Let a write to a closed pipe end the process again, which Rust turns off at the start.
pub fn restore_sigpipe() {
    // SAFETY: the default action has no handler that could run.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// The file mode mask.
pub fn umask() -> u32 {
    // SAFETY: no memory is involved. There is one thread, so nobody makes a file in between.
    unsafe {
        let mask = libc::umask(0o077);
        libc::umask(mask);
        mask
    }
}

/// A descriptor that the ending signals can be read from, instead of their ending us. Those that whoever started us has
/// ignored (`nohup`) stay ignored.
pub fn catch_signals() -> io::Result<OwnedFd> {
    // SAFETY: all structures are initialised by the calls that take them first, and outlive them. The new descriptor is
    // known to nobody else.
    unsafe {
        let mut set = MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        for signal in SIGNALS {
            let mut action: MaybeUninit<libc::sigaction> = MaybeUninit::zeroed();
            if libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0 && action.assume_init_ref().sa_sigaction != libc::SIG_IGN
            {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
        }
        if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// The number of the next signal (`signalfd_siginfo` starts with it).
pub fn next_signal(signals: &OwnedFd) -> io::Result<i32> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    rustix::io::read(signals, &mut info)?;
    let number: [u8; 4] = info[..4].try_into().expect("four of 128 bytes");
    Ok(i32::from_ne_bytes(number))
}

/// End the way a process ends by a signal.
pub fn end_by(signal: i32) -> ExitCode {
    // SAFETY: the default action has no handler; the set is initialised by `sigemptyset`.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::raise(signal);
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
    // Only where the default action is not to end.
    ExitCode::from(128 + u8::try_from(signal).unwrap_or(0))
}

/// Where the C library put the program's arguments, noted before `main`.
static ARGUMENTS: (AtomicUsize, AtomicPtr<*mut libc::c_char>) = (AtomicUsize::new(0), AtomicPtr::new(std::ptr::null_mut()));

extern "C" fn note_arguments(count: libc::c_int, arguments: *mut *mut libc::c_char, _environment: *mut *mut libc::c_char) {
    ARGUMENTS.1.store(arguments, Ordering::Relaxed);
    ARGUMENTS.0.store(usize::try_from(count).unwrap_or(0), Ordering::Release);
}

// SAFETY: glibc calls the functions in this section at the start with the arguments of `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_ARGUMENTS: extern "C" fn(libc::c_int, *mut *mut libc::c_char, *mut *mut libc::c_char) = note_arguments;

/// Overwrite a secret in the arguments that the process list shows. Copies made earlier stay.
pub fn hide_in_arguments(secret: &[u8]) {
    let (count, arguments) = (ARGUMENTS.0.load(Ordering::Acquire), ARGUMENTS.1.load(Ordering::Relaxed));
    for i in 0..count {
        // SAFETY: the C library's array of `count` pointers to NUL-terminated strings in writable memory of the process;
        // the standard library only ever reads them to copy them.
        let bytes = unsafe {
            let argument = *arguments.add(i);
            if argument.is_null() {
                continue;
            }
            std::slice::from_raw_parts_mut(argument.cast::<u8>(), libc::strlen(argument))
        };
        if let Some(at) = bytes.windows(secret.len()).position(|window| window == secret) {
            bytes[at..at + secret.len()].fill(b'x');
        }
    }
}
