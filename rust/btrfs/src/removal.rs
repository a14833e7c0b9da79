//! Remove subvolumes and trees, whatever was made inside: any depth, any number, any length of paths, read-only subvolumes,
//! immutable files.
//!
//! Nothing here recurses or keeps a descriptor per level, and nothing is reached by a path of more than one name. Root finds
//! nested subvolumes by their numbers (`subvolume::descendants`); their owner, who may not search the root tree, walks from
//! one to the next.

use crate::abi;
use crate::open_below;
use crate::subvolume::{self, Nested};
use crate::sys::{self, Plain};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, Result};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Levels of an ordinary tree that are open at once. What lies deeper is moved up.
const MAX_OPEN: usize = 64;
/// Names that are read from a directory at once.
const BATCH: usize = 1024;
/// How often what a process in the tree makes anew meanwhile is looked for.
const ROUNDS: usize = 1000;

/// Something that could not be removed.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where, from what was to be removed; empty for that itself.
    pub place: Vec<u8>,
    /// What the kernel said.
    pub errno: Errno,
    /// Why, where we know more than the kernel says.
    pub reason: Option<&'static str>,
    /// What helps.
    pub cure: Option<&'static str>,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { place: Vec::new(), errno, reason: None, cure: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "`{}`: ", String::from_utf8_lossy(&self.place).escape_debug())?;
        }
        match self.reason {
            Some(reason) => f.write_str(reason),
            None => write!(f, "{}", self.errno),
        }
    }
}

