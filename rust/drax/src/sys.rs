//! The only module with `unsafe`: what `rustix` has no safe form for.

#![allow(unsafe_code)]

use rustix::io::{Errno, Result};

/// Close every descriptor from `first` on. Nothing in this process may own one of them.
pub fn close_from(first: u32) -> Result<()> {
    // SAFETY: called before anything is opened, so no `OwnedFd` loses its descriptor.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    done(-i32::from(result < 0))
}

/// Forget the environment.
pub fn clear_environment() {
    // SAFETY: there is one thread, and nothing holds a reference into the environment.
    unsafe { libc::clearenv() };
}

fn done(result: i32) -> Result<()> {
    if result < 0 { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)) } else { Ok(()) }
}
