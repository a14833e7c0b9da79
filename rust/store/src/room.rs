//! How much room a store has: in its file system, and in the one below it if it is in a sparse file.

use crate::error::{Error, Result};
use crate::layout::Store;
use crate::mounts;
use std::os::unix::fs::MetadataExt;

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Of the file system.
    pub size: u64,
    /// Not in use in it.
    pub free: u64,
    /// What can still be written: no more than the file system below has room for, if that is less.
    pub available: u64,
    /// What the file system has that the store's file is on, if the store has one.
    pub below: Option<u64>,
    /// Whether nothing may be written.
    pub is_read_only: bool,
}

/// The part of a disk that is left when it counts as full.
const LOW: u64 = 20;

impl Room {
    fn of(size: u64, free: u64, available: u64, below: Option<(u64, u64)>, is_read_only: bool) -> Self {
        let used = size.saturating_sub(free);
        // What the file has already is the store's, whatever the others below do.
        let most = below.map(|(host, allocated)| host.saturating_add(allocated.saturating_sub(used)));
        Self { size, free, available: most.map_or(available, |most| available.min(most)), below: below.map(|(host, _)| host), is_read_only }
    }

    /// The most bytes that can be in use.
    #[must_use]
    pub fn reach(&self) -> u64 {
        self.size.saturating_sub(self.free).saturating_add(self.available).min(self.size)
    }

    /// Whether it counts as full.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.available < self.size / LOW
    }
}

impl Store {
    /// The room that there is now. Raises Os.
    pub fn room(&self) -> Result<Room> {
        let of = rustix::fs::fstatvfs(self.top()).map_err(|errno| Error::os(format!("statfs {}", self.path().display()), errno))?;
        let bytes = |blocks: u64| blocks.saturating_mul(of.f_frsize);
        let below = mounts::mounted_file(self.path()).and_then(|file| {
            let host = rustix::fs::statvfs(file.parent()?).ok()?;
            Some((host.f_bavail.saturating_mul(host.f_frsize), std::fs::metadata(&file).ok()?.blocks() * 512))
        });
        let is_read_only = of.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
        Ok(Room::of(bytes(of.f_blocks), bytes(of.f_bfree), bytes(of.f_bavail), below, is_read_only))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_both_is_available() {
        let room = |below| Room::of(1000, 800, 700, below, false);
        assert_eq!((room(None).available, room(None).below, room(None).reach()), (700, None, 900));
        assert_eq!((room(Some((50, 200))).available, room(Some((50, 200))).below), (50, Some(50)));
        assert_eq!(room(Some((50, 200))).reach(), 250);
        assert!(!room(Some((50, 200))).is_low() && room(Some((49, 200))).is_low());
        assert_eq!(room(Some((50, 1000))).available, 700, "a file that has all its blocks needs none");
        assert_eq!(room(Some((5000, 200))).available, 700);
    }
}
