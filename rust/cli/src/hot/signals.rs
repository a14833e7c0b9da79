//! Signals are noted, and stop a command where it waits: nothing is left half-done between two lines.

use crate::failure::{Failure, Kind};
use crate::sys;
use std::sync::atomic::{AtomicBool, Ordering};

/// Note SIGINT, SIGTERM and SIGHUP from now on. What the caller ignores stays ignored.
pub fn catch() {
    sys::note_signals();
}

/// Whether one has come.
#[must_use]
pub fn stopped() -> &'static AtomicBool {
    &sys::STOPPED
}

/// The failure of a command that is not to go on, if one has come.
#[must_use]
pub fn ended() -> Option<Failure> {
    stopped().load(Ordering::Relaxed).then(|| Failure::new(Kind::Cancelled, text()))
}

/// What is said of a command that one has stopped.
#[must_use]
pub fn text() -> String {
    format!("stopped by signal {}", sys::stopped_by())
}
