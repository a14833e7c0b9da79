//! Directories by descriptor.
//!
//! Names are resolved by the kernel: a component below its parent's descriptor, without following links; a link
//! through `openat2` with `RESOLVE_IN_ROOT`, so that absolute targets and `..` stay below the volume whatever another
//! process does to the tree meanwhile. The descriptors of the last path are kept, because archives are sorted.

use crate::error::{Error, Result, printable};
use crate::listing::{Attributes, Listing, Step};
use crate::resolve::{DIRECTORY, open_beneath, open_in_root};
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// Links followed on the way to a parent that does not exist yet, as many as the kernel follows itself.
const MAX_LINKS: u32 = 40;

/// Time of a directory that nothing describes: two unpacks of one layer must not differ.
const EPOCH: rustix::fs::Timespec = rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 };

/// An open directory of the tree.
#[derive(Debug)]
pub(super) struct Dir {
    pub fd: OwnedFd,
    pub ino: u64,
    /// New children take the directory's group instead of ours (setgid).
    pub gives_group: Cell<bool>,
    /// Some link was followed on the way here, so the way may lead elsewhere later.
    pub by_link: bool,
}

impl Dir {
    pub(super) fn new(fd: OwnedFd) -> Result<(Self, rustix::fs::Stat)> {
        let stat = rustix::fs::fstat(&fd).map_err(|e| Error::io("stat", e))?;
        let gives_group = Cell::new(stat.st_mode & 0o2000 != 0);
        Ok((Self { fd, ino: stat.st_ino, gives_group, by_link: false }, stat))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a directory gets at the end, when nothing is written into it any more.
#[derive(Debug)]
pub(super) struct Owed {
    pub path: Vec<u8>,
    pub mtime: rustix::fs::Timespec,
    /// Final mode where it could not be set at once (we could not have entered the directory).
    pub mode: Option<u32>,
}

/// The directories of one volume, and what this layer did to them.
pub(super) struct Dirs {
    root: Rc<Dir>,
    /// The last path: name and directory of each level below the root.
    stack: Vec<(Vec<u8>, Rc<Dir>)>,
    /// Names this layer made, as hashes of (directory inode, name). Keyed by inode so that a name reached through a
    /// link counts too; 64 bits because a million paths would cost more memory than the whole unpacking.
    made: HashSet<u64>,
    hasher: RandomState,
    /// Directories that hold something of this layer, by inode.
    entered: HashSet<u64>,
    owed: HashMap<u64, Owed>,
    /// Owner of parents that the archive leaves out.
    owner: (u32, u32),
    /// Owner of what we create. Asked once: three calls a file are enough without it.
    ours: (u32, u32),
    max_depth: usize,
    listing: Option<Listing>,
}

impl Dirs {
    pub(super) fn new(root: OwnedFd, owner: (u32, u32), max_depth: usize, listing: Option<Listing>) -> Result<Self> {
        let (root, stat) = Dir::new(root)?;
        let mut dirs = Self {
            root: Rc::new(root),
            stack: Vec::new(),
            made: HashSet::new(),
            hasher: RandomState::new(),
            entered: HashSet::new(),
            owed: HashMap::new(),
            owner,
            ours: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            max_depth,
            listing,
        };
        dirs.note(&Step::Root(stat.st_ino))?;
        dirs.entered.insert(stat.st_ino);
        dirs.owe_time(Vec::new(), &stat);
        Ok(dirs)
    }

    /// Say in the listing, where one is wanted, what was done.
    pub(super) fn note(&mut self, step: &Step<'_>) -> Result<()> {
        self.listing.as_mut().map_or(Ok(()), |listing| listing.add(step))
    }

    /// Everything is done: write the listing.
    pub(super) fn write_listing(&mut self) -> Result<()> {
        self.listing.take().map_or(Ok(()), Listing::write)
    }

    pub(super) fn root(&self) -> Rc<Dir> {
        Rc::clone(&self.root)
    }

    /// Owner of directories that the archive does not describe.
    pub(super) fn owner(&self) -> (u32, u32) {
        self.owner
    }

    /// Whether something just made has this owner already: we create as ourselves, except below a setgid directory.
    pub(super) fn gives_owner(&self, owner: (u32, u32), group_given: bool) -> bool {
        owner == self.ours && !group_given
    }

    /// Change the owner where creating did not already give it.
    pub(super) fn set_owner(&self, fd: impl AsFd, owner: (u32, u32), group_given: bool) -> rustix::io::Result<()> {
        if self.gives_owner(owner, group_given) {
            return Ok(());
        }
        change_owner(fd, owner)
    }

    pub(super) fn max_depth(&self) -> usize {
        self.max_depth
    }

    fn key(&self, dir: &Dir, name: &[u8]) -> u64 {
        self.hasher.hash_one((dir.ino, name))
    }

    /// Remember that this layer made `name`: whiteouts of the same layer leave it alone.
    pub(super) fn mark_made(&mut self, dir: &Dir, name: &[u8]) {
        let key = self.key(dir, name);
        self.made.insert(key);
    }

    pub(super) fn is_made(&self, dir: &Dir, name: &[u8]) -> bool {
        self.made.contains(&self.key(dir, name))
    }

    pub(super) fn holds_new_entries(&self, ino: u64) -> bool {
        self.entered.contains(&ino)
    }

    /// Forget the kept descriptors. Needed whenever a directory or a link goes away: a kept descriptor may have been
    /// reached through it (containerd had to withdraw a cache for exactly this).
    pub(super) fn forget(&mut self) {
        self.stack.clear();
    }

    /// How many levels of `path` are those of the last path.
    fn common(&self, path: &[&[u8]]) -> usize {
        self.stack.iter().zip(path).take_while(|((name, _), wanted)| name == *wanted).count()
    }

    /// Keep a directory that was just made: what comes next is most likely in it. `path` leads to it.
    pub(super) fn keep(&mut self, path: &[&[u8]], dir: Dir) {
        let Some((name, parent)) = path.split_last() else { return };
        if self.stack.len() == parent.len() && self.common(parent) == parent.len() {
            // As for all that is kept.
            self.entered.insert(dir.ino);
            self.stack.push((name.to_vec(), Rc::new(dir)));
        }
    }

    /// What the directory gets at the end; the last entry for it wins.
    pub(super) fn owe(&mut self, ino: u64, owed: Owed) {
        self.owed.insert(ino, owed);
    }

    /// The directory `path`, made with all its parents if need be (0755, the owner of the root).
    pub(super) fn make(&mut self, path: &[&[u8]]) -> Result<Rc<Dir>> {
        let dir = self.walk(path, true, 0)?;
        dir.ok_or_else(|| Error::layer(format!("`{}` cannot be made", printable(&path.join(&b'/')))))
    }

    /// The directory `path` if it is there.
    pub(super) fn find(&mut self, path: &[&[u8]]) -> Result<Option<Rc<Dir>>> {
        self.walk(path, false, 0)
    }

    fn walk(&mut self, path: &[&[u8]], make: bool, links: u32) -> Result<Option<Rc<Dir>>> {
        let common = self.common(path);
        self.stack.truncate(common);
        let mut dir = self.stack.last().map_or_else(|| self.root(), |(_, dir)| Rc::clone(dir));
        for (i, name) in path.iter().enumerate().skip(common) {
            let next = match open_beneath(&dir, name) {
                Ok(fd) => Some(self.enter(fd, &path[..=i], make, dir.by_link)?),
                Err(Errno::NOENT) if make => Some(self.make_one(&dir, name, &path[..=i])?),
                Err(Errno::NOENT) => None,
                // A link (ELOOP) or no directory at all (ENOTDIR).
                Err(Errno::LOOP | Errno::NOTDIR) => self.follow(&dir, &path[..=i], make, links)?,
                Err(error) => return Err(Error::io(format!("open `{}`", printable(&path[..=i].join(&b'/'))), error)),
            };
            let Some(next) = next else { return Ok(None) };
            // `follow` may have walked elsewhere and cut the stack; then it must not be extended. Nor by looking: what is
            // kept counts as holding entries of this layer.
            if make && self.stack.len() == i {
                self.stack.push((name.to_vec(), Rc::clone(&next)));
            }
            dir = next;
        }
        Ok(Some(dir))
    }

    /// A directory that was there: if the layer puts something into it, its time is owed back.
    fn enter(&mut self, fd: OwnedFd, path: &[&[u8]], for_writing: bool, by_link: bool) -> Result<Rc<Dir>> {
        let (mut dir, stat) = Dir::new(fd)?;
        dir.by_link = by_link;
        if for_writing && self.entered.insert(dir.ino) {
            let path = self.path_of(&dir, path);
            self.owe_time(path, &stat);
        }
        Ok(Rc::new(dir))
    }

    /// The directory that `stat` describes is about to be changed: owe it the time it has, unless it gets another one.
    fn owe_time(&mut self, path: Vec<u8>, stat: &rustix::fs::Stat) {
        let mtime = rustix::fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() };
        self.owed.entry(stat.st_ino).or_insert_with(|| Owed { path, mtime, mode: None });
    }

    /// A path that will still lead to the directory at the end: where a link was followed, the kernel's name for it.
    pub(super) fn path_of(&self, dir: &Dir, path: &[&[u8]]) -> Vec<u8> {
        let real = if dir.by_link { self.real_path(dir) } else { None };
        real.unwrap_or_else(|| path.join(&b'/'))
    }

    /// The kernel's name for a directory, below the root.
    fn real_path(&self, dir: &Dir) -> Option<Vec<u8>> {
        let name = |dir: &Dir| rustix::fs::readlink(format!("/proc/self/fd/{}", dir.fd.as_raw_fd()), Vec::new()).ok();
        let (root, real) = (name(&self.root)?, name(dir)?);
        Some(normalise(real.to_bytes().strip_prefix(root.to_bytes())?).join(&b'/'))
    }

    /// The directory is there, and something is to be taken away from it: its time is owed back.
    pub(super) fn change(&mut self, dir: &Dir, path: &[&[u8]]) -> Result<()> {
        let stat = rustix::fs::fstat(&dir.fd).map_err(|e| Error::io("stat", e))?;
        let path = self.path_of(dir, path);
        self.owe_time(path, &stat);
        Ok(())
    }

    /// Whether this layer made one of the links that `path` leads through.
    pub(super) fn has_new_link(&mut self, path: &[&[u8]]) -> Result<bool> {
        for (i, name) in path.iter().enumerate() {
            let Some(dir) = self.find(&path[..i])? else { return Ok(false) };
            let is_link = stat_below(&dir, name)?.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
            if is_link && self.is_made(&dir, name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The directory counts as made on the way by this layer now: it is described like one, and gets the time of one.
    pub(super) fn adopt(&mut self, dir: &Dir) -> Result<()> {
        let path = self.real_path(dir).ok_or_else(|| Error::layer("internal error: a directory without a name"))?;
        self.owe(dir.ino, Owed { path, mtime: EPOCH, mode: None });
        self.note(&Step::Describe { dir: dir.ino, attributes: Attributes::PLAIN })
    }

    fn make_one(&mut self, parent: &Rc<Dir>, name: &[u8], path: &[&[u8]]) -> Result<Rc<Dir>> {
        let context = |e| Error::io(format!("mkdir `{}`", printable(&path.join(&b'/'))), e);
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)).map_err(context)?;
        let (dir, _) = Dir::new(open_beneath(parent, name).map_err(context)?)?;
        self.set_owner(&dir.fd, self.owner, parent.gives_group.get()).map_err(context)?;
        if parent.gives_group.get() {
            rustix::fs::fchmod(&dir.fd, Mode::from_raw_mode(0o755)).map_err(context)?;
        }
        self.mark_made(parent, name);
        self.entered.insert(dir.ino);
        self.note(&Step::Directory { at: (parent.ino, name), dir: dir.ino })?;
        let dir = Dir { gives_group: Cell::new(false), by_link: parent.by_link, ..dir };
        let path = self.path_of(&dir, path);
        self.owe(dir.ino, Owed { path, mtime: EPOCH, mode: None });
        Ok(Rc::new(dir))
    }

    /// `path` ends in a link (or in something that is no directory).
    fn follow(&mut self, parent: &Dir, path: &[&[u8]], make: bool, links: u32) -> Result<Option<Rc<Dir>>> {
        let text = || printable(&path.join(&b'/'));
        match open_in_root(&self.root, &path.join(&b'/')) {
            Ok(fd) => {
                let dir = self.enter(fd, path, make, true)?;
                if make {
                    self.enter_ancestors(&dir)?;
                }
                Ok(Some(dir))
            }
            Err(Errno::NOENT) if make && links < MAX_LINKS => {
                // The link points at nothing yet: make what it points at, inside the root.
                let name = path.last().copied().unwrap_or_default();
                let target =
                    rustix::fs::readlinkat(parent, name, Vec::new()).map_err(|e| Error::io(format!("readlink `{}`", text()), e))?;
                let target = target.to_bytes().to_vec();
                let base = if target.starts_with(b"/") { &[][..] } else { &path[..path.len() - 1] };
                let joined = [base.join(&b'/').as_slice(), b"/", &target].concat();
                let resolved = normalise(&joined);
                self.forget();
                self.walk(&resolved, true, links + 1)?;
                self.forget();
                // Now it points at something.
                self.follow(parent, path, make, links + 1)
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !make => Ok(None),
            Err(error) => Err(Error::io(format!("open `{}`", text()), error)),
        }
    }

    /// A directory reached through a link: its parents hold something of this layer too, and what comes later may change them.
    fn enter_ancestors(&mut self, dir: &Dir) -> Result<()> {
        let mut above = dir.fd.try_clone().map_err(|e| Error::io("dup", e))?;
        let mut path = self.real_path(dir).ok_or_else(|| Error::layer("internal error: a directory without a name"))?;
        for _ in 0..self.max_depth {
            above = rustix::fs::openat(&above, "..", DIRECTORY, Mode::empty()).map_err(|e| Error::io("open `..`", e))?;
            let stat = rustix::fs::fstat(&above).map_err(|e| Error::io("stat", e))?;
            if !self.entered.insert(stat.st_ino) || stat.st_ino == self.root.ino {
                return Ok(());
            }
            path.truncate(path.iter().rposition(|&byte| byte == b'/').unwrap_or(0));
            self.owe_time(path.clone(), &stat);
        }
        Err(Error::Limit(format!("directories deeper than {} levels", self.max_depth)))
    }

    /// Give every directory the time (and mode) it is owed. A directory that was replaced meanwhile has another inode
    /// and is left alone.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.forget();
        let mut owed: Vec<_> = std::mem::take(&mut self.owed).into_iter().collect();
        // Deepest first: a mode that locks us out must not stand above a directory that is still to be done.
        owed.sort_by_key(|(_, owed)| std::cmp::Reverse(owed.path.len()));
        for (ino, owed) in owed {
            let path: &[u8] = if owed.path.is_empty() { b"." } else { &owed.path };
            let context = |e| Error::io(format!("chtimes `{}`", printable(&owed.path)), e);
            let fd = match open_in_root(&self.root, path) {
                // Replaced: by nothing, by something else, by a link to somewhere else.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => continue,
                other => other.map_err(context)?,
            };
            if rustix::fs::fstat(&fd).map_err(context)?.st_ino != ino {
                continue;
            }
            set_times(&fd, owed.mtime).map_err(context)?;
            if let Some(mode) = owed.mode {
                rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(context)?;
            }
            self.note(&Step::Time { dir: ino, mtime: (owed.mtime.tv_sec, owed.mtime.tv_nsec.cast_unsigned() as u32) })?;
        }
        Ok(())
    }
}

/// Whether `name` in `dir` is a directory, without following a link. `None` where there is nothing.
pub(super) fn stat_below(dir: impl AsFd, name: &[u8]) -> Result<Option<rustix::fs::Stat>> {
    match rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::io(format!("stat `{}`", printable(name)), error)),
    }
}

