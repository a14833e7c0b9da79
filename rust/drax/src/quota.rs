//! Quota groups: accounting mode and counters (for anybody), limits and the enclosing group (with the token that
//! `privilege.rs` gives out).
//!
//! Under simple accounting subvolumes that are made inside an image escape its limit, unless the image is in a level-1
//! group: they join that group by themselves. Ours for subvolume N is number 1/N. The number alone does not make it
//! ours: an administrator may have given it to a group of its own, and ids of subvolumes only count up, so a user can
//! come to own subvolume N. See `is_ours`.

use crate::Failure;
use crate::privilege::Raised;
use crate::sys::{self, Plain};
use crate::target::{FIRST_FREE, Target};
use rustix::io::{Errno, Result};
use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

const ROOT_TREE: u64 = 1;
const QUOTA_TREE: u64 = 8;
/// Key (subvolume, this, parent subvolume) in the root tree.
const ROOT_BACKREF: u32 = 144;
/// Keys (group, this, other group) in the quota tree, for either direction.
const QGROUP_RELATION: u32 = 246;
const LEVEL_SHIFT: u32 = 48;
/// Bytes before the data of each item that a search gives.
const ITEM_HEADER: usize = 32;
/// Subvolumes nested deeper than this count as somebody else's.
const MAX_DEPTH: usize = 256;

/// How a file system accounts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Accounting {
    Off,
    Full,
    Simple,
}

/// What to limit to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub bytes: u64,
    /// What counts is what only this subvolume has.
    pub exclusive: bool,
}

/// Directory of the quota groups of a file system below `/sys`, readable by anybody.
pub struct Groups(PathBuf);

impl Groups {
    pub fn of(dir: impl AsFd) -> Result<Self> {
        let mut info = sys::FsInfo::zeroed();
        sys::ioctl(dir, sys::FS_INFO, &mut info)?;
        let mut path = String::from("/sys/fs/btrfs/");
        for (at, byte) in info.fsid.iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            let _ = write!(path, "{dash}{byte:02x}");
        }
        Ok(Self(Path::new(&path).join("qgroups")))
    }

    pub fn accounting(&self) -> Accounting {
        match std::fs::read_to_string(self.0.join("mode")) {
            Ok(mode) if mode.trim() == "squota" => Accounting::Simple,
            Ok(_) => Accounting::Full,
            // Before Linux 6.7 there is no such file and only one mode.
            Err(_) if self.0.exists() => Accounting::Full,
            Err(_) => Accounting::Off,
        }
    }

    /// Referenced and exclusive bytes of a subvolume; with a group around it those of the group, which counts nested
    /// subvolumes too.
    pub fn usage(&self, id: u64) -> Option<(u64, u64)> {
        self.counters(1, id).or_else(|| self.counters(0, id))
    }

    pub fn has_enclosure(&self, id: u64) -> bool {
        self.group(1, id).exists()
    }

    fn counters(&self, level: u8, id: u64) -> Option<(u64, u64)> {
        let group = self.group(level, id);
        let number = |name| std::fs::read_to_string(group.join(name)).ok()?.trim().parse().ok();
        Some((number("referenced")?, number("exclusive")?))
    }

    fn group(&self, level: u8, id: u64) -> PathBuf {
        self.0.join(format!("{level}_{id}"))
    }
}

/// Commit the file system: counters move at commits only.
pub fn sync(dir: impl AsFd) -> Result<()> {
    sys::ioctl_none(dir, sys::SYNC)
}

/// Limit one subvolume.
pub fn limit(_: &Raised, target: &Target, limit: Limit) -> std::result::Result<(), Failure> {
    limit_group(&target.door, target.id, limit).map_err(limit_failed)
}

/// Limit a subvolume and the group around it, which is made if need be.
pub fn limit_enclosed(_: &Raised, target: &Target, limit: Limit) -> std::result::Result<(), Failure> {
    let (door, id, group) = (&target.door, target.id, enclosure(target.id));
    match create_group(door, group) {
        Err(Errno::EXIST) => {
            our_members(door, id)?;
            limit_group(door, id, limit).and_then(|()| limit_group(door, group, limit)).map_err(limit_failed)
        }
        Err(error) => Err(limit_failed(error)),
        Ok(()) => {
            let done =
                limit_group(door, group, limit).and_then(|()| assign(door, id, group, true)).and_then(|()| limit_group(door, id, limit));
            done.map_err(|error| {
                let _ = assign(door, id, group, false);
                let _ = remove_group(door, group);
                limit_failed(error)
            })
        }
    }
}

