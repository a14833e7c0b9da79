//! The only module with `unsafe`: signal handlers.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Whether a signal has come that stops the command; and which.
pub static STOPPED: AtomicBool = AtomicBool::new(false);
static STOPPED_BY: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(number: libc::c_int) {
    STOPPED_BY.store(number, Ordering::Relaxed);
    STOPPED.store(true, Ordering::Relaxed);
}

/// The number of the signal that came last; 0 for none.
#[must_use]
pub fn stopped_by() -> i32 {
    STOPPED_BY.load(Ordering::Relaxed)
}

/// Note SIGINT, SIGTERM and SIGHUP instead of ending by them; those that the caller ignores stay ignored. A program that this
/// process becomes has them as they were.
pub fn note_signals() {
    for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: plain data that the kernel fills, and a handler that only stores to atomics.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(number, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction != libc::SIG_IGN {
                action.sa_sigaction = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
                action.sa_flags = 0;
                libc::sigaction(number, &raw const action, std::ptr::null_mut());
            }
        }
    }
}
