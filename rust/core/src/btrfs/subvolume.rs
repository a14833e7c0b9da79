//! Subvolumes: create, snapshot, delete.

use super::abi;
use super::open_dir;
use crate::error::{Error, Result, printable};
use crate::resolve::open_beneath;
use crate::sys::{self, Plain};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Nested subvolumes are followed this deep; each level costs a descriptor.
const MAX_DEPTH: usize = 256;

/// A limit that the creating ioctl sets. Under full accounting the kernel ignores it for snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Bytes.
    pub bytes: u64,
    /// What counts is what only this subvolume has (`max_excl`), else all it refers to (`max_rfer`).
    pub exclusive: bool,
}

impl Limit {
    pub(super) fn to_abi(self) -> abi::QgroupLimit {
        let mut limit = abi::QgroupLimit::zeroed();
        if self.exclusive {
            limit.flags = abi::LIMIT_MAX_EXCL;
            limit.max_excl = self.bytes;
        } else {
            limit.flags = abi::LIMIT_MAX_RFER;
            limit.max_rfer = self.bytes;
        }
        limit
    }
}

/// Make an empty subvolume. No commit.
pub fn create(path: &Path) -> Result<()> {
    let (parent, name) = split(path)?;
    let mut args = abi::VolArgsV2::zeroed();
    args.name[..name.len()].copy_from_slice(name);
    sys::ioctl(open_dir(parent)?.as_fd(), abi::SUBVOL_CREATE_V2, &mut args)
        .map_err(|e| Error::io(format!("creating subvolume {}", path.display()), e))
}

/// Make a writable snapshot. One whole commit: whatever was written before is durable when this returns, data of the
/// source included.
pub fn snapshot(source: &Path, path: &Path, limit: Option<Limit>) -> Result<()> {
    let (parent, name) = split(path)?;
    let source_dir = open_dir(source)?;
    let mut args = abi::VolArgsV2::zeroed();
    args.fd = i64::from(source_dir.as_raw_fd());
    args.name[..name.len()].copy_from_slice(name);
    let mut inherit = abi::QgroupInherit::zeroed();
    if let Some(limit) = limit {
        inherit.flags = abi::INHERIT_SET_LIMITS;
        inherit.limit = limit.to_abi();
        args.flags = abi::QGROUP_INHERIT;
        args.inherit_size = size_of::<abi::QgroupInherit>() as u64;
        args.inherit = std::ptr::from_ref(&inherit) as u64;
    }
    sys::ioctl(open_dir(parent)?.as_fd(), abi::SNAP_CREATE_V2, &mut args)
        .map_err(|e| Error::io(format!("snapshot {} {}", source.display(), path.display()), e))
}

/// Whether `path` is the root of a subvolume. False for anything else, for nothing, and for what may not be looked at. A
/// disk that cannot be read is an error: what is unfinished gets removed, and only what is known to be may be.
pub fn is_subvolume(path: &Path) -> Result<bool> {
    let attempt = || -> std::result::Result<bool, Errno> {
        let stat = rustix::fs::lstat(path)?;
        let is_directory = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
        Ok(is_directory && stat.st_ino == abi::FIRST_FREE && i128::from(rustix::fs::statfs(path)?.f_type) == i128::from(super::MAGIC))
    };
    match attempt() {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::NAMETOOLONG) => Ok(false),
        other => other.map_err(|e| Error::io(format!("stat {}", path.display()), e)),
    }
}

/// Id of the subvolume that `path` is in.
pub fn id(path: &Path) -> Result<u64> {
    id_of(open_dir(path)?).map_err(|e| Error::io(format!("subvolume id of {}", path.display()), e))
}

pub(super) fn id_of(dir: impl AsFd) -> std::io::Result<u64> {
    let mut args = abi::InoLookup::zeroed();
    args.object = abi::FIRST_FREE;
    sys::ioctl(dir.as_fd(), abi::INO_LOOKUP, &mut args)?;
    Ok(args.tree)
}

/// Whether the file system of `dir` still has a subvolume with this id; a deleted one counts until the kernel has freed
/// it. Needs `CAP_SYS_ADMIN`.
pub fn exists(dir: &Path, id: u64) -> Result<bool> {
    // Not INO_LOOKUP: for the root directory's inode that answers without looking.
    let mut args = abi::TreeSearch::zeroed();
    args.tree = abi::ROOT_TREE;
    (args.min_object, args.max_object) = (id, id);
    (args.max_offset, args.max_transid) = (u64::MAX, u64::MAX);
    (args.min_type, args.max_type) = (abi::ROOT_ITEM, abi::ROOT_ITEM);
    args.items = 1;
    sys::ioctl(open_dir(dir)?.as_fd(), abi::TREE_SEARCH, &mut args).map_err(|e| Error::io(format!("looking up subvolume {id}"), e))?;
    Ok(args.items > 0)
}

/// Ids of the subvolume and of all nested in it, outermost first.
pub fn ids(path: &Path) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    collect(&open_dir(path)?, MAX_DEPTH, &mut found)?;
    Ok(found)
}

fn collect(dir: &OwnedFd, depth: usize, found: &mut Vec<u64>) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
    found.push(id_of(dir).map_err(|e| Error::io("subvolume id", e))?);
    for (parent, name) in children(dir)? {
        collect(&open_child(&parent, &name)?, depth, found)?;
    }
    Ok(())
}

/// Delete a subvolume and those nested in it, innermost first. Missing is fine. No commit; the kernel frees the space
/// later.
///
/// Nested ones are found by their ids (not by comparing paths, contract, defect 21) and reached through the subvolume's
/// own descriptor, so nothing outside can be named.
pub fn delete(path: &Path) -> Result<()> {
    let (parent, name) = split(path)?;
    let parent_dir = match open_dir(parent) {
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(()),
        other => other?,
    };
    delete_below(&parent_dir, name, MAX_DEPTH)
}

