//! Subvolumes: create, snapshot, their numbers, and those nested in another.

use crate::abi;
use crate::sys::{self, Plain};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A limit that the creating ioctl sets. Under full accounting the kernel ignores it for snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Bytes.
    pub bytes: u64,
    /// What counts is what only this subvolume has (`max_excl`), else all it refers to (`max_rfer`).
    pub exclusive: bool,
}

impl Limit {
    pub(crate) fn to_abi(self) -> abi::QgroupLimit {
        let mut limit = abi::QgroupLimit::zeroed();
        if self.exclusive {
            (limit.flags, limit.max_excl) = (abi::LIMIT_MAX_EXCL, self.bytes);
        } else {
            (limit.flags, limit.max_rfer) = (abi::LIMIT_MAX_RFER, self.bytes);
        }
        limit
    }
}

/// Bytes in the name of a subvolume, at most.
const MAX_NAME: usize = 255;

fn put_name(field: &mut [u8], name: &[u8]) -> Result<()> {
    if name.len() > MAX_NAME {
        return Err(Errno::NAMETOOLONG);
    }
    if name.contains(&b'/') || matches!(name, b"" | b"." | b"..") {
        return Err(Errno::INVAL);
    }
    field[..name.len()].copy_from_slice(name);
    Ok(())
}

/// Make an empty subvolume `name` in the directory `parent`. No commit. Under simple accounting one without a `limit` of its own
/// joins the level-1 groups of the subvolume that it is made in.
pub fn create(parent: impl AsFd, name: &[u8], limit: Option<Limit>) -> Result<()> {
    let mut args = abi::VolArgsV2::zeroed();
    put_name(&mut args.name, name)?;
    make(parent, abi::SUBVOL_CREATE_V2, args, limit)
}

/// Make a writable snapshot of `source` as `name` in the directory `parent`. One whole commit: whatever was written before is
/// durable when this returns, data of the source included.
pub fn snapshot(source: impl AsFd, parent: impl AsFd, name: &[u8], limit: Option<Limit>) -> Result<()> {
    let mut args = abi::VolArgsV2::zeroed();
    args.fd = i64::from(source.as_fd().as_raw_fd());
    put_name(&mut args.name, name)?;
    make(parent, abi::SNAP_CREATE_V2, args, limit)
}

fn make(parent: impl AsFd, request: u32, mut args: abi::VolArgsV2, limit: Option<Limit>) -> Result<()> {
    let mut inherit = abi::QgroupInherit::zeroed();
    if let Some(limit) = limit {
        inherit.flags = abi::INHERIT_SET_LIMITS;
        inherit.limit = limit.to_abi();
        args.flags = abi::QGROUP_INHERIT;
        args.inherit_size = size_of::<abi::QgroupInherit>() as u64;
        args.inherit = std::ptr::from_ref(&inherit) as u64;
    }
    sys::ioctl(parent, request, &mut args)
}

/// Whether the subvolume of `dir` was made as a snapshot of that of `source`.
pub fn is_snapshot_of(dir: impl AsFd, source: impl AsFd) -> Result<bool> {
    let info = |dir: BorrowedFd<'_>| -> Result<abi::SubvolumeInfo> {
        let mut info = abi::SubvolumeInfo::zeroed();
        sys::ioctl(dir, abi::GET_SUBVOL_INFO, &mut info)?;
        Ok(info)
    };
    Ok(info(dir.as_fd())?.parent_uuid == info(source.as_fd())?.uuid)
}

/// Whether this could be the root of a subvolume; whether it is on BTRFS, its descriptor says.
#[must_use]
pub fn looks_like_root(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory && stat.st_ino == abi::FIRST_FREE
}

/// Whether `name` in the directory `parent` is the root of a subvolume. False for anything else, for nothing, and for what
/// may not be looked at. A disk that cannot be read is an error: what is unfinished gets removed, and only what is known to
/// be may be.
pub fn is_subvolume(parent: impl AsFd, name: &[u8]) -> Result<bool> {
    let attempt = || -> Result<bool> {
        if !looks_like_root(&rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?) {
            return Ok(false);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        // On the same mount: what is mounted there is somebody else's.
        Ok(looks_like_root(&rustix::fs::fstat(&found)?) && crate::is_btrfs(&found)? && !is_mount(&parent, name)?)
    };
    match attempt() {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::NAMETOOLONG) => Ok(false),
        other => other,
    }
}