pub(super) fn is_dir(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Give an open file or directory an owner: user and group on the host.
pub(super) fn change_owner(fd: impl AsFd, (uid, gid): (u32, u32)) -> rustix::io::Result<()> {
    rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)))
}

/// Set the modification time and leave the access time.
pub(super) fn set_times(fd: impl AsFd, mtime: rustix::fs::Timespec) -> rustix::io::Result<()> {
    rustix::fs::futimens(fd, &times(mtime))
}

pub(super) fn times(mtime: rustix::fs::Timespec) -> rustix::fs::Timestamps {
    let omit = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    rustix::fs::Timestamps { last_access: omit, last_modification: mtime }
}

/// Components of a name: no empty ones, no `.`, and `..` goes up but never above the root (as image tools do).
pub(super) fn normalise(name: &[u8]) -> Vec<&[u8]> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_stay_below_the_root() {
        for (name, parts) in [("a/./b//c/", "a/b/c"), ("/etc/x", "etc/x"), ("../../etc", "etc"), ("a/../../..", ""), ("./", "")] {
            assert_eq!(normalise(name.as_bytes()).join(&b'/'), parts.as_bytes(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_component_climbs(name in proptest::collection::vec(any::<u8>(), 0..100)) {
            for part in normalise(&name) {
                prop_assert!(!part.is_empty() && part != b"." && part != b".." && !part.contains(&b'/'));
            }
        }
    }
}
