//! The process itself: its user namespace, and what others see of its arguments.

use crate::error::{Error, Result};
use crate::sys;
use std::os::fd::OwnedFd;

/// A descriptor of our own for what `descriptor` refers to; that one stays as it is.
pub fn duplicate(descriptor: i32) -> Result<OwnedFd> {
    sys::duplicate(descriptor).map_err(|e| Error::io("dup", e))
}

/// Enter a new user namespace. Its maps are written from outside (`newuidmap`, `newgidmap`). The process must have one thread.
pub fn enter_user_namespace() -> Result<()> {
    sys::unshare_user().map_err(|e| Error::io("creating a user namespace", e))
}

/// Become root of the namespace once the maps are there; from then on the process ends with its parent.
pub fn become_namespace_root() -> Result<()> {
    sys::become_root().map_err(|e| Error::io("becoming root of the user namespace", e))
}

/// Overwrite secrets in the arguments that the process list shows. Each is told by its argument, counted from the end, the last being
/// 1, and its first byte in that. Call it before other threads exist.
pub fn hide_in_arguments(places: &[(usize, usize)]) {
    sys::hide_in_arguments(places);
}
