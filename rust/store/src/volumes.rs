//! Volumes: built under a temporary name, published when whole and durable.

use crate::Observer;
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::layout::{Place, Store, nanos_now, random};
use crate::locks::{BUILD_DEADLINE, Lock};
use crate::records::VolumeSize;
use groot_btrfs::subvolume;
use rustix::fs::{AtFlags, FileType, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How long to wait for the kernel to free space.
pub const RECLAIM_DEADLINE: Duration = Duration::from_secs(5);
const RECLAIM_PAUSE: Duration = Duration::from_millis(5);

/// How the names of volumes begin that are to be destroyed.
pub const DOOMED: &str = "gc.";
/// What the names of volumes have in them that are being built.
pub const INCOMPLETE: &str = "-incomplete-";

/// The volume of a chain id: finished, or complete under its temporary name and not yet published.
///
/// A new volume may appear under its final name only when its data is on disk, else a power cut leaves a valid name
/// over empty files. The next snapshot of it (a child's, or the image's) writes that data anyway, so publishing comes
/// right after that snapshot and costs nothing.
#[derive(Debug)]
pub struct Volume {
    /// Its chain id.
    pub chain_id: String,
    /// The name it has now.
    pub name: String,
    /// Its root directory.
    pub dir: Folder,
    locks: Vec<Lock>,
}

impl Volume {
    /// Whether it has its final name.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.name == self.chain_id
    }

    /// Give it its final name, and let others use it. `durable` says that a snapshot of it was made; else everything is
    /// synced first.
    pub fn publish(&mut self, store: &Store, durable: bool) -> Result<()> {
        if !self.is_published() {
            if !durable {
                groot_btrfs::sync(&self.dir).map_err(|errno| Error::os(format!("sync {}", self.dir.path().display()), errno))?;
            }
            let volumes = store.folder(Place::Volumes)?;
            let named = volumes.rename(self.name.as_bytes(), self.chain_id.as_bytes());
            if named.is_err() && volumes.has_directory(self.chain_id.as_bytes()) && !store.has_volume(&self.chain_id)? {
                // A copy that was made file by file. It has the name of a volume, and is none: nothing of it is thrown away.
                let aside = format!("copy-{}-{:08x}", self.chain_id, random() as u32);
                volumes.rename(self.chain_id.as_bytes(), aside.as_bytes())?;
                volumes.rename(self.name.as_bytes(), self.chain_id.as_bytes())?;
            } else {
                named?;
            }
            self.name.clone_from(&self.chain_id);
        }
        if let Some(lock) = self.locks.first() {
            lock.share();
        }
        Ok(())
    }

    /// The locks, for the volume above it to hold.
    pub fn give_locks(&mut self) -> Vec<Lock> {
        std::mem::take(&mut self.locks)
    }

    /// Hold these locks, the volume's own first.
    pub fn take_locks(&mut self, locks: Vec<Lock>) {
        self.locks = locks;
    }
}

/// What a volume has to be for an image to be made of it, besides its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// Its bytes were compared with their digests.
    pub validated: bool,
    /// The local file that it was made of (`groot_image::Image::of_tar`).
    pub file: Option<String>,
}

impl Demand {
    /// Volumes of the original, and of older releases, do not say what file they were made of.
    fn is_met_by(&self, size: &VolumeSize) -> bool {
        !(self.validated && size.unvalidated) && (self.file.is_none() || size.file.is_none() || self.file == size.file)
    }
}

/// Names of volumes are text; what else lies in the folder is somebody else's.
fn text(name: &[u8]) -> Option<&str> {
    std::str::from_utf8(name).ok()
}

