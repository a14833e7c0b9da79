//! Clean: remove the volumes no image uses, and what the dead left (contract, section 16).
//!
//! Marking (renaming `X` to `gc.X`) and destroying are apart: marking is short, destroying may take long and hurts
//! nobody. A create never waits for clean to destroy, and clean never waits for a create: each volume that some create
//! uses or builds is locked by it until its image has a record, and clean only takes what it can lock.

use crate::error::{Error, Kind, Result};
use crate::layout::{Place, Store};
use crate::locks::{GARBAGE, GLOBAL, Lock, check, flock};
use crate::records::Dependencies;
use crate::volumes::{DOOMED, INCOMPLETE, RECLAIM_DEADLINE};
use crate::{Level, Observer, Unit};
use rustix::fs::OFlags;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

/// How long a clean on create keeps interrupted downloads for whoever tries again.
pub const KEEP_DOWNLOADS: Duration = Duration::from_secs(3600);
/// After this time a temporary file that may belong to a running process of the original counts as left behind.
pub const FOREIGN_AGE: Duration = Duration::from_secs(86400);

/// What to clean.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Do nothing unless the cached layers hold at least this many bytes; 0 for no such condition.
    pub threshold: u64,
    /// Or unless less than this many bytes are available; 0 for no such condition.
    pub free: u64,
    /// Or unless less than this many hundredths of the file system are; 0 for no such condition.
    pub free_percent: u64,
    /// Leave the unused layers that were used last, as long as all cached layers hold at most this many bytes; 0: leave none.
    pub keep: u64,
    /// What is committed to images counts too.
    pub counts_limits: bool,
    /// Nothing is done either if they hold exactly as much.
    pub spares_equal: bool,
    /// Images whose volumes stay although no image uses them.
    pub ignore_images: Vec<String>,
    /// Spare interrupted downloads, and do not wait for the kernel to free space.
    pub on_create: bool,
}

/// What became of a clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// The threshold is not reached.
    BelowThreshold,
    /// Another clean is running, and does the work.
    Running,
}

/// Whether a file in `tmp` is one of our downloads: `blob-` and 64 hex digits.
#[must_use]
pub fn is_download(name: &[u8]) -> bool {
    name.strip_prefix(b"blob-").and_then(|digest| std::str::from_utf8(digest).ok()).is_some_and(crate::volumes::is_chain_id)
}

impl Store {
    /// Remove what is unused. Raises Store if something could not be removed, with the first such thing; everything else is done all
    /// the same, and the observer's log names the others.
    pub fn clean(&self, wishes: &Wishes, observer: &dyn Observer, cancel: &AtomicBool) -> Result<Outcome> {
        if !self.is_wanted(wishes, observer)? {
            return Ok(Outcome::BelowThreshold);
        }
        let Some(_running) = self.try_lock(GARBAGE, false)? else {
            observer.log(Level::Info, "another-clean-is-running", &[]);
            return Ok(Outcome::Running);
        };
        // First: while what the dead left has a record, its volumes count as used.
        let mut left = self.remove_unfinished()?;
        for (path, error) in &left {
            observer.log(Level::Error, "removing-unfinished-image-failed", &[("path", &path.to_string_lossy()), ("error", &error.text)]);
        }
        self.mark(wishes, observer)?;
        left.extend(self.destroy_marked(!wishes.on_create, observer, cancel)?);
        match self.remove_stale_groups() {
            Ok(count) => observer.log(Level::Debug, "stale-quota-groups-removed", &[("count", &count.to_string())]),
            Err(error) => observer.log(Level::Debug, "stale-quota-groups-kept", &[("reason", &error.text)]),
        }
        match left.first() {
            None => Ok(Outcome::Done),
            Some((path, error)) => {
                let more = if left.len() > 1 { format!(" (and {} more)", left.len() - 1) } else { String::new() };
                let text = format!("clean left {}{more}: {}", path.display(), error.text);
                let hint = error.hint.clone().unwrap_or_else(|| "the log names all of them (`--log-level error`)".into());
                Err(Error::store(text).hint(hint))
            }
        }
    }