fn delete_below(parent: &OwnedFd, name: &[u8], depth: usize) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
    match destroy(parent, name) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY) => {}
        Err(Errno::ROFS) => {
            set_writable(&open_child(parent, name)?)?;
            return delete_below(parent, name, depth);
        }
        other => return other.map_err(|e| destroy_error(name, e)),
    }
    for (dir, nested) in children(&open_child(parent, name)?)? {
        delete_below(&dir, &nested, depth)?;
    }
    match destroy(parent, name) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(destroy_error(name, error)),
    }
}

fn destroy(parent: &OwnedFd, name: &[u8]) -> std::result::Result<(), Errno> {
    let mut args = abi::VolArgs::zeroed();
    args.name[..name.len()].copy_from_slice(name);
    match sys::ioctl(parent.as_fd(), abi::SNAP_DESTROY, &mut args) {
        Ok(()) => Ok(()),
        Err(error) => match Errno::from_io_error(&error) {
            // Without `user_subvol_rm_allowed` an owner may still remove an empty one (since Linux 4.18).
            Some(Errno::PERM) => rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(|_| Errno::PERM),
            Some(errno) => Err(errno),
            None => Err(Errno::IO),
        },
    }
}

fn destroy_error(name: &[u8], error: Errno) -> Error {
    Error::io(format!("deleting subvolume `{}`", printable(name)), error)
}

fn set_writable(dir: &OwnedFd) -> Result<()> {
    let context = |e| Error::io("clearing the read-only flag", e);
    let mut flags = abi::Flags::zeroed();
    sys::ioctl(dir.as_fd(), abi::SUBVOL_GETFLAGS, &mut flags).map_err(context)?;
    flags.bits &= !abi::SUBVOL_RDONLY;
    sys::ioctl(dir.as_fd(), abi::SUBVOL_SETFLAGS, &mut flags).map_err(context)
}

/// Subvolumes that lie below the directory `path` in the subvolume it belongs to, as paths relative to it. Those nested in
/// others of them, and those where the caller may not walk, are not among them.
pub fn list_below(path: &Path) -> Result<Vec<Vec<u8>>> {
    let dir = open_dir(path)?;
    // The kernel says the same of what lies elsewhere in the subvolume and of what may not be seen.
    Ok(nested(&dir, &[libc::ENOENT, libc::EACCES])?
        .into_iter()
        .map(|(holder, name)| if holder.is_empty() { name } else { [holder, name].join(&b'/') })
        .collect())
}

/// Subvolumes directly nested in `dir`, each as (directory that holds it, name).
fn children(dir: &OwnedFd) -> Result<Vec<(OwnedFd, Vec<u8>)>> {
    nested(dir, &[])?
        .into_iter()
        .map(|(path, name)| {
            let holder = if path.is_empty() { dir.try_clone().map_err(|e| Error::io("dup", e))? } else { open_child(dir, &path)? };
            Ok((holder, name))
        })
        .collect()
}

/// Subvolumes directly nested in the subvolume of `dir` and below `dir`, each as (path of the directory that holds it, name).
/// Those whose look-up fails with one of the error numbers `without` are left out.
fn nested(dir: &OwnedFd, without: &[i32]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut min_tree = 0;
    loop {
        let mut refs = abi::RootRefs::zeroed();
        refs.min_tree = min_tree;
        let more = match sys::ioctl(dir.as_fd(), abi::GET_SUBVOL_ROOTREF, &mut refs) {
            Ok(()) => false,
            // The array is full and there are more.
            Err(error) if error.raw_os_error() == Some(libc::EOVERFLOW) => true,
            Err(error) => return Err(Error::io("listing nested subvolumes", error)),
        };
        for reference in refs.found() {
            let mut lookup = abi::InoLookupUser::zeroed();
            (lookup.dir, lookup.tree) = (reference.dir, reference.tree);
            match sys::ioctl(dir.as_fd(), abi::INO_LOOKUP_USER, &mut lookup) {
                Ok(()) => {}
                Err(error) if error.raw_os_error().is_some_and(|errno| without.contains(&errno)) => continue,
                Err(error) => return Err(Error::io("looking up a nested subvolume", error)),
            }
            let (path, name) = lookup.place().ok_or_else(|| Error::io("looking up a nested subvolume", Errno::UCLEAN))?;
            found.push((path.strip_suffix(b"/").unwrap_or(path).to_vec(), name.to_vec()));
        }
        if !more {
            return Ok(found);
        }
        min_tree = refs.next_tree(min_tree).ok_or_else(|| Error::io("listing nested subvolumes", Errno::UCLEAN))?;
    }
}

/// Open a directory below `dir` by a path that may not leave it.
fn open_child(dir: &OwnedFd, path: &[u8]) -> Result<OwnedFd> {
    open_beneath(dir, path).map_err(|e| Error::io(format!("open `{}`", printable(path)), e))
}

fn too_deep() -> Error {
    Error::Limit(format!("subvolumes nested deeper than {MAX_DEPTH} levels"))
}

/// Parent directory and last component. The kernel takes names up to 255 bytes, and no `/` in them.
fn split(path: &Path) -> Result<(&Path, &[u8])> {
    let name = path.file_name().map(OsStr::as_bytes).filter(|name| name.len() <= 255);
    let name = name.ok_or_else(|| Error::io(format!("{}", path.display()), Errno::NAMETOOLONG))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    Ok((parent, name))
}
