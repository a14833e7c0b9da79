//! One entry after the other.
//!
//! Files are only made here and filled by another thread (`Filler`). Directories get their time at the very end
//! (`Dirs::settle`), because every entry made in them changes it.

use super::dirs::{Dir, Dirs, Owed, is_dir, normalise, stat_below, times};
use super::filler::{Filler, Made};
use super::known::{KEPT, Known, Neighbours};
use super::remove::{purge, purge_children, remove};
use super::whiteout::{self, Marker};
use super::xattr;
use crate::error::{Error, Result, printable};
use crate::idmap::IdMaps;
use crate::limits::Limits;
use crate::listing::{self, Attributes, ContentHash, Listing, Step, Target};
use crate::resolve::open_beneath;
use crate::tar::{Entry, Kind, Time};
use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timespec};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

/// Modification times that every kernel takes; the file system cuts further (`timestamp_truncate`).
const MAX_SECONDS: i64 = 1 << 53;

/// How a layer is applied.
#[derive(Debug, Default)]
pub struct Options {
    /// Directory of the volume that the archive's names are relative to (Cloud Foundry's base directory). It must exist.
    pub base: Vec<u8>,
    /// Translation of ids.
    pub ids: IdMaps,
    /// Bounds.
    pub limits: Limits,
    /// Treat whiteout names as ordinary files: a directory on disk is no layer.
    pub literal_names: bool,
    /// Where to write what was done, for `verify`.
    pub listing: Option<Target>,
    /// Volumes whose files may be cloned; of use only if a listing is written, whose hashes tell which.
    pub neighbours: Option<Neighbours>,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries applied.
    pub entries: u64,
    /// Bytes of file content (the original's layer size), without holes: `remove::content`.
    pub content: u64,
    /// Bytes of file content that lower layers gave and that this layer took away.
    pub removed: u64,
    /// Entries and attributes left out on purpose: reason to count.
    pub left_out: BTreeMap<String, u64>,
    /// Of `content`, bytes that were cloned instead of written, by the volume that has them too.
    pub cloned: BTreeMap<String, u64>,
}

struct Open {
    /// The directory it is in (inode number), and its name there.
    place: (u64, Vec<u8>),
    entry: Arc<Entry>,
    size: u64,
    /// The file itself, where only the kernel can say what attributes it got.
    acl: Option<File>,
    /// Content that waits for its hash: there may be a file that has it.
    kept: Option<Vec<(u64, Bytes)>>,
}

/// Applies entries to a directory. Feed it `begin`, `data`, `end` for each entry and `finish` once.
pub struct Extractor {
    dirs: Dirs,
    files: Filler,
    base: Vec<Vec<u8>>,
    options: Options,
    stats: Stats,
    /// Bytes of content that have come.
    written: u64,
    open: Option<Open>,
    /// Markers in directories that a link leads to, by name and directory. They wait for the end: the link may be replaced, and
    /// then what it led to is none of theirs.
    by_link: Vec<(Vec<u8>, Vec<Vec<u8>>)>,
    /// Directories of AUFS bookkeeping. Files of this layer may be links to those in there, so they go at the end.
    bookkeeping: BTreeSet<Vec<Vec<u8>>>,
    /// Hash over the content of the open file, where a listing is wanted.
    content: Option<ContentHash>,
    known: Option<Known>,
}