/// Whether a volume of ours or of the original's later releases can have this name.
#[must_use]
pub fn is_chain_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Store {
    /// Whether there is a finished volume of this name. Raises Os if the disk cannot be read.
    pub fn has_volume(&self, name: &str) -> Result<bool> {
        self.folder(Place::Volumes)?.has_subvolume(name.as_bytes())
    }

    /// Whether there is one that a create may use.
    pub fn has_usable(&self, chain_id: &str, demand: &Demand) -> Result<bool> {
        Ok(self.has_volume(chain_id)? && self.read_size(chain_id).is_none_or(|size| demand.is_met_by(&size)))
    }

    /// Names of the finished volumes, sorted.
    pub fn volumes(&self) -> Result<BTreeSet<String>> {
        let names = self.folder(Place::Volumes)?.names()?;
        let finished = names.iter().filter_map(|name| text(name)).filter(|name| !name.starts_with(DOOMED) && !name.contains(INCOMPLETE));
        Ok(finished.map(str::to_owned).collect())
    }

    /// Make the volume of a layer, under a temporary name: an empty one, or with the content of the volume below. It never has
    /// a limit: under full accounting its snapshots would inherit it.
    pub fn make_volume(&self, chain_id: &str, below: Option<&Volume>) -> Result<Volume> {
        let volumes = self.folder(Place::Volumes)?;
        // In the original's form, so that its `clean` removes what is left of it.
        let name = format!("{chain_id}{INCOMPLETE}{}-{}", nanos_now(), random() as u32);
        match below {
            None => {
                subvolume::create(volumes, name.as_bytes(), None)
                    .map_err(|errno| Error::os(format!("creating subvolume {}", volumes.path_of(name.as_bytes()).display()), errno))?;
            }
            Some(below) => self.snapshot(&below.dir, volumes, name.as_bytes(), None)?,
        }
        let dir = self.open_volume(&name)?;
        let fail = |errno| Error::os(format!("making {}", dir.path().display()), errno);
        let is_new = match below {
            None => dir.entries()?.is_empty(),
            Some(below) => subvolume::is_snapshot_of(&dir, &below.dir).map_err(fail)?,
        };
        if !is_new {
            // The owner of a store can put another subvolume in its place, with something of others in it.
            return Err(fail(Errno::PERM));
        }
        if below.is_none() {
            // What no layer describes must not depend on when it was unpacked.
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let times = Timestamps { last_access: zero, last_modification: zero };
            rustix::fs::utimensat(&dir, c".", &times, AtFlags::empty())
                .map_err(|errno| Error::os(format!("utime {}", dir.path().display()), errno))?;
        }
        Ok(Volume { chain_id: chain_id.to_owned(), name, dir, locks: Vec::new() })
    }

    /// Root directory of a volume, by the name it has now. Raises Os, also for what is no subvolume.
    pub fn open_volume(&self, name: &str) -> Result<Folder> {
        let volumes = self.folder(Place::Volumes)?;
        let fail = |errno| Error::os(format!("open {}", volumes.path_of(name.as_bytes()).display()), errno);
        let dir = volumes.folder(name.as_bytes()).map_err(fail)?;
        let stat = rustix::fs::fstat(&dir).map_err(fail)?;
        if !subvolume::looks_like_root(&stat) || !groot_btrfs::is_btrfs(&dir).map_err(fail)? {
            return Err(fail(Errno::NOTDIR));
        }
        Ok(dir)
    }

    /// The volume with a whole image if it is there, locked with all below it; None if it is not, or went away meanwhile. See
    /// `has_usable` for `demand`; the top one says it of all below it.
    pub fn existing_volume(&self, chain_ids: &[String], demand: &Demand, cancel: &AtomicBool) -> Result<Option<Volume>> {
        let Some((top, below)) = chain_ids.split_last() else { return Ok(None) };
        if !self.has_usable(top, demand)? {
            return Ok(None);
        }
        // Its builder may still be holding it for a moment.
        let mut locks = vec![self.lock(top, true, BUILD_DEADLINE, cancel)?];
        if !self.has_usable(top, demand)? {
            return Ok(None);
        }
        for chain_id in below.iter().rev() {
            // It may have none of its own, or an older clean took it: this image does not need it.
            if !self.has_volume(chain_id)? {
                continue;
            }
            let own = match self.try_lock(chain_id, true)? {
                None if self.has_volume(chain_id)? => Some(self.lock(chain_id, true, BUILD_DEADLINE, cancel)?),
                own => own,
            };
            locks.extend(own);
        }
        for lock in &locks {
            lock.note_use();
        }
        Ok(Some(Volume { chain_id: top.clone(), name: top.clone(), dir: self.open_volume(top)?, locks }))
    }

    /// The exclusive lock on a volume that is missing; None as soon as somebody else has made it. See `has_usable` for
    /// `demand`: what is of no use is taken away, images that were made of it keep theirs.
    pub fn lock_missing(&self, chain_id: &str, demand: &Demand, observer: &dyn Observer, cancel: &AtomicBool) -> Result<Option<Lock>> {
        let held = self.lock_unless(chain_id, false, BUILD_DEADLINE, observer, cancel, || self.has_usable(chain_id, demand))?;
        if held.is_none() || self.has_usable(chain_id, demand)? {
            return Ok(None);
        }
        if self.has_volume(chain_id)? {
            let volumes = self.folder(Place::Volumes)?;
            let doomed = format!("{DOOMED}{chain_id}");
            self.destroy(volumes, doomed.as_bytes())?;
            volumes.rename(chain_id.as_bytes(), doomed.as_bytes())?;
            // Before the record of the next one is on the disk, which does not say what this one's says.
            self.sync()?;
            // Else the next clean does it.
            let _ = self.destroy(volumes, doomed.as_bytes());
            self.remove_volume_records(chain_id)?;
        }
        Ok(held)
    }

    /// Throw away a volume whose building failed, with its record. `full`: it failed for want of space, so whoever tries next
    /// needs what it took.
    pub fn destroy_incomplete(&self, volume: Volume, full: bool, cancel: &AtomicBool) -> Result<()> {
        let Volume { chain_id, name, dir, locks: _held } = volume;
        // The kernel does not free what somebody has open.
        drop(dir);
        self.destroy(self.folder(Place::Volumes)?, name.as_bytes())?;
        if !self.has_volume(&chain_id)? {
            self.remove_volume_records(&chain_id)?;
        }
        if full { self.reclaim(RECLAIM_DEADLINE, cancel) } else { Ok(()) }
    }

    /// Wait, at most `deadline`, until the space of deleted subvolumes can be used again, whoever deleted them. A thread of the kernel
    /// frees it when it wakes, every 30 seconds or with a commit.
    pub fn reclaim(&self, deadline: Duration, cancel: &AtomicBool) -> Result<()> {
        let volumes = self.folder(Place::Volumes)?;
        let is_pending = || match subvolume::has_deleted(volumes) {
            Ok(found) => Ok(Some(found)),
            // Only root may look.
            Err(Errno::PERM) => Ok(None),
            Err(errno) => Err(Error::os("looking for deleted subvolumes", errno)),
        };
        match is_pending()? {
            Some(false) => return Ok(()),
            Some(true) => {}
            // The thread is awake then.
            None => return self.sync(),
        }
        self.sync()?;
        let end = Instant::now() + deadline;
        while is_pending()? == Some(true) {
            if Instant::now() > end {
                return Ok(());
            }
            crate::locks::wait(RECLAIM_PAUSE, cancel)?;
        }
        // What the thread freed may be used again after the commit that follows.
        self.sync()
    }

    /// Write the size record of each volume that has none, by walking it as `du -bs` does (contract, section 8.7).
    pub fn record_missing_sizes(&self, cancel: &AtomicBool) -> Result<()> {
        for chain_id in self.volumes()? {
            if self.read_size(&chain_id).is_some() {
                continue;
            }
            // Who builds it records its size, and who removes it wants none.
            let Some(_held) = self.try_lock(&chain_id, true)? else { continue };
            let layer = match self.open_volume(&chain_id) {
                Ok(dir) => disk_usage(&dir, cancel)?,
                Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NOTDIR)) => continue,
                Err(error) => return Err(error),
            };
            self.write_size(&chain_id, VolumeSize { layer, tree: None, ..VolumeSize::default() })?;
        }
        Ok(())
    }
}