/// Remove the subvolume `name` in the directory `parent`, with those nested in it. Gives the numbers of all that went, for who
/// wants to wait until their space is free. Missing is fine. No commit; the kernel frees the space later.
pub fn remove_subvolume(parent: impl AsFd, name: &[u8]) -> std::result::Result<Vec<u64>, Refusal> {
    let parent = parent.as_fd();
    let dir = match open_below(parent, name) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        // Whoever may not look into it may still remove it, if it is empty of others.
        Err(Errno::ACCESS) => return destroy(parent, name).map(|()| Vec::new()).map_err(Refusal::from),
        other => other?,
    };
    let id = subvolume::id_of(&dir)?;
    match destroy(parent, name) {
        Ok(()) | Err(Errno::NOENT) => return Ok(vec![id]),
        Err(Errno::NOTEMPTY | Errno::ROFS | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match subvolume::descendants(parent, id) {
        Ok(ids) => {
            remove_by_numbers(parent, &ids)?;
            Ok(ids)
        }
        Err(Errno::PERM) => {
            let mut ids = vec![id];
            remove_by_walking(parent, name, &mut ids)?;
            Ok(ids)
        }
        Err(error) => Err(error.into()),
    }
}

/// As root: `ids` are a subvolume and those in it, each after its holder.
fn remove_by_numbers(dir: BorrowedFd<'_>, ids: &[u64]) -> std::result::Result<(), Refusal> {
    for &id in ids {
        // Before any of them goes: an entry cannot be taken out of a read-only subvolume.
        match subvolume::open_by_id(dir, id).and_then(|root| subvolume::make_writable(&root)) {
            Ok(_) | Err(Errno::NOENT | Errno::STALE) => {}
            Err(error) => return Err(refusal_of(dir, id, error)),
        }
    }
    for &id in ids.iter().rev() {
        let mut result = destroy_by_id(dir, id);
        if result == Err(Errno::PERM) {
            // An immutable or append-only directory: the subvolume's own, or the one that holds it.
            for held in [subvolume::open_by_id(dir, id), subvolume::open_holder(dir, id)] {
                let _ = held.and_then(|inode| clear_flags(&inode));
            }
            result = destroy_by_id(dir, id);
        }
        match result {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(refusal_of(dir, id, error)),
        }
    }
    Ok(())
}

/// Say of subvolume `id` what it is that the kernel refuses.
fn refusal_of(dir: BorrowedFd<'_>, id: u64, errno: Errno) -> Refusal {
    let mut refusal = Refusal { place: format!("subvolume {id}").into_bytes(), ..Refusal::from(errno) };
    if matches!(errno, Errno::PERM | Errno::TXTBSY) {
        (refusal.reason, refusal.cure) = if subvolume::is_default(dir, id) == Ok(true) {
            (
                Some("it is the default subvolume of the file system"),
                Some("`btrfs subvolume set-default 5 <mount point>` makes the top level the default again"),
            )
        } else {
            (
                Some("the kernel does not let it go: a swap file in it may be active"),
                Some("`swapon --show` lists swap files, `swapoff` ends one"),
            )
        };
    } else if errno == Errno::BUSY {
        refusal.reason = Some("something is mounted on it");
        refusal.cure = Some("unmount it and try again");
    }
    refusal
}

/// As the owner: take the first subvolume that has none inside, again and again.
fn remove_by_walking(parent: BorrowedFd<'_>, name: &[u8], ids: &mut Vec<u64>) -> std::result::Result<(), Refusal> {
    loop {
        let mut at = match open_below(parent, name) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        let _ = subvolume::make_writable(&at);
        let mut place = Vec::new();
        let mut went = false;
        loop {
            let inside = subvolume::nested(&at, &[])?;
            if inside.is_empty() {
                break;
            }
            let mut deeper = None;
            for Nested { id, holder, name } in inside {
                let dir = if holder.is_empty() { at.try_clone().map_err(|_| Errno::MFILE)? } else { open_below(&at, &holder)? };
                let child = open_below(dir.as_fd(), &name)?;
                let _ = subvolume::make_writable(&child);
                match destroy(dir.as_fd(), &name) {
                    Ok(()) | Err(Errno::NOENT) => {
                        ids.push(id);
                        went = true;
                    }
                    Err(Errno::NOTEMPTY) if deeper.is_none() => deeper = Some((child, name)),
                    Err(Errno::NOTEMPTY) => {}
                    Err(errno) => {
                        place.push(name);
                        return Err(Refusal { place: place.join(&b'/'), ..Refusal::from(errno) });
                    }
                }
            }
            match deeper {
                Some((child, name)) => {
                    at = child;
                    place.push(name);
                }
                None => break,
            }
        }
        match destroy(parent, name) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY) if went => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn destroy(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let mut args = abi::VolArgs::zeroed();
    if name.len() > 255 || name.contains(&b'/') {
        return Err(Errno::INVAL);
    }
    args.name[..name.len()].copy_from_slice(name);
    match sys::ioctl(parent, abi::SNAP_DESTROY, &mut args) {
        // Without `user_subvol_rm_allowed` an owner may still remove an empty one (since Linux 4.18).
        Err(Errno::PERM) => rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(|_| Errno::PERM),
        other => other,
    }
}

fn destroy_by_id(dir: BorrowedFd<'_>, id: u64) -> Result<()> {
    let mut args = abi::DestroyById::zeroed();
    args.flags = abi::SPEC_BY_ID;
    args.id = id;
    sys::ioctl(dir, abi::SNAP_DESTROY_V2, &mut args)
}

/// Take immutable and append-only off. Needs `CAP_LINUX_IMMUTABLE`.
fn clear_flags(inode: impl AsFd) -> Result<()> {
    let flags = sys::inode_flags(&inode)?;
    if flags & (abi::IMMUTABLE | abi::APPEND) == 0 {
        return Err(Errno::PERM);
    }
    sys::set_inode_flags(inode, flags & !(abi::IMMUTABLE | abi::APPEND))
}

/// One directory of a tree that is being removed.
struct Level {
    dir: OwnedFd,
    /// Its name in the level above.
    name: Vec<u8>,
    /// What is still to go.
    names: Vec<Vec<u8>>,
    /// Times that it was read.
    rounds: usize,
}

/// Remove `name` in the directory `parent`: a file, a subvolume, or a directory with all in it. Gives the numbers of the
/// subvolumes that went. Missing is fine.
pub fn remove_entry(parent: impl AsFd, name: &[u8]) -> std::result::Result<Vec<u64>, Refusal> {
    let mut tree = Tree { parent: parent.as_fd(), levels: Vec::new(), ids: Vec::new(), moved: 0 };
    tree.take(name).map_err(|error| tree.placed(name, error))?;
    while let Some(level) = tree.levels.last_mut() {
        if let Some(name) = level.names.pop() {
            tree.take(&name).map_err(|error| tree.placed(&name, error))?;
            continue;
        }
        level.rounds += 1;
        level.names = if level.rounds > ROUNDS { Vec::new() } else { names_in(&level.dir)? };
        if level.names.is_empty() {
            let name = std::mem::take(&mut level.name);
            tree.levels.pop();
            match tree.unlink(&name, AtFlags::REMOVEDIR) {
                // Somebody is at work in it.
                Err(Errno::NOTEMPTY) => return Err(tree.placed(&name, Errno::NOTEMPTY.into())),
                other => other.map_err(|error| tree.placed(&name, error.into()))?,
            }
        }
    }
    Ok(tree.ids)
}

fn names_in(dir: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(&name[..], b"." | b"..") {
            found.push(name);
            if found.len() == BATCH {
                break;
            }
        }
    }
    Ok(found)
}

struct Tree<'a> {
    parent: BorrowedFd<'a>,
    levels: Vec<Level>,
    ids: Vec<u64>,
    /// How many directories were moved up.
    moved: u64,
}