impl Extractor {
    /// Start on the directory `root`. The calling thread's umask must be 0 (`unpack` sees to it).
    pub fn new(root: OwnedFd, mut options: Options) -> Result<Self> {
        let owner = options.ids.owner(0, 0)?;
        let listing = options.listing.take().map(Listing::new).transpose()?;
        let content = listing.is_some().then(ContentHash::new);
        let known = options.neighbours.take().filter(|_| content.is_some()).map(Known::read);
        let mut dirs = Dirs::new(root, owner, options.limits.max_depth, listing)?;
        // A fresh volume is ours; what the archive does not describe belongs to the image's root.
        let root = dirs.root();
        let stat = rustix::fs::fstat(&root).map_err(|e| Error::io("stat the root", e))?;
        if dirs.gives_owner((stat.st_uid, stat.st_gid), false) {
            dirs.set_owner(&root, owner, false).map_err(|e| Error::io("chown the root", e))?;
        }
        let base: Vec<Vec<u8>> = normalise(&options.base).into_iter().map(<[u8]>::to_vec).collect();
        let parts: Vec<&[u8]> = base.iter().map(Vec::as_slice).collect();
        match dirs.find(&parts) {
            Ok(Some(_)) => {}
            Ok(None) | Err(Error::Io { .. }) => return Err(Error::layer("base directory not found in parent layer")),
            Err(error) => return Err(error),
        }
        let (files, stats) = (Filler::start()?, Stats::default());
        let (by_link, bookkeeping) = (Vec::new(), BTreeSet::new());
        Ok(Self { dirs, files, base, options, stats, written: 0, open: None, by_link, bookkeeping, content, known })
    }

