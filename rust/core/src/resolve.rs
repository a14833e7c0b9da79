//! Opening by `openat2(2)`: the kernel keeps a path below a directory, whatever others do to the tree meanwhile.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// A directory, and no link to one.
pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// How often to try again when the kernel cannot rule out that a `..` escaped because somebody renamed something,
/// anywhere, at that moment. Each try is independent, so this many failures in a row are an attack or a bug.
const TRIES: usize = 10_000;

/// Open `path` from `dir`, following no link at all.
pub(crate) fn open_beneath(dir: impl AsFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    open(dir, path, DIRECTORY, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// Open the directory `path`, with `root` standing for `/` in the path and in every link on the way.
pub(crate) fn open_in_root(root: impl AsFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    open(root, path, DIRECTORY.difference(OFlags::NOFOLLOW), ResolveFlags::IN_ROOT)
}

fn open(dir: impl AsFd, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    for _ in 0..TRIES {
        match rustix::fs::openat2(&dir, path, flags, Mode::empty(), resolve | ResolveFlags::NO_MAGICLINKS) {
            Err(Errno::AGAIN) => std::thread::yield_now(),
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}
