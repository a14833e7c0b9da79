//! Holding a volume against the listings of its layers.

use crate::error::{Error, Result, printable};
use crate::idmap::IdMaps;
use crate::layer::xattr;
use crate::limits::Limits;
use crate::listing::{self, Attributes, ContentHash, Step, Time};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// How many differences are told in words; all are counted.
const TOLD: usize = 5;

/// What `verify` found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Paths that were looked at.
    pub entries: u64,
    /// Paths that are not as they were unpacked.
    pub different: u64,
    /// The first of them, with what is wrong.
    pub told: Vec<String>,
}

/// Compare the directory `root` with the listings of its layers (name for messages, and file), bottom to top: every path, with type, owner, mode, times,
/// attributes, names of one file, targets and content. Nothing is changed, not even access times. A listing that is damaged
/// or does not fit is `Error::Layer`.
pub fn verify(root: &OwnedFd, listings: &[(String, File)], ids: &IdMaps, cancel: &AtomicBool) -> Result<Report> {
    let mut tree = Tree::default();
    for (name, file) in listings {
        let bytes = listing::read(file, name)?;
        for step in listing::steps(&bytes) {
            if cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            step.and_then(|step| tree.apply(&step)).ok_or_else(|| listing::damaged(name))?;
        }
    }
    let mut walk = Walk { tree: &tree, ids, cancel, seen: HashMap::new(), hash: ContentHash::new(), report: Report::default() };
    walk.directory(root, tree.root, &mut Vec::new(), Limits::default().max_depth)?;
    Ok(walk.report)
}

/// The tree that a stack of listings describes.
#[derive(Default)]
struct Tree {
    root: u64,
    directories: HashMap<u64, Directory>,
    leaves: Vec<Leaf>,
}

struct Directory {
    attributes: Attributes,
    mtime: Time,
    children: HashMap<Vec<u8>, Child>,
}

#[derive(Clone, Copy)]
enum Child {
    Directory(u64),
    Leaf(usize),
}

struct Leaf {
    names: u64,
    mtime: Time,
    kind: Kind,
}

enum Kind {
    File { attributes: Attributes, size: u64, content: u64, sparse: bool },
    Symlink { owner: (u32, u32), target: Vec<u8> },
}

impl Directory {
    fn new() -> Self {
        Self { attributes: Attributes::PLAIN, mtime: (0, 0), children: HashMap::new() }
    }
}

impl Tree {
    /// `None` for a step that cannot be: the listing is damaged or another volume's.
    fn apply(&mut self, step: &Step<'_>) -> Option<()> {
        match *step {
            Step::Root(dir) => {
                if self.directories.is_empty() {
                    self.root = dir;
                    self.directories.insert(dir, Directory::new());
                }
                (self.root == dir).then_some(())
            }
            Step::File { at, attributes, mtime, size, content, sparse } => {
                self.add_leaf(at, Leaf { names: 0, mtime, kind: Kind::File { attributes, size, content, sparse } })
            }
            Step::Symlink { at, owner, mtime, target } => {
                self.add_leaf(at, Leaf { names: 0, mtime, kind: Kind::Symlink { owner, target: target.to_vec() } })
            }
            Step::Directory { at, dir } => {
                self.add(at, Child::Directory(dir))?;
                self.directories.insert(dir, Directory::new()).is_none().then_some(())
            }
            Step::Describe { dir, attributes } => {
                self.directories.get_mut(&dir)?.attributes = attributes;
                Some(())
            }
            Step::Time { dir, mtime } => {
                self.directories.get_mut(&dir)?.mtime = mtime;
                Some(())
            }
            Step::Link { at, from } => match *self.directories.get(&from.0)?.children.get(from.1)? {
                Child::Leaf(leaf) => self.add_name(at, leaf),
                Child::Directory(_) => None,
            },
            Step::Remove { at } => {
                let child = self.directories.get_mut(&at.0)?.children.remove(at.1)?;
                self.forget(child)
            }
        }
    }

    fn add(&mut self, (dir, name): (u64, &[u8]), child: Child) -> Option<()> {
        self.directories.get_mut(&dir)?.children.insert(name.to_vec(), child).is_none().then_some(())
    }

    fn add_leaf(&mut self, at: (u64, &[u8]), leaf: Leaf) -> Option<()> {
        self.leaves.push(leaf);
        self.add_name(at, self.leaves.len() - 1)
    }

    fn add_name(&mut self, at: (u64, &[u8]), leaf: usize) -> Option<()> {
        self.leaves[leaf].names += 1;
        self.add(at, Child::Leaf(leaf))
    }

    fn forget(&mut self, child: Child) -> Option<()> {
        let mut left = vec![child];
        while let Some(child) = left.pop() {
            match child {
                Child::Leaf(leaf) => self.leaves[leaf].names -= 1,
                Child::Directory(dir) => left.extend(self.directories.remove(&dir)?.children.into_values()),
            }
        }
        Some(())
    }
}

