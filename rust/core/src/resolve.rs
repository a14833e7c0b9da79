//! Opening by `openat2(2)`: the kernel keeps a path below a directory, whatever others do to the tree meanwhile.

pub(crate) use groot_btrfs::DIRECTORY;
use groot_btrfs::open;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::os::fd::{AsFd, OwnedFd};

/// Open `path` from `dir`, following no link at all.
pub(crate) fn open_beneath(dir: impl AsFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    open(dir, path, DIRECTORY, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// Open the directory `path`, with `root` standing for `/` in the path and in every link on the way.
pub(crate) fn open_in_root(root: impl AsFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    open(root, path, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty(), ResolveFlags::IN_ROOT)
}
