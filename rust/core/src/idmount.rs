//! Idmapped mounts (`mount_setattr(2)`, Linux 5.12; BTRFS since 5.15): one copy of a tree, seen with other owners.

use crate::error::{Error, Result};
use crate::idmap::IdMaps;
use crate::sys;
use std::path::Path;

/// Bind `source` on the directory `target`, with the owners that `ids` gives. Needs `CAP_SYS_ADMIN`.
pub fn mount(source: &Path, target: &Path, ids: &IdMaps) -> Result<()> {
    let fail = |what: &str, e| Error::io(format!("idmapped mount: {what}"), e);
    let namespace = sys::user_namespace(&map_text(&ids.uid), &map_text(&ids.gid)).map_err(|e| fail("user namespace", e))?;
    let tree = sys::clone_mount(source).map_err(|e| fail("open_tree", e))?;
    sys::set_idmap(&tree, &namespace).map_err(|e| fail("mount_setattr", e))?;
    sys::attach_mount(&tree, target).map_err(|e| fail("move_mount", e))
}

/// Undo `mount`.
pub fn unmount(target: &Path) -> Result<()> {
    sys::unmount(target).map_err(|e| Error::io(format!("unmounting {}", target.display()), e))
}

/// The map in the form of `/proc/PID/uid_map`: spaces instead of colons, a line each.
fn map_text(map: &crate::idmap::IdMap) -> String {
    map.to_string().replace(' ', "\n").replace(':', " ") + "\n"
}
