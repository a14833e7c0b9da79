//! Idmapped mounts (`mount_setattr(2)`, Linux 5.12; BTRFS since 5.15): one copy of a tree, seen with other owners.

use crate::error::{Error, Result};
use crate::idmap::IdMaps;
use crate::sys;
use std::os::fd::BorrowedFd;

/// Bind the directory `source` on the directory `target`, with the owners that `ids` gives. Needs `CAP_SYS_ADMIN`.
pub fn mount(source: BorrowedFd<'_>, target: BorrowedFd<'_>, ids: &IdMaps) -> Result<()> {
    let fail = |what: &str, e| Error::io(format!("idmapped mount: {what}"), e);
    let namespace = sys::user_namespace(&map_text(&ids.uid), &map_text(&ids.gid)).map_err(|e| fail("user namespace", e))?;
    let tree = sys::clone_mount(source).map_err(|e| fail("open_tree", e))?;
    sys::set_idmap(&tree, &namespace).map_err(|e| fail("mount_setattr", e))?;
    sys::attach_mount(&tree, target).map_err(|e| fail("move_mount", e))
}

/// Undo `mount`; `root` is open on the root of the mount.
pub fn unmount(root: BorrowedFd<'_>) -> Result<()> {
    sys::unmount(root).map_err(|e| Error::io("unmounting the root file system", e))
}

/// The map in the form of `/proc/PID/uid_map`: spaces instead of colons, a line each.
fn map_text(map: &crate::idmap::IdMap) -> String {
    map.to_string().replace(' ', "\n").replace(':', " ") + "\n"
}