/// Take the subvolume and those nested in it out of the group around it, and remove the group.
pub fn remove_enclosure(_: &Raised, target: &Target) -> std::result::Result<(), Failure> {
    let (door, id, group) = (&target.door, target.id, enclosure(target.id));
    let mut members = our_members(door, id)?;
    // The subvolume last: as long as it is a member the group is known as ours, and the next call can finish.
    members.sort_by_key(|&member| member == id);
    let attempt = || {
        for &member in &members {
            match assign(door, member, group, false) {
                // A deleted subvolume that the kernel has just finished.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        remove_group(door, group)
    };
    attempt().map_err(|e| Failure::os("unable to destroy quota group", e))
}

fn limit_failed(error: Errno) -> Failure {
    if error == Errno::NOTCONN { quota_off() } else { Failure::os("unable to limit requested quota group", error) }
}

/// What to say where nothing is accounted.
pub fn quota_off() -> Failure {
    "unable to limit requested quota group: quota not enabled".into()
}

/// Members of the group around subvolume `id`. Refuses a group that is not ours.
fn our_members(door: &OwnedFd, id: u64) -> std::result::Result<Vec<u64>, Failure> {
    let context = |e| Failure::os("looking at the quota group", e);
    let members = offsets(door, QUOTA_TREE, enclosure(id), QGROUP_RELATION).map_err(context)?;
    if is_ours(id, &members, |of| parent_of(door, of)).map_err(context)? {
        Ok(members)
    } else {
        Err(Failure::from(format!("quota group 1/{id} was not made by drax")))
    }
}

/// Whether a group with these relations is the one around subvolume `id`: that subvolume is in it, and else only those
/// nested in it. `parent` gives the subvolume that another one lies in.
fn is_ours(id: u64, relations: &[u64], parent: impl Fn(u64) -> Result<Option<u64>>) -> Result<bool> {
    for &member in relations {
        // A relation to a group of a higher level, or to the top level's group, is an administrator's.
        if member >> LEVEL_SHIFT != 0 || member < FIRST_FREE || !is_nested(id, member, &parent)? {
            return Ok(false);
        }
    }
    Ok(relations.contains(&id))
}

fn is_nested(id: u64, member: u64, parent: impl Fn(u64) -> Result<Option<u64>>) -> Result<bool> {
    let mut at = member;
    for _ in 0..MAX_DEPTH {
        if at == id {
            return Ok(true);
        }
        match parent(at)? {
            Some(above) => at = above,
            // The top level has no parent. A deleted subvolume has none either, until the kernel is done with it.
            None => return Ok(at == member),
        }
    }
    Ok(false)
}

fn parent_of(door: &OwnedFd, id: u64) -> Result<Option<u64>> {
    Ok(offsets(door, ROOT_TREE, id, ROOT_BACKREF)?.first().copied())
}

/// Third parts of all keys of a tree that begin with `object` and `kind`.
fn offsets(door: &OwnedFd, tree: u64, object: u64, kind: u32) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    let mut from = 0;
    loop {
        let mut search = sys::TreeSearch::zeroed();
        search.tree = tree;
        (search.min_object, search.max_object) = (object, object);
        (search.min_type, search.max_type) = (kind, kind);
        (search.min_offset, search.max_offset) = (from, u64::MAX);
        search.max_transid = u64::MAX;
        search.items = u32::MAX;
        sys::ioctl(door, sys::TREE_SEARCH, &mut search)?;
        let before = found.len();
        item_offsets(&search.buffer, search.items, &mut found);
        match found.last() {
            Some(&last) if found.len() > before && last < u64::MAX => from = last + 1,
            _ => return Ok(found),
        }
    }
}

/// Read the keys' third parts from what a search gave: per item transid, object, offset, type (4), length (4), data.
fn item_offsets(mut buffer: &[u8], items: u32, found: &mut Vec<u64>) {
    for _ in 0..items {
        let Some((header, rest)) = buffer.split_at_checked(ITEM_HEADER) else { return };
        let (Ok(offset), Ok(length)) = (header[16..24].try_into(), header[28..32].try_into()) else { return };
        found.push(u64::from_ne_bytes(offset));
        buffer = rest.get(u32::from_ne_bytes(length) as usize..).unwrap_or_default();
    }
}

fn enclosure(id: u64) -> u64 {
    1 << LEVEL_SHIFT | id
}

fn limit_group(door: &OwnedFd, group: u64, limit: Limit) -> Result<()> {
    let mut args = sys::QgroupLimit::zeroed();
    args.id = group;
    if limit.exclusive {
        (args.flags, args.max_excl) = (sys::LIMIT_MAX_EXCL, limit.bytes);
    } else {
        (args.flags, args.max_rfer) = (sys::LIMIT_MAX_RFER, limit.bytes);
    }
    sys::ioctl(door, sys::QGROUP_LIMIT, &mut args)
}

fn create_group(door: &OwnedFd, id: u64) -> Result<()> {
    sys::ioctl(door, sys::QGROUP_CREATE, &mut sys::QgroupCreate { create: 1, id })
}

fn remove_group(door: &OwnedFd, id: u64) -> Result<()> {
    sys::ioctl(door, sys::QGROUP_CREATE, &mut sys::QgroupCreate { create: 0, id })
}

fn assign(door: &OwnedFd, source: u64, target: u64, yes: bool) -> Result<()> {
    sys::ioctl(door, sys::QGROUP_ASSIGN, &mut sys::QgroupAssign { assign: yes.into(), source, target })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Subvolume 300 holds 310, which holds 311. 260 is somebody's home, 400 is deleted.
    const PARENTS: [(u64, u64); 4] = [(311, 310), (310, 300), (300, 5), (260, 5)];

    #[test]
    fn a_group_is_ours_by_its_members() {
        let cases: [(&[u64], bool); 9] = [
            (&[300], true),
            (&[300, 310, 311], true),
            (&[300, 400], true),
            (&[], false),
            (&[310], false),
            (&[260, 300], false),
            (&[5, 300], false),
            (&[300, 2 << LEVEL_SHIFT | 7], false),
            (&[300, enclosure(310)], false),
        ];
        for (members, expected) in cases {
            let parent = |id| Ok(PARENTS.iter().find(|known| known.0 == id).map(|known| known.1));
            assert_eq!(is_ours(300, members, parent), Ok(expected), "{members:?}");
        }
    }

    #[test]
    fn items_that_do_not_fit_are_not_read() {
        let item = |offset: u64, length: u32| {
            let mut bytes = vec![0; ITEM_HEADER + 4];
            bytes[16..24].copy_from_slice(&offset.to_ne_bytes());
            bytes[28..32].copy_from_slice(&length.to_ne_bytes());
            bytes
        };
        let mut buffer = item(7, 4);
        buffer.extend(item(9, u32::MAX));
        let mut found = Vec::new();
        item_offsets(&buffer, 100, &mut found);
        assert_eq!(found, [7, 9]);
    }
}