    /// Start an entry.
    pub fn begin(&mut self, mut entry: Box<Entry>) -> Result<()> {
        self.stats.entries += 1;
        if matches!(entry.kind, Kind::File | Kind::Directory) {
            xattr::translate(&mut entry.xattrs, &self.options.ids).map_err(|error| named(&entry.path, error))?;
        }
        let inner = normalise(&entry.path);
        let base = self.base.clone();
        let path: Vec<&[u8]> = base.iter().map(Vec::as_slice).chain(inner.iter().copied()).collect();
        let Some((&name, parent)) = path.split_last().filter(|_| !inner.is_empty()) else {
            return self.root_entry(&entry, &path);
        };
        if !self.options.literal_names {
            if let Some(marker) = whiteout::parse(name)? {
                return self.apply_marker(&marker, name, parent, false);
            }
            if let Some(i) = parent.iter().position(|name| whiteout::is_bookkeeping(name)) {
                self.bookkeeping.insert(parent[..=i].iter().map(|name| name.to_vec()).collect());
            }
        }
        match entry.kind {
            Kind::File => {
                drop(inner);
                let name = name.to_vec();
                let parent = self.dirs.make(parent)?;
                self.begin_file(&parent, &name, entry)
            }
            Kind::Directory => {
                let parent_dir = self.dirs.make(parent)?;
                self.directory(&parent_dir, name, &path, &entry)
            }
            Kind::Symlink => {
                let parent = self.dirs.make(parent)?;
                self.symlink(&parent, name, &entry)
            }
            Kind::Hardlink => self.hardlink(parent, name, &base, &entry),
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.leave_out(if entry.kind == Kind::Fifo { "fifo" } else { "device" });
                Ok(())
            }
        }
    }

    /// Content of the entry that was begun.
    pub fn data(&mut self, offset: u64, bytes: Bytes) -> Result<()> {
        // Content of entries that are not files is drained: whiteouts may carry some.
        let Some(open) = &mut self.open else { return Ok(()) };
        self.written += bytes.len() as u64;
        if !open.entry.sparse {
            self.stats.content += bytes.len() as u64;
        }
        if self.options.limits.max_content.is_some_and(|most| self.written > most) {
            return Err(Error::Limit("uncompressed layer size exceeds quota".into()));
        }
        if let Some(content) = &mut self.content {
            content.update(offset, &bytes);
        }
        open.size = open.size.max(offset + bytes.len() as u64);
        match &mut open.kept {
            Some(kept) => kept.push((offset, bytes)),
            None => self.files.data(offset, bytes)?,
        }
        Ok(())
    }

    /// Share all content of `source`, which holds `bytes`, with the file that was begun, instead of writing it. False if that is not
    /// possible; nothing is changed then.
    pub(crate) fn share(&mut self, source: &File, bytes: u64) -> Result<bool> {
        let Some(open) = &mut self.open else { return Ok(false) };
        let shared = self.files.share(source)?;
        if shared {
            self.stats.content += bytes;
            open.size = bytes;
        }
        Ok(shared)
    }

    /// The entry is complete.
    pub fn end(&mut self) -> Result<()> {
        let Some(Open { place, entry, size, acl, kept }) = self.open.take() else { return Ok(()) };
        let content = self.content.as_mut().map(ContentHash::finish);
        if let (Some(known), Some(content)) = (&self.known, content)
            && kept.is_some()
            && let Some(twin) = known.with_content(size, content)
        {
            self.files.compare(vec![twin]);
        }
        for (offset, bytes) in kept.into_iter().flatten() {
            self.files.data(offset, bytes)?;
        }
        self.files.end()?;
        let Some(content) = content else { return Ok(()) };
        let attributes = match acl {
            None => plain_attributes(&entry),
            Some(file) => {
                self.files.drain()?;
                attributes(&file, &entry)?
            }
        };
        let (mtime, sparse) = (noted(timespec(entry.mtime)), entry.sparse);
        self.dirs.note(&Step::File { at: (place.0, &place.1), attributes, mtime, size, content, sparse })
    }

    /// What had to wait for all entries of the layer.
    fn apply_the_rest(&mut self) -> Result<()> {
        for (name, parent) in std::mem::take(&mut self.by_link) {
            let parent: Vec<&[u8]> = parent.iter().map(Vec::as_slice).collect();
            if let Some(marker) = whiteout::parse(&name)? {
                self.apply_marker(&marker, &name, &parent, true)?;
            }
        }
        let bookkeeping = std::mem::take(&mut self.bookkeeping);
        if !bookkeeping.is_empty() {
            // Their sizes count.
            self.files.drain()?;
        }
        for path in bookkeeping {
            let path: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
            let Some((name, parent)) = path.split_last() else { continue };
            if let Some(dir) = self.dirs.find(parent)? {
                self.stats.removed += remove(&mut self.dirs, &dir, name)?;
                self.leave_out("AUFS bookkeeping");
            }
        }
        Ok(())
    }

    /// All entries are done: settle the directories and give the root the mode that every root file system has.
    pub fn finish(mut self) -> Result<Stats> {
        self.apply_the_rest()?;
        // Filling a file changes no directory, so the last ones are filled meanwhile.
        self.dirs.settle()?;
        let filled = self.files.finish()?;
        self.stats.content += filled.sparse;
        if let Some(known) = &self.known {
            self.stats.cloned = filled.cloned.into_iter().map(|(volume, bytes)| (known.name(volume).to_owned(), bytes)).collect();
        }
        let root = self.dirs.root();
        let context = |e| Error::io("chmod the root", e);
        let mode = rustix::fs::fstat(&root.fd).map_err(context)?.st_mode & 0o7777;
        if mode != 0o755 {
            rustix::fs::fchmod(&root.fd, Mode::from_raw_mode(0o755)).map_err(context)?;
        }
        self.dirs.write_listing()?;
        Ok(self.stats)
    }

    fn leave_out(&mut self, what: &str) {
        *self.stats.left_out.entry(what.to_owned()).or_default() += 1;
    }

    fn owner(&self, entry: &Entry) -> Result<(u32, u32)> {
        self.options.ids.owner(entry.uid, entry.gid).map_err(|error| named(&entry.path, error))
    }

    /// `./` describes the root (or the base directory) itself. Anything but a directory there would replace the root
    /// (CVE-2021-29136).
    fn root_entry(&mut self, entry: &Entry, path: &[&[u8]]) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(Error::layer(format!("`{}` would replace the root directory", printable(&entry.path))));
        }
        let dir = self.dirs.make(path)?;
        self.describe(&dir, path, entry, false)
    }

    /// Take away what a marker `name` says. One in a directory that a link leads to waits until the `last` entry was applied.
    fn apply_marker(&mut self, marker: &Marker<'_>, name: &[u8], parent: &[&[u8]], last: bool) -> Result<()> {
        if *marker == Marker::Ignore {
            self.leave_out("AUFS bookkeeping");
            return Ok(());
        }
        // No parent, or none that is a directory: nothing to take away.
        let Some(dir) = self.dirs.find(parent)? else { return Ok(()) };
        if dir.by_link {
            if !last {
                self.by_link.push((name.to_vec(), parent.iter().map(|name| name.to_vec()).collect()));
                return Ok(());
            }
            // What lower layers had in the place of a new link went away with all that was in it.
            if self.dirs.has_new_link(parent)? {
                return Ok(());
            }
        }
        self.dirs.change(&dir, parent)?;
        self.stats.removed += if let Marker::Remove(name) = marker {
            self.hide(&dir, name)?
        } else {
            self.dirs.forget();
            let depth = self.dirs.max_depth();
            purge_children(&mut self.dirs, &dir, depth)?
        };
        Ok(())
    }

    /// Take away what lower layers have under `name`, and keep what this layer made there: the order of entries in a
    /// layer must not matter.
    fn hide(&mut self, dir: &Dir, name: &[u8]) -> Result<u64> {
        let Some(stat) = stat_below(dir, name)? else { return Ok(0) };
        let made = self.dirs.is_made(dir, name);
        if is_dir(&stat) && (made || self.dirs.holds_new_entries(stat.st_ino)) {
            return purge(&mut self.dirs, dir, name, made);
        }
        if made { Ok(0) } else { remove(&mut self.dirs, dir, name) }
    }

    fn begin_file(&mut self, parent: &Rc<Dir>, name: &[u8], entry: Box<Entry>) -> Result<()> {
        let owner = self.owner(&entry)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let create = || rustix::fs::openat(parent, name, flags, mode);
        let fd = self.replacing(parent, name, create).map_err(|e| within("creating file", &entry, e))?;
        self.dirs.mark_made(parent, name);
        if let Some(content) = &mut self.content {
            content.start(entry.sparse);
        }
        self.count_left_out(&entry);
        let (file, entry) = (File::from(fd), Arc::from(entry));
        let acl = if self.content.is_some() && has_acl(&entry) {
            Some(file.try_clone().map_err(|e| entry_error("dup", &entry, e))?)
        } else {
            None
        };
        let owner = (!self.dirs.gives_owner(owner, parent.gives_group.get())).then_some(owner);
        self.files.begin(Made { file, entry: Arc::clone(&entry), owner });
        let mut kept = None;
        if let Some(known) = self.known.as_ref().filter(|_| !entry.sparse) {
            if entry.size <= KEPT {
                kept = known.may_hold(entry.size).then(Vec::new);
            } else {
                let twins = known.with_size(entry.size);
                if !twins.is_empty() {
                    self.files.compare(twins);
                }
            }
        }
        self.open = Some(Open { place: (parent.ino, name.to_vec()), size: entry.size, entry, acl, kept });
        Ok(())
    }

    /// Create something; where something else is in the way, remove that first. A file is never written through: its
    /// other names, and lower layers' readers, keep the old one.
    fn replacing<T>(&mut self, parent: &Dir, name: &[u8], create: impl Fn() -> rustix::io::Result<T>) -> Result<T> {
        match create() {
            Ok(made) => Ok(made),
            Err(Errno::EXIST) => {
                let entered = |stat: Stat| is_dir(&stat) && self.dirs.holds_new_entries(stat.st_ino);
                if self.dirs.is_made(parent, name) || stat_below(parent, name)?.is_some_and(entered) {
                    // The sizes of files count, and this layer's may not be there yet.
                    self.files.drain()?;
                }
                self.stats.removed += remove(&mut self.dirs, parent, name)?;
                create().map_err(|e| Error::io("", e))
            }
            Err(error) => Err(Error::io("", error)),
        }
    }

    fn directory(&mut self, parent: &Rc<Dir>, name: &[u8], path: &[&[u8]], entry: &Entry) -> Result<()> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777 | 0o700);
        let create = || rustix::fs::mkdirat(parent, name, mode);
        let fresh = match create() {
            Ok(()) => true,
            // An existing directory keeps its content; a link to one does not count (CVE-2026-33056).
            Err(Errno::EXIST) if stat_below(parent, name)?.is_some_and(|stat| is_dir(&stat)) => false,
            Err(Errno::EXIST) => {
                self.replacing(parent, name, create).map_err(|e| within("mkdir", entry, e))?;
                true
            }
            Err(error) => return Err(entry_error("mkdir", entry, error)),
        };
        self.dirs.mark_made(parent, name);
        let fd = open_beneath(parent, name).map_err(|e| entry_error("open", entry, e))?;
        let (mut dir, _) = Dir::new(fd)?;
        dir.gives_group.set(fresh && parent.gives_group.get());
        dir.by_link = parent.by_link;
        if fresh {
            self.dirs.note(&Step::Directory { at: (parent.ino, name), dir: dir.ino })?;
        }
        self.describe(&dir, path, entry, fresh)?;
        if fresh {
            self.dirs.keep(path, dir);
        }
        Ok(())
    }

    /// Owner, mode and attributes of a directory now, its time at the end.
    fn describe(&mut self, dir: &Dir, path: &[&[u8]], entry: &Entry, fresh: bool) -> Result<()> {
        let owner = self.owner(entry)?;
        self.dirs.set_owner(dir, owner, !fresh || dir.gives_group.get()).map_err(|e| entry_error("chown", entry, e))?;
        // Without privilege, a directory that its owner cannot enter gets its mode when all is in it.
        let locked = entry.mode & 0o700 != 0o700 && !rustix::process::geteuid().is_root();
        let mode = if locked { entry.mode | 0o700 } else { entry.mode };
        if !fresh || dir.gives_group.get() || mode != entry.mode & 0o777 | 0o700 {
            rustix::fs::fchmod(dir, Mode::from_raw_mode(mode)).map_err(|e| entry_error("chmod", entry, e))?;
        }
        // The root is kept open for ever; others are opened again.
        dir.gives_group.set(mode & 0o2000 != 0);
        if !fresh {
            xattr::clear(dir)?;
            // Its group rule may have changed under a kept descriptor.
            self.dirs.forget();
        }
        self.count_left_out(entry);
        xattr::set_kept(dir, &entry.xattrs).map_err(|e| within("extended attributes of", entry, e))?;
        let mut noted = attributes(dir, entry)?;
        if locked {
            noted.mode = entry.mode & 0o7777;
        }
        self.dirs.note(&Step::Describe { dir: dir.ino, attributes: noted })?;
        let owed = Owed { path: self.dirs.path_of(dir, path), mtime: timespec(entry.mtime), mode: locked.then_some(entry.mode) };
        self.dirs.owe(dir.ino, owed);
        Ok(())
    }

    fn symlink(&mut self, parent: &Rc<Dir>, name: &[u8], entry: &Entry) -> Result<()> {
        let owner = self.owner(entry)?;
        let create = || rustix::fs::symlinkat(entry.link.as_slice(), parent, name);
        self.replacing(parent, name, create).map_err(|e| within("symlink", entry, e))?;
        self.dirs.mark_made(parent, name);
        if !self.dirs.gives_owner(owner, parent.gives_group.get()) {
            let (uid, gid) = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| entry_error("chown", entry, e))?;
        }
        rustix::fs::utimensat(parent, name, &times(timespec(entry.mtime)), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| entry_error("chtimes", entry, e))?;
        let owner = (entry.uid as u32, entry.gid as u32);
        self.dirs.note(&Step::Symlink { at: (parent.ino, name), owner, mtime: noted(timespec(entry.mtime)), target: &entry.link })
    }

    /// The target is resolved below the root, its last component is not followed: a link to a symbolic link links the
    /// link. A hard link has no metadata of its own; applying any would go through to the target (CVE-2021-32760).
    fn hardlink(&mut self, parent: &[&[u8]], name: &[u8], base: &[Vec<u8>], entry: &Entry) -> Result<()> {
        let fail = |e: Errno| {
            let (from, to) = (printable(&entry.link), printable(&entry.path));
            Error::io(format!("link `{from}` `{to}`"), e)
        };
        let inner = normalise(&entry.link);
        let target: Vec<&[u8]> = base.iter().map(Vec::as_slice).chain(inner.iter().copied()).collect();
        let Some((&target_name, target_parent)) = target.split_last().filter(|_| !inner.is_empty()) else {
            return Err(fail(Errno::PERM));
        };
        let source = self.dirs.find(target_parent)?.ok_or_else(|| fail(Errno::NOENT))?;
        let found = stat_below(&source, target_name)?.ok_or_else(|| fail(Errno::NOENT))?;
        if is_dir(&found) {
            return Err(Error::layer(format!("link `{}` `{}`: target is a directory", printable(&entry.link), printable(&entry.path))));
        }
        let dir = self.dirs.make(parent)?;
        if dir.ino == source.ino && name == target_name {
            return Err(Error::layer(format!("`{}` is a hard link to itself", printable(&entry.path))));
        }
        let link = || rustix::fs::linkat(&*source, target_name, &*dir, name, AtFlags::empty());
        self.replacing(&dir, name, link).map_err(|error| match error.errno() {
            Some(errno) => fail(Errno::from_raw_os_error(errno)),
            None => error,
        })?;
        self.dirs.mark_made(&dir, name);
        self.dirs.note(&Step::Link { at: (dir.ino, name), from: (source.ino, target_name) })
    }

    fn count_left_out(&mut self, entry: &Entry) {
        for (name, _) in entry.xattrs.iter().filter(|(name, _)| !xattr::is_kept(name)) {
            self.leave_out(&format!("extended attribute {}", printable(name)));
        }
    }
}

