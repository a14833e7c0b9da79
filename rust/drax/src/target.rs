//! Which volume is meant, and whether the caller may have it limited.
//!
//! Everything here happens with the caller's own rights, and every answer comes from a descriptor: the path is looked at
//! once. What each check stops is in THREAT-MODEL.md.

use crate::Failure;
use crate::privilege::Caller;
use groot_btrfs::abi::FIRST_FREE;
use groot_btrfs::subvolume;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use rustix::{fs, io};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How the file begins that `init-store` writes as root.
const NAMESPACE_FILE: &str = "meta/namespace.json";
const NAMESPACE_START: &[u8] = b"{\"uid-mappings\"";

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// One step inside one mount, to a real entry.
const STEP: ResolveFlags = ResolveFlags::NO_XDEV.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// An open subvolume.
pub struct Volume {
    pub dir: OwnedFd,
    pub id: u64,
    stat: Stat,
}

/// A subvolume whose limits the caller may change.
pub struct Target {
    pub id: u64,
    /// The directory that holds the subvolume. Ioctls go through it and not through the subvolume, whose limit would
    /// count the bookkeeping and may be too small for it. Same mount (`NO_XDEV`), hence the same file system.
    pub door: OwnedFd,
    /// The store that it is in, if the caller is not root.
    pub store: Option<OwnedFd>,
}

impl Volume {
    /// Open the subvolume at `path`.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let dir = open_last(path).map_err(|e| Failure::os("opening the volume", e))?;
        let failed = |e| Failure::os("looking at the volume", e);
        if !groot_btrfs::is_btrfs(&dir).map_err(failed)? {
            return Err("the volume is not on a BTRFS file system".into());
        }
        let stat = fs::fstat(&dir).map_err(failed)?;
        if !subvolume::looks_like_root(&stat) {
            return Err("the volume is not a BTRFS subvolume".into());
        }
        let id = subvolume::id_of(&dir).map_err(failed)?;
        // Numbers of subvolumes that somebody made begin there.
        if id < FIRST_FREE {
            return Err("the top level of a file system is no volume".into());
        }
        Ok(Self { dir, id, stat })
    }

    /// Whether the caller may change the limits of this volume: it is root, or the volume is its own and belongs to an
    /// image of its own store.
    pub fn authorise(self, caller: &Caller) -> Result<Target, Failure> {
        if caller.is_root() {
            let door = parent(&self.dir).unwrap_or(self.dir);
            return Ok(Target { id: self.id, door, store: None });
        }
        if self.stat.st_uid != caller.uid() {
            return Err("the volume belongs to another user".into());
        }
        match image_directory(&self.dir, caller.uid()) {
            Ok(Some((door, store))) => Ok(Target { id: self.id, door, store: Some(store) }),
            Ok(None) => Err("the volume is not in an image of the caller's own store, initialised by root".into()),
            Err(error) => Err(Failure::os("looking for the volume's store", error)),
        }
    }
}

/// Open a directory that may be reached through links in the directories above it (`/var/vcap` often is one), resolved
/// with the caller's rights, but is not itself one.
pub fn open_last(path: &Path) -> io::Result<OwnedFd> {
    let mut path = path.as_os_str().as_bytes();
    // `link/` would follow the link.
    while let [rest @ .., b'/'] = path
        && !rest.is_empty()
    {
        path = rest;
    }
    fs::openat2(CWD, path, DIRECTORY, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

fn parent(dir: impl AsFd) -> io::Result<OwnedFd> {
    fs::openat2(dir, "..", DIRECTORY, Mode::empty(), STEP)
}

/// The directory `<store>/images/<id>` that holds `volume`, if it is one, all of it is the caller's, and root has
/// initialised the store; and the store.
fn image_directory(volume: &OwnedFd, uid: u32) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    let found = || {
        let image = parent(volume)?;
        let images = parent(&image)?;
        let store = parent(&images)?;
        let named_images = fs::openat2(&store, "images", DIRECTORY, Mode::empty(), STEP | ResolveFlags::BENEATH)?;
        let own = [&image, &images, &store].iter().all(|dir| fs::fstat(dir).is_ok_and(|stat| stat.st_uid == uid));
        let yes = own && same(&images, &named_images)? && is_initialised_by_root(&store)?;
        Ok(yes.then_some((image, store)))
    };
    match found() {
        // A mount in between, nothing of that name, a link in its place.
        Err(Errno::XDEV | Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(None),
        other => other,
    }
}

fn same(one: &OwnedFd, other: &OwnedFd) -> io::Result<bool> {
    let (one, other) = (fs::fstat(one)?, fs::fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

fn is_initialised_by_root(store: &OwnedFd) -> io::Result<bool> {
    // The directory is the owner's: what lies there may be anything, a pipe that nobody writes to included.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = fs::openat2(store, NAMESPACE_FILE, flags, Mode::empty(), STEP | ResolveFlags::BENEATH)?;
    let stat = fs::fstat(&file)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    // One link: another file of root's could be linked here where fs.protected_hardlinks is off.
    if !regular || stat.st_uid != 0 || stat.st_nlink != 1 || stat.st_mode & 0o022 != 0 {
        return Ok(false);
    }
    let mut head = [0; NAMESPACE_START.len()];
    let read = rustix::io::read(&file, &mut head)?;
    Ok(&head[..read] == NAMESPACE_START)
}