impl Tree<'_> {
    fn dir(&self) -> BorrowedFd<'_> {
        self.levels.last().map_or(self.parent, |level| level.dir.as_fd())
    }

    /// Remove one entry of the innermost level, or go into it.
    fn take(&mut self, name: &[u8]) -> std::result::Result<(), Refusal> {
        let stat = match rustix::fs::statat(self.dir(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(self.unlink(name, AtFlags::empty())?);
        }
        if subvolume::is_subvolume(self.dir(), name)? {
            let ids = remove_subvolume(self.dir(), name)?;
            self.ids.extend(ids);
            return Ok(());
        }
        match self.unlink(name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            other => return Ok(other?),
        }
        if self.levels.len() < MAX_OPEN {
            let dir = self.enter(name)?;
            self.levels.push(Level { dir, name: name.to_vec(), names: Vec::new(), rounds: 0 });
            return Ok(());
        }
        // Too many levels to keep open: hang it into the topmost one, which is read again until nothing is left in it.
        self.moved += 1;
        let fresh = format!(".removed-{}-{}", std::process::id(), self.moved);
        let top = &self.levels[0].dir;
        Ok(rustix::fs::renameat_with(self.dir(), name, top, &fresh[..], RenameFlags::NOREPLACE)?)
    }

    /// Open a directory to empty it; its owner may have made it unreadable for itself.
    fn enter(&self, name: &[u8]) -> Result<OwnedFd> {
        let open = || open_below(self.dir(), name);
        let dir = match open() {
            Err(Errno::ACCESS) => {
                // By a descriptor: a path would be followed, and a link may stand there by now.
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let held = rustix::fs::openat(self.dir(), name, flags, Mode::empty())?;
                let _ = rustix::fs::chmod(format!("/proc/self/fd/{}", held.as_raw_fd()), Mode::RWXU);
                open()?
            }
            other => other?,
        };
        // Names cannot be taken out of it otherwise. For who may do anything it makes no difference.
        if !rustix::process::geteuid().is_root() {
            let _ = rustix::fs::fchmod(&dir, Mode::RWXU);
        }
        Ok(dir)
    }

    fn unlink(&self, name: &[u8], flags: AtFlags) -> Result<()> {
        let attempt = || match rustix::fs::unlinkat(self.dir(), name, flags) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        };
        match attempt() {
            Err(Errno::PERM) => {
                // Only files and directories have such flags, and of others opening one may have an effect.
                let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let mode = rustix::fs::statat(self.dir(), name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
                if matches!(FileType::from_raw_mode(mode), FileType::RegularFile | FileType::Directory) {
                    let _ = rustix::fs::openat(self.dir(), name, open, Mode::empty()).and_then(clear_flags);
                }
                let _ = clear_flags(self.dir());
                attempt()
            }
            other => other,
        }
    }

    /// The refusal with the whole path to what it is about.
    fn placed(&self, name: &[u8], mut refusal: Refusal) -> Refusal {
        let mut parts: Vec<&[u8]> = self.levels.iter().map(|level| &level.name[..]).collect();
        parts.push(name);
        if !refusal.place.is_empty() {
            parts.push(&refusal.place);
        }
        let mut place = parts.join(&b'/');
        place.truncate(PLACE_BYTES);
        refusal.place = place;
        if refusal.errno == Errno::BUSY {
            refusal.reason.get_or_insert("something is mounted on it");
            refusal.cure.get_or_insert("unmount it and try again");
        }
        refusal
    }
}

/// Bytes of a place that a message has, at most.
const PLACE_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, crate::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn a_tree_of_any_depth_goes_and_what_links_point_to_stays() {
        let top = tempfile::tempdir().unwrap();
        let sentinel = top.path().join("sentinel");
        std::fs::create_dir(&sentinel).unwrap();
        std::fs::write(sentinel.join("file"), "x").unwrap();
        std::fs::create_dir(top.path().join("tree")).unwrap();
        let mut at = open(&top.path().join("tree"));
        for depth in 0..1500 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat("/", &at, "link").unwrap();
            std::mem::drop(rustix::fs::openat(&at, format!("f{depth}"), OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
            at = open_below(&at, b"d").unwrap();
        }
        symlink(&sentinel, top.path().join("tree/sentinel")).unwrap();
        assert_eq!(remove_entry(open(top.path()), b"tree"), Ok(Vec::new()));
        assert!(!top.path().join("tree").exists());
        assert!(sentinel.join("file").exists());
        assert_eq!(remove_entry(open(top.path()), b"tree"), Ok(Vec::new()));
    }

    #[test]
    fn a_wide_directory_goes() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("tree")).unwrap();
        for i in 0..3 * BATCH {
            std::fs::write(top.path().join(format!("tree/{i}")), "").unwrap();
        }
        assert_eq!(remove_entry(open(top.path()), b"tree"), Ok(Vec::new()));
    }

    #[test]
    fn a_place_is_said_in_one_line() {
        let refusal = Refusal { place: b"a\n\xff/b".to_vec(), ..Refusal::from(Errno::BUSY) };
        assert!(!refusal.to_string().contains('\n'));
    }
}