struct Walk<'a> {
    tree: &'a Tree,
    ids: &'a IdMaps,
    cancel: &'a AtomicBool,
    /// Inode numbers of the files with several names.
    seen: HashMap<usize, u64>,
    hash: ContentHash,
    report: Report,
}

impl Walk<'_> {
    /// Hold an open directory, and all below it, against the tree.
    fn directory(&mut self, fd: &OwnedFd, dir: u64, path: &mut Vec<u8>, depth: usize) -> Result<()> {
        let depth = depth.checked_sub(1).ok_or_else(|| Error::Limit("directories nested too deeply".into()))?;
        let Some(expected) = self.tree.directories.get(&dir) else { return Ok(()) };
        self.report.entries += 1;
        let mut wrong = Vec::new();
        match rustix::fs::fstat(fd) {
            Ok(stat) => {
                // The root has this mode in every volume (`Extractor::finish`).
                let mode = if dir == self.tree.root { 0o755 } else { expected.attributes.mode };
                self.compare(&stat, Attributes { mode, ..expected.attributes }, expected.mtime, &mut wrong);
                compare_xattrs(fd, expected.attributes.xattrs, &mut wrong);
            }
            Err(error) => wrong.push(format!("stat: {}", text(error))),
        }
        let names = match names(fd) {
            Ok(names) => names,
            Err(error) => {
                wrong.push(format!("cannot be read: {}", text(error)));
                Vec::new()
            }
        };
        self.tell(path, &wrong);
        let unread = !wrong.is_empty() && names.is_empty();
        let top = path.len();
        let mut found = 0;
        for name in names {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            push(path, top, &name);
            match expected.children.get(&name) {
                None => {
                    self.report.entries += 1;
                    self.tell(path, &["no layer put it there".into()]);
                }
                Some(child) => {
                    found += 1;
                    self.child(fd, &name, *child, path, depth)?;
                }
            }
            path.truncate(top);
        }
        if found < expected.children.len() && !unread {
            self.tell_missing(fd, expected, path);
        }
        Ok(())
    }

    fn tell_missing(&mut self, fd: &OwnedFd, expected: &Directory, path: &mut Vec<u8>) {
        let top = path.len();
        let mut missing: Vec<_> = expected.children.keys().collect();
        missing.sort();
        for name in missing {
            if matches!(rustix::fs::statat(fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT)) {
                push(path, top, name);
                self.report.entries += 1;
                self.tell(path, &["is missing".into()]);
                path.truncate(top);
            }
        }
    }

    fn child(&mut self, dir: &OwnedFd, name: &[u8], child: Child, path: &mut Vec<u8>, depth: usize) -> Result<()> {
        let look = || {
            if groot_btrfs::subvolume::is_mount(dir, name)? {
                Err(Errno::XDEV)
            } else {
                rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            }
        };
        let stat = match look() {
            Ok(stat) => stat,
            // It hides what is the volume's, and is none of ours to look at.
            Err(Errno::XDEV) => {
                self.report.entries += 1;
                self.tell(path, &["something is mounted on it".into()]);
                return Ok(());
            }
            Err(error) => {
                self.report.entries += 1;
                self.tell(path, &[format!("stat: {}", text(error))]);
                return Ok(());
            }
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        match child {
            Child::Directory(inner) if kind == FileType::Directory => match groot_btrfs::open_below(dir, name) {
                Ok(fd) => return self.directory(&fd, inner, path, depth),
                Err(error) => self.tell(path, &[format!("cannot be opened: {}", text(error))]),
            },
            Child::Directory(_) => self.tell(path, &["is no directory any more".into()]),
            Child::Leaf(leaf) => {
                let mut wrong = Vec::new();
                self.leaf(dir, name, leaf, &stat, &mut wrong)?;
                self.tell(path, &wrong);
            }
        }
        self.report.entries += 1;
        Ok(())
    }

    fn leaf(&mut self, dir: &OwnedFd, name: &[u8], index: usize, stat: &Stat, wrong: &mut Vec<String>) -> Result<()> {
        let leaf = &self.tree.leaves[index];
        match (&leaf.kind, FileType::from_raw_mode(stat.st_mode)) {
            (Kind::Symlink { owner, target }, FileType::Symlink) => {
                let attributes = Attributes { mode: stat.st_mode & 0o7777, uid: owner.0, gid: owner.1, xattrs: None };
                self.compare(stat, attributes, leaf.mtime, wrong);
                match rustix::fs::readlinkat(dir, name, Vec::new()) {
                    Ok(is) if is.as_bytes() == target.as_slice() => {}
                    Ok(is) => wrong.push(format!("points at `{}`, not at `{}`", printable(is.as_bytes()), printable(target))),
                    Err(error) => wrong.push(format!("readlink: {}", text(error))),
                }
            }
            (&Kind::File { attributes, size, content, sparse }, FileType::RegularFile) => {
                self.compare(stat, attributes, leaf.mtime, wrong);
                match open_quietly(dir, name) {
                    Ok(file) => {
                        compare_xattrs(&file, attributes.xattrs, wrong);
                        if stat.st_size.cast_unsigned() != size {
                            wrong.push(format!("{} bytes, not {size}", stat.st_size));
                        } else if leaf.names > 1 && self.seen.contains_key(&index) {
                            // Its content had its turn under another name.
                        } else {
                            match self.content(&file, size, sparse)? {
                                Ok(is) if is == content => {}
                                Ok(_) => wrong.push("other content".into()),
                                Err(error) => wrong.push(format!("content cannot be read: {}", crate::error::os_text(&error))),
                            }
                        }
                    }
                    Err(error) => wrong.push(format!("cannot be opened: {}", text(error))),
                }
            }
            (Kind::File { .. }, _) => wrong.push("is no regular file any more".into()),
            (Kind::Symlink { .. }, _) => wrong.push("is no symbolic link any more".into()),
        }
        if u64::from(stat.st_nlink as u32) != leaf.names {
            wrong.push(format!("{} names, not {}", stat.st_nlink, leaf.names));
        }
        if leaf.names > 1 && *self.seen.entry(index).or_insert(stat.st_ino) != stat.st_ino {
            wrong.push("not the same file as its other names".into());
        }
        Ok(())
    }

    fn compare(&self, stat: &Stat, attributes: Attributes, mtime: Time, wrong: &mut Vec<String>) {
        let mode = stat.st_mode & 0o7777;
        if mode != attributes.mode {
            wrong.push(format!("mode {mode:04o}, not {:04o}", attributes.mode));
        }
        match self.ids.owner(attributes.uid.into(), attributes.gid.into()) {
            Ok(owner) if owner == (stat.st_uid, stat.st_gid) => {}
            Ok((uid, gid)) => wrong.push(format!("owner {}:{}, not {uid}:{gid}", stat.st_uid, stat.st_gid)),
            Err(error) => wrong.push(error.to_string()),
        }
        let is = (stat.st_mtime, stat.st_mtime_nsec as u32);
        if is != mtime {
            wrong.push(format!("modified at {}.{:09}, not {}.{:09}", is.0, is.1, mtime.0, mtime.1));
        }
    }

    /// Hash over the content, or why it cannot be read.
    fn content(&mut self, file: &File, size: u64, sparse: bool) -> Result<std::io::Result<u64>> {
        self.hash.start(sparse);
        let mut buffer = vec![0; CHUNK.min(size as usize)];
        let mut offset = 0;
        while offset < size {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            if sparse {
                // No data after this: the rest is a hole.
                match rustix::fs::seek(file, SeekFrom::Data(offset)) {
                    Ok(next) => offset = next,
                    Err(Errno::NXIO) => break,
                    Err(error) => return Ok(Err(error.into())),
                }
            }
            let wanted = buffer.len().min((size - offset) as usize);
            match file.read_at(&mut buffer[..wanted], offset) {
                Ok(0) => break,
                Ok(n) => {
                    self.hash.update(offset, &buffer[..n]);
                    offset += n as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(self.hash.finish()))
    }

    fn tell(&mut self, path: &[u8], wrong: &[String]) {
        if wrong.is_empty() {
            return;
        }
        self.report.different += 1;
        if self.report.told.len() < TOLD {
            let path = if path.is_empty() { "/".into() } else { printable(path) };
            self.report.told.push(format!("`{path}`: {}", wrong.join(", ")));
        }
    }
}

fn push(path: &mut Vec<u8>, top: usize, name: &[u8]) {
    if top > 0 {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

fn text(error: Errno) -> String {
    crate::error::os_text(&error.into())
}

/// Open a file without leaving a trace in its access time, where we may.
fn open_quietly(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match groot_btrfs::open(dir, name, flags | OFlags::NOATIME, Mode::empty(), resolve) {
        Err(Errno::PERM) => groot_btrfs::open(dir, name, flags, Mode::empty(), resolve),
        other => other,
    }
    .map(File::from)
}

fn names(dir: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let fd = match rustix::fs::openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()),
        other => other,
    }?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort();
    Ok(names)
}

fn compare_xattrs(fd: impl AsFd, expected: Option<u64>, wrong: &mut Vec<String>) {
    match xattr::digest_of(fd) {
        Ok(is) if is == expected => {}
        Ok(_) => wrong.push("other extended attributes".into()),
        Err(error) => wrong.push(error.to_string()),
    }
}