fn named(path: &[u8], error: Error) -> Error {
    match error {
        Error::Layer(text) => Error::Layer(format!("`{}`: {text}", printable(path))),
        other => other,
    }
}

fn has_acl(entry: &Entry) -> bool {
    entry.xattrs.iter().any(|(name, _)| name == xattr::ACL)
}

/// What a listing says of an entry that was applied to `fd`.
fn attributes(fd: impl AsFd, entry: &Entry) -> Result<Attributes> {
    if !has_acl(entry) {
        return Ok(plain_attributes(entry));
    }
    // The kernel stores an access list in its own way, and not at all where the mode says the same.
    let mode = rustix::fs::fstat(&fd).map_err(|e| entry_error("stat", entry, e))?.st_mode & 0o7777;
    Ok(Attributes { mode, xattrs: xattr::digest_of(fd)?, ..plain_attributes(entry) })
}

/// The same where the entry says it all.
fn plain_attributes(entry: &Entry) -> Attributes {
    // `owner` has refused what does not fit.
    let (uid, gid) = (entry.uid as u32, entry.gid as u32);
    Attributes { mode: entry.mode & 0o7777, uid, gid, xattrs: listing::xattrs_of(&entry.xattrs) }
}

fn noted(time: Timespec) -> listing::Time {
    (time.tv_sec, time.tv_nsec.cast_unsigned() as u32)
}

pub(super) fn timespec(time: Time) -> Timespec {
    Timespec { tv_sec: time.seconds.clamp(-MAX_SECONDS, MAX_SECONDS), tv_nsec: i64::from(time.nanos) }
}

pub(super) fn entry_error(what: &str, entry: &Entry, error: impl Into<std::io::Error>) -> Error {
    Error::io(format!("{what} `{}`", printable(&entry.path)), error)
}

/// Put the entry's name in front of an error that does not have it.
pub(super) fn within(what: &str, entry: &Entry, error: Error) -> Error {
    match error {
        Error::Io { context, source } if context.is_empty() => entry_error(what, entry, source),
        Error::Io { context, source } => Error::io(format!("{what} `{}`: {context}", printable(&entry.path)), source),
        other => other,
    }
}