/// Whether something is mounted on `name`.
pub fn is_mount(parent: impl AsFd, name: &[u8]) -> Result<bool> {
    let flags = rustix::fs::StatxFlags::empty();
    let seen = rustix::fs::statx(parent, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, flags)?;
    Ok(seen.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
}

/// Number of the subvolume that the directory `dir` is in.
pub fn id_of(dir: impl AsFd) -> Result<u64> {
    let mut args = abi::InoLookup::zeroed();
    args.object = abi::FIRST_FREE;
    sys::ioctl(dir, abi::INO_LOOKUP, &mut args)?;
    Ok(args.tree)
}

/// Whether the kernel still has to free what deleted subvolumes of this file system held. Needs `CAP_SYS_ADMIN`.
pub fn has_deleted(dir: impl AsFd) -> Result<bool> {
    let mut found = Vec::new();
    search_some(dir, abi::ROOT_TREE, (abi::ORPHANS, abi::ORPHAN_ITEM, 0..=u64::MAX), &mut found)?;
    Ok(!found.is_empty())
}

/// Whether the file system of `dir` still has a subvolume with this number; a deleted one counts until the kernel has freed
/// it. Needs `CAP_SYS_ADMIN`.
pub fn exists(dir: impl AsFd, id: u64) -> Result<bool> {
    // Not INO_LOOKUP: for the root directory's inode that answers without looking. The key's third part is 0, or the number of
    // the transaction for a snapshot.
    Ok(!search(dir, abi::ROOT_TREE, id, abi::ROOT_ITEM)?.is_empty())
}

/// Whether the subvolume of `dir` is read-only; if so it is made writable. Gives whether it was.
pub(crate) fn make_writable(dir: impl AsFd) -> Result<bool> {
    let mut flags = abi::Flags::zeroed();
    sys::ioctl(&dir, abi::SUBVOL_GETFLAGS, &mut flags)?;
    if flags.bits & abi::SUBVOL_RDONLY == 0 {
        return Ok(false);
    }
    flags.bits &= !abi::SUBVOL_RDONLY;
    sys::ioctl(dir, abi::SUBVOL_SETFLAGS, &mut flags)?;
    Ok(true)
}

/// A subvolume that lies in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nested {
    /// Its number.
    pub id: u64,
    /// Path of the directory that holds it, from the directory that was asked about (empty for that itself).
    pub holder: Vec<u8>,
    /// Its name in there.
    pub name: Vec<u8>,
}

impl Nested {
    /// The whole path.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        if self.holder.is_empty() { self.name.clone() } else { [&self.holder[..], &self.name[..]].join(&b'/') }
    }
}

/// Subvolumes directly nested in the subvolume of `dir` and below `dir`. Those whose look-up fails with one of `without` are
/// left out: the kernel says ENOENT of what lies elsewhere in the subvolume, EACCES of what may not be seen. No privilege.
pub fn nested(dir: impl AsFd, without: &[Errno]) -> Result<Vec<Nested>> {
    let mut found = Vec::new();
    let mut min_tree = 0;
    loop {
        let mut refs = abi::RootRefs::zeroed();
        refs.min_tree = min_tree;
        let more = match sys::ioctl(&dir, abi::GET_SUBVOL_ROOTREF, &mut refs) {
            Ok(()) => false,
            // The array is full and there are more.
            Err(Errno::OVERFLOW) => true,
            Err(error) => return Err(error),
        };
        for reference in refs.found() {
            let mut lookup = abi::InoLookupUser::zeroed();
            (lookup.dir, lookup.tree) = (reference.dir, reference.tree);
            match sys::ioctl(&dir, abi::INO_LOOKUP_USER, &mut lookup) {
                Ok(()) => {}
                Err(error) if without.contains(&error) => continue,
                Err(error) => return Err(error),
            }
            let (path, name) = lookup.place().ok_or(Errno::UCLEAN)?;
            let holder = path.strip_suffix(b"/").unwrap_or(path).to_vec();
            found.push(Nested { id: reference.tree, holder, name: name.to_vec() });
        }
        if !more {
            return Ok(found);
        }
        min_tree = refs.next_tree(min_tree).ok_or(Errno::UCLEAN)?;
    }
}

/// Subvolume `id` and all nested in it by the numbers in the root tree, each after the one that holds it. Paths play no part,
/// so neither their length nor the depth is bounded by anything. Needs `CAP_SYS_ADMIN`.
pub fn descendants(dir: impl AsFd, id: u64) -> Result<Vec<u64>> {
    let mut found = vec![id];
    let mut at = 0;
    while let Some(&holder) = found.get(at) {
        found.extend(search(&dir, abi::ROOT_TREE, holder, abi::ROOT_REF)?.into_iter().map(|item| item.offset));
        at += 1;
    }
    Ok(found)
}

/// The root directory of subvolume `id`, by number. Needs `CAP_SYS_ADMIN` and `CAP_DAC_READ_SEARCH`.
pub(crate) fn open_by_id(dir: impl AsFd, id: u64) -> Result<OwnedFd> {
    let inode = search(&dir, id, abi::FIRST_FREE, abi::INODE_ITEM)?;
    let generation = inode.first().and_then(|item| item.data.first_chunk()).ok_or(Errno::NOENT)?;
    sys::open_subvolume(dir, id, abi::FIRST_FREE, u64::from_le_bytes(*generation) as u32)
}