    /// Whether one of the conditions holds, or there is none.
    fn is_wanted(&self, wishes: &Wishes, observer: &dyn Observer) -> Result<bool> {
        if wishes.threshold == 0 && wishes.free == 0 && wishes.free_percent == 0 {
            return Ok(true);
        }
        let room = self.room()?;
        if room.available < wishes.free.max(room.size / 100 * wishes.free_percent) {
            return Ok(true);
        }
        if wishes.threshold == 0 {
            return Ok(false);
        }
        let measured = self.measured_bytes(wishes.counts_limits)?;
        if measured > wishes.threshold || measured == wishes.threshold && !wishes.spares_equal {
            return Ok(true);
        }
        if wishes.threshold <= room.reach() {
            return Ok(false);
        }
        // One that can never be reached is as if there were no clean at all.
        let (asked, most) = (wishes.threshold.to_string(), room.reach().to_string());
        observer.log(Level::Info, "threshold-above-what-the-disk-can-hold", &[("threshold", &asked), ("most", &most)]);
        Ok(room.is_low())
    }

    /// The unused among these volumes that are to go: all, or those that were used longest ago, until the others fit.
    fn choose(&self, unused: Vec<String>, keep: u64) -> Result<Vec<String>> {
        if keep == 0 {
            return Ok(unused);
        }
        let mut ledger = self.ledger()?;
        let (mut chosen, mut cached): (Vec<_>, Vec<_>) = unused.into_iter().partition(|name| !crate::volumes::is_chain_id(name));
        // Of layers of one image, which are used together, the upper ones first: without these nobody needs those below.
        cached.sort_by_key(|name| (self.last_use(name), std::cmp::Reverse(self.read_size(name).and_then(|size| size.tree))));
        for name in cached {
            if ledger.total() <= keep {
                break;
            }
            ledger.remove(&name);
            chosen.push(name);
        }
        Ok(chosen)
    }

    /// What a threshold is compared with: bytes in layers, and if that counts those that are committed to images.
    pub fn measured_bytes(&self, counts_limits: bool) -> Result<u64> {
        let committed = if counts_limits { self.committed_bytes()? } else { 0 };
        Ok(self.cached_bytes()?.saturating_add(committed))
    }

    fn mark(&self, wishes: &Wishes, observer: &dyn Observer) -> Result<()> {
        // Creates of the original hold this lock and nothing on their base volume. With ours running there is no need to
        // wait: they lock what they use.
        let asked = Instant::now();
        let alone = self.try_lock(GLOBAL, false)?;
        observer.measure("ExclusiveLockingTime", asked.elapsed().as_nanos() as u64, Unit::Nanos);
        let held = Instant::now();
        let done = self.mark_held(wishes, alone.as_ref(), observer);
        if alone.is_some() {
            observer.measure("ExclusiveLockHoldTime", held.elapsed().as_nanos() as u64, Unit::Nanos);
        }
        done
    }

    fn mark_held(&self, wishes: &Wishes, alone: Option<&Lock>, observer: &dyn Observer) -> Result<()> {
        if alone.is_some() {
            self.drop_stale_records(observer)?;
        }
        let mut dependencies = Dependencies::default();
        let mut used = dependencies.volumes(self)?;
        for image in &wishes.ignore_images {
            used.extend(self.read_source(image));
        }
        let folder = self.folder(Place::Volumes)?;
        let mut unused = Vec::new();
        for name in folder.names()? {
            let Ok(name) = std::str::from_utf8(&name) else { continue };
            // What is no volume is not ours to remove.
            if !name.starts_with(DOOMED) && !used.contains(name) && self.has_volume(name)? {
                unused.push(name.to_owned());
            }
        }
        for name in self.choose(unused, wishes.keep)? {
            self.doom(&name, &mut dependencies, observer)?;
        }
        self.remove_temporary(alone.is_some(), if wishes.on_create { KEEP_DOWNLOADS } else { Duration::ZERO })?;
        let volumes = self.volumes()?;
        self.prune_sources(&volumes)?;
        if alone.is_some() {
            self.prune_volumes(&volumes)?;
            self.remove_lock_files(&volumes)?;
        }
        Ok(())
    }

    /// Remove the records of images that are gone. Only with the store's lock: a create holds it while it has a directory.
    pub fn drop_stale_records(&self, observer: &dyn Observer) -> Result<()> {
        let images = self.folder(Place::Images)?;
        for id in self.recorded_images()? {
            // A directory that cannot be looked at is still an image.
            if !images.has(&id) {
                observer.log(Level::Info, "record-without-image", &[("id", &String::from_utf8_lossy(&id))]);
                self.remove_dependencies(&id)?;
            }
        }
        Ok(())
    }

