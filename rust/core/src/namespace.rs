//! The process that works inside a user namespace, where the store's owner is root over its subordinate ids.

use crate::error::{Error, Result};
use crate::sys;

/// Enter a new user namespace. Its maps are written from outside (`newuidmap`, `newgidmap`).
pub fn enter() -> Result<()> {
    sys::unshare_user().map_err(|e| Error::io("creating a user namespace", e))
}

/// Become root of the namespace once the maps are there; from then on the process ends with its parent.
pub fn become_root() -> Result<()> {
    sys::become_root().map_err(|e| Error::io("becoming root of the user namespace", e))
}