/// The directory that holds subvolume `id`, by number, and the name in it. Needs `CAP_SYS_ADMIN` and `CAP_DAC_READ_SEARCH`.
pub(crate) fn holder_of(dir: impl AsFd, id: u64) -> Result<(OwnedFd, Vec<u8>)> {
    let back = search(&dir, abi::ROOT_TREE, id, abi::ROOT_BACKREF)?;
    let back = back.first().ok_or(Errno::NOENT)?;
    // `struct btrfs_root_ref`: the directory's inode number, a sequence number, the length of the name; then the name.
    let inode = u64::from_le_bytes(*back.data.first_chunk().ok_or(Errno::UCLEAN)?);
    let name = back.data.get(18..).ok_or(Errno::UCLEAN)?.to_vec();
    let item = search(&dir, back.offset, inode, abi::INODE_ITEM)?;
    let generation = item.first().and_then(|item| item.data.first_chunk()).ok_or(Errno::NOENT)?;
    let holder = sys::open_subvolume(dir, back.offset, inode, u64::from_le_bytes(*generation) as u32)?;
    Ok((holder, name))
}

/// The number of the subvolume that is mounted where none is named (`btrfs subvolume set-default`); None for the top level. Needs
/// `CAP_SYS_ADMIN`.
pub(crate) fn default_id(dir: impl AsFd) -> Result<Option<u64>> {
    let entries = search(dir, abi::ROOT_TREE, abi::ROOT_TREE_DIR, abi::DIR_ITEM)?;
    // Its only entry is `default`; `struct btrfs_dir_item` begins with the key it points to.
    let id = entries.first().and_then(|item| item.data.first_chunk()).map(|bytes| u64::from_le_bytes(*bytes));
    Ok(id.filter(|&id| id >= abi::FIRST_FREE))
}

/// Third part of an item's key, and the item.
pub(crate) struct Item {
    pub offset: u64,
    pub data: Vec<u8>,
}

/// All items of a tree whose keys begin with `object` and `kind`. Needs `CAP_SYS_ADMIN`.
pub(crate) fn search(dir: impl AsFd, tree: u64, object: u64, kind: u32) -> Result<Vec<Item>> {
    let mut found: Vec<Item> = Vec::new();
    let mut from = 0;
    loop {
        let before = found.len();
        search_some(&dir, tree, (object, kind, from..=u64::MAX), &mut found)?;
        match found.last() {
            Some(last) if found.len() > before && last.offset < u64::MAX => from = last.offset + 1,
            _ => return Ok(found),
        }
    }
}

/// The item with exactly this key. Needs `CAP_SYS_ADMIN`.
pub(crate) fn search_one(dir: impl AsFd, tree: u64, object: u64, kind: u32, offset: u64) -> Result<Option<Vec<u8>>> {
    let mut found = Vec::new();
    search_some(dir, tree, (object, kind, offset..=offset), &mut found)?;
    Ok(found.into_iter().next().map(|item| item.data))
}

type Keys = (u64, u32, std::ops::RangeInclusive<u64>);

/// As many items as one call gives.
fn search_some(dir: impl AsFd, tree: u64, (object, kind, offsets): Keys, found: &mut Vec<Item>) -> Result<()> {
    let mut search = abi::TreeSearch::zeroed();
    search.tree = tree;
    (search.min_object, search.max_object) = (object, object);
    (search.min_type, search.max_type) = (kind, kind);
    (search.min_offset, search.max_offset) = offsets.into_inner();
    search.max_transid = u64::MAX;
    search.items = u32::MAX;
    sys::ioctl(dir, abi::TREE_SEARCH, &mut search)?;
    read_items(&search.buffer, search.items, found);
    Ok(())
}

/// Bytes before the data of each item that a search gives: transid, object, offset, type (4), length (4).
const ITEM_HEADER: usize = 32;

/// Read what a search gave. An item that does not fit ends it.
fn read_items(mut buffer: &[u8], items: u32, found: &mut Vec<Item>) {
    for _ in 0..items {
        let Some((header, rest)) = buffer.split_at_checked(ITEM_HEADER) else { return };
        let (Ok(offset), Ok(length)) = (header[16..24].try_into(), header[28..32].try_into()) else { return };
        let Some((data, rest)) = rest.split_at_checked(u32::from_ne_bytes(length) as usize) else { return };
        found.push(Item { offset: u64::from_ne_bytes(offset), data: data.to_vec() });
        buffer = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        read_items(&buffer, 100, &mut found);
        assert_eq!(found.iter().map(|item| item.offset).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        let mut field = [0; 4088];
        for name in [&b""[..], b".", b"..", b"a/b"] {
            assert_eq!(put_name(&mut field, name), Err(Errno::INVAL));
        }
        assert_eq!(put_name(&mut field, &[b'x'; 256]), Err(Errno::NAMETOOLONG));
        assert_eq!(put_name(&mut field, b"x"), Ok(()));
    }
}