    /// Mark a volume for removal, unless somebody uses or builds it.
    pub fn doom(&self, name: &str, dependencies: &mut Dependencies, observer: &dyn Observer) -> Result<()> {
        let chain_id = name.split(INCOMPLETE).next().unwrap_or(name);
        let Some(_held) = self.try_lock(chain_id, false)? else {
            observer.log(Level::Debug, "volume-is-in-use", &[("volume", name)]);
            return Ok(());
        };
        // A create holds its volumes until the image has its record. With the lock ours, whoever used this one is done, and may
        // have come after the first look.
        if dependencies.volumes(self)?.contains(name) {
            return Ok(());
        }
        match self.folder(Place::Volumes)?.rename(name.as_bytes(), format!("{DOOMED}{name}").as_bytes()) {
            Err(error) if error.errno() == Some(rustix::io::Errno::NOENT) => return Ok(()),
            other => other?,
        }
        if name == chain_id { self.remove_volume_records(chain_id) } else { Ok(()) }
    }

    /// Destroy what is marked. Only with the lock of cleans. Gives what could not be destroyed, and why.
    pub fn destroy_marked(&self, wait: bool, observer: &dyn Observer, cancel: &AtomicBool) -> Result<Vec<(PathBuf, Error)>> {
        let mut left = Vec::new();
        let mut destroyed = false;
        let folder = self.folder(Place::Volumes)?;
        for name in folder.names()?.into_iter().filter(|name| name.starts_with(DOOMED.as_bytes())) {
            check(cancel)?;
            let attempt = || if folder.has_subvolume(&name)? { self.destroy(folder, &name) } else { Ok(Vec::new()) };
            match attempt() {
                Ok(ids) => destroyed |= !ids.is_empty(),
                Err(error) if error.kind == Kind::NeedsHelper => return Err(error),
                Err(error) => {
                    let volume = String::from_utf8_lossy(&name).into_owned();
                    observer.log(Level::Error, "destroying-volume-failed", &[("error", &error.text), ("volume", &volume)]);
                    left.push((folder.path_of(&name), error));
                }
            }
        }
        // Who asks for a clean wants the space, also that of images that were deleted a moment ago; a create that cleans on the way does
        // not wait for it.
        if wait || destroyed {
            self.reclaim(if wait { RECLAIM_DEADLINE } else { Duration::ZERO }, cancel)?;
        }
        Ok(left)
    }

    /// Remove what processes left in `tmp`. A download in progress is locked by its process; of other files only their
    /// age tells, unless nobody else is at work.
    pub fn remove_temporary(&self, alone: bool, keep_downloads: Duration) -> Result<()> {
        let folder = self.folder(Place::Temporary)?;
        for name in folder.names()? {
            let Ok(Some(stat)) = folder.stat(&name) else { continue };
            let age = age_of(stat.st_mtime);
            // What goes meanwhile, and directories that are none of ours, are left.
            if is_download(&name) {
                // A time in the future says as little as one long ago.
                if age.is_none_or(|age| age >= keep_downloads) {
                    self.remove_unlocked(&name);
                }
            } else if alone && crate::folder::is_directory(&stat) {
                let _ = folder.rmdir(&name);
            } else if alone || age.is_some_and(|age| age > FOREIGN_AGE) {
                let _ = folder.unlink(&name);
            }
        }
        Ok(())
    }

    /// Remove a download that no process is working on.
    fn remove_unlocked(&self, name: &[u8]) {
        let Ok(folder) = self.folder(Place::Temporary) else { return };
        if let Ok(file) = folder.file(name, OFlags::RDONLY)
            && flock(&file, false).is_ok_and(|held| held)
        {
            let _ = folder.unlink(name);
        }
    }

    /// Remove the lock files of volumes that are gone; the original keeps one for each layer it ever saw.
    pub fn remove_lock_files(&self, volumes: &BTreeSet<String>) -> Result<()> {
        for name in self.folder(Place::Locks)?.names()? {
            let Some(key) = std::str::from_utf8(&name).ok().and_then(|name| name.strip_suffix(".lock")) else { continue };
            if key == GLOBAL || key == GARBAGE || volumes.contains(key) {
                continue;
            }
            // What is no lock file is not ours to remove.
            if let Ok(Some(_held)) = self.try_lock(key, false) {
                self.remove_lock_file(&name)?;
            }
        }
        Ok(())
    }
}

/// How old a file is; None for one from the future.
fn age_of(modified: i64) -> Option<Duration> {
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(modified).ok()?);
    SystemTime::now().duration_since(modified).ok()
}