/// Apparent sizes of everything in a tree, files with several names once. What goes meanwhile is left out.
pub(crate) fn disk_usage(root: &Folder, cancel: &AtomicBool) -> Result<u64> {
    let mut total = 0u64;
    // A hundred sparse files can have more than there are numbers.
    walk(root, cancel, &mut |stat| total = total.saturating_add(stat.st_size.cast_unsigned()))?;
    Ok(total)
}

/// Bytes of all regular files of a tree, those with several names once and holes never, as images are counted.
pub fn content(root: &Folder, cancel: &AtomicBool) -> Result<u64> {
    let mut total = 0u64;
    walk(root, cancel, &mut |stat| {
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            total = total.saturating_add(groot_core::layer::content(stat));
        }
    })?;
    Ok(total)
}

/// Visit the root and everything below it, what has several names once. Directories are visited one after the other, by their
/// paths from the root, so no depth needs many descriptors.
fn walk(root: &Folder, cancel: &AtomicBool, visit: &mut dyn FnMut(&rustix::fs::Stat)) -> Result<()> {
    let mut seen = HashSet::new();
    visit(&rustix::fs::fstat(root).map_err(|errno| Error::os(format!("stat {}", root.path().display()), errno))?);
    let mut waiting: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        crate::locks::check(cancel)?;
        let opened = if path.is_empty() { root.folder(b".") } else { root.folder(&path) };
        let Ok(folder) = opened else { continue };
        let names = match folder.names() {
            Err(error) if error.errno() == Some(Errno::NOENT) => continue,
            names => names?,
        };
        for name in names {
            let Ok(Some(stat)) = folder.stat(&name) else { continue };
            // What is mounted there is not of this tree.
            if subvolume::is_mount(&folder, &name).unwrap_or(true) {
                continue;
            }
            if stat.st_nlink > 1 && !crate::folder::is_directory(&stat) && !seen.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            visit(&stat);
            if crate::folder::is_directory(&stat) {
                waiting.push(if path.is_empty() { name } else { [&path[..], &name].join(&b'/') });
            }
        }
    }
    Ok(())
}
