//! Locks between processes: flock on files below `locks/`, under the original's names (contract, section 17).
//!
//! | lock | shared | exclusive |
//! | --- | --- | --- |
//! | `global-groot-lock` | create, from planning to the end | clean, while it marks, if it gets it at once |
//! | `<chain id>` | create, on all volumes of its image, until it has a record | create, while it builds the volume; clean, to mark it |
//! | `groot-gc-lock` | | clean, from start to end; check, while it repairs |
//! | `pull-<hash>` | | create, while it asks a registry for one image on behalf of one caller |
//!
//! Create takes chain locks from the top of its image downwards, so two creates never wait for each other in a circle.
//! Clean only ever tries chain locks. Nobody waits without a deadline. Check looks whether a lock is held by holding it
//! shared for a moment (`observe`), and holds a volume's lock shared while it verifies its content.

use crate::error::{Error, Kind, Result, text_of};
use crate::folder::Folder;
use crate::holder::{Holder, holder_of};
use crate::layout::{Place, Store};
use crate::{Level, Nobody, Observer};
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The lock that every create shares.
pub const GLOBAL: &str = "global-groot-lock";
/// The lock of clean.
pub const GARBAGE: &str = "groot-gc-lock";

/// How long a create waits while a clean (ours: milliseconds) holds the whole store.
pub const GLOBAL_DEADLINE: Duration = Duration::from_secs(60);
/// How long to wait for another process that builds the same volume.
pub const BUILD_DEADLINE: Duration = Duration::from_secs(3600);

/// How long a process that others wait for may be stopped.
const STOPPED_DEADLINE: Duration = Duration::from_secs(20);
/// How long to wait before it is said for whom, and between looks at that process.
const LOOK_EVERY: Duration = Duration::from_secs(5);

const NOTE_BYTES: usize = 128;
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// A held lock; let go when it is dropped, or by the kernel when the process ends.
#[derive(Debug)]
pub struct Lock {
    file: Option<File>,
    /// How long it took to get it.
    pub waited: Duration,
}

impl Lock {
    /// Let others have it too, without letting go in between: Linux makes a shared lock of an exclusive one in one step.
    pub fn share(&self) {
        if let Some(file) = &self.file {
            let _ = rustix::fs::flock(file, FlockOperation::NonBlockingLockShared);
        }
    }

    /// Note that what is locked is used now: in the time of the file, which `last_use` gives. At most once a minute, because it is
    /// one more thing to write.
    pub fn note_use(&self) {
        let Some(file) = &self.file else { return };
        let is_fresh = |stat: &rustix::fs::Stat| crate::layout::nanos_now() / 1_000_000_000 < u128::from(stat.st_mtime.unsigned_abs()) + 60;
        if !rustix::fs::fstat(file).is_ok_and(|stat| is_fresh(&stat)) {
            let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
            let _ = rustix::fs::futimens(file, &rustix::fs::Timestamps { last_access: now, last_modification: now });
        }
    }

    /// Leave a note in the lock file for the next holder.
    pub(crate) fn write_note(&self, note: &str) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut bytes = [b' '; NOTE_BYTES];
        let length = note.len().min(NOTE_BYTES);
        bytes[..length].copy_from_slice(&note.as_bytes()[..length]);
        file.write_all_at(&bytes, 0).map_err(|error| Error::io("writing a note", &error))
    }

    /// The note that an earlier holder left, or nothing.
    pub(crate) fn read_note(&self) -> String {
        let mut bytes = [0; NOTE_BYTES];
        let length = self.file.as_ref().and_then(|file| file.read_at(&mut bytes, 0).ok()).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..length]).trim_end().to_owned()
    }
}

/// Looks now and then at the process that holds a lock.
struct Watch<'a> {
    key: &'a str,
    looked: Instant,
    holder: Option<Holder>,
    stopped_since: Option<Instant>,
}

impl Watch<'_> {
    /// Raises `LockTimeout` if the process has been stopped for long.
    fn look(&mut self, folder: &Folder, observer: &dyn Observer) -> Result<()> {
        if self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        let known = self.holder;
        self.holder = holder_of(folder, &file_name(self.key));
        let Some(Holder { pid, is_stopped }) = self.holder else { return Ok(()) };
        if self.holder != known {
            let state = if is_stopped { "stopped" } else { "running" };
            observer.log(Level::Info, "waiting-for-lock", &[("key", self.key), ("process", &pid.to_string()), ("state", state)]);
            self.stopped_since = is_stopped.then(Instant::now);
        }
        if self.stopped_since.is_some_and(|since| since.elapsed() > STOPPED_DEADLINE) {
            let text = format!("process {pid}, which holds the '{}' file lock, is stopped", self.key);
            return Err(
                Error::new(Kind::LockTimeout, text).hint(format!("`kill -CONT {pid}` lets it go on, `kill -KILL {pid}` frees the lock"))
            );
        }
        Ok(())
    }
}

fn file_name(key: &str) -> Vec<u8> {
    format!("{}.lock", key.replace('/', "")).into_bytes()
}

impl Store {
    /// The lock if it is free now. Raises Store if its file cannot be used.
    pub fn try_lock(&self, key: &str, shared: bool) -> Result<Option<Lock>> {
        let folder = self.folder(Place::Locks)?;
        let name = file_name(key);
        let path = || folder.path_of(&name).display().to_string();
        let fail = |errno| Error::store(format!("creating lock file for key `{key}`: open {}: {}", path(), text_of(errno)));
        loop {
            let file = match folder.open_or_make(&name, self.owner()) {
                Err(Errno::INVAL) => {
                    return Err(Error::store(format!("creating lock file for key `{key}`: {} is not a lock file", path())));
                }
                other => other.map_err(fail)?,
            };
            if !flock(&file, shared).map_err(fail)? {
                return Ok(None);
            }
            // Clean removes lock files of volumes that are gone: a lock on a removed file locks nothing.
            if is_at(&file, folder, &name) {
                return Ok(Some(Lock { file: Some(file), waited: Duration::ZERO }));
            }
        }
    }

    /// The lock, shared, if nobody holds it exclusively; writes nothing. If the lock has no file nobody holds it, and the lock
    /// that is given holds nothing. Raises Os if the file cannot be opened.
    pub fn observe(&self, key: &str) -> Result<Option<Lock>> {
        let folder = self.folder(Place::Locks)?;
        let name = file_name(key);
        loop {
            let file = match folder.file(&name, OFlags::RDONLY) {
                Ok(file) => file,
                Err(Errno::NOENT) => return Ok(Some(Lock { file: None, waited: Duration::ZERO })),
                Err(errno) => return Err(Error::os(format!("open {}", folder.path_of(&name).display()), errno)),
            };
            let held = flock(&file, true);
            if !held.map_err(|errno| Error::os(format!("locking {}", folder.path_of(&name).display()), errno))? {
                return Ok(None);
            }
            if is_at(&file, folder, &name) {
                return Ok(Some(Lock { file: Some(file), waited: Duration::ZERO }));
            }
        }
    }

    /// The lock, waiting at most `deadline`. Raises `LockTimeout`, Cancelled, Store.
    pub fn lock(&self, key: &str, shared: bool, deadline: Duration, cancel: &AtomicBool) -> Result<Lock> {
        match self.lock_unless(key, shared, deadline, &Nobody, cancel, || Ok(false))? {
            Some(lock) => Ok(lock),
            None => Err(Error::store("unreachable: a condition that never holds held")),
        }
    }

    /// As `lock`, but None as soon as `condition` holds while others have the lock. Tells the observer whom it waits for. A process that
    /// is stopped does not let go, so it is not waited for as long as others.
    pub fn lock_unless(
        &self,
        key: &str,
        shared: bool,
        deadline: Duration,
        observer: &dyn Observer,
        cancel: &AtomicBool,
        condition: impl Fn() -> Result<bool>,
    ) -> Result<Option<Lock>> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut watch = Watch { key, looked: begun, holder: None, stopped_since: None };
        loop {
            if let Some(mut lock) = self.try_lock(key, shared)? {
                lock.waited = begun.elapsed();
                return Ok(Some(lock));
            }
            if condition()? {
                return Ok(None);
            }
            if begun.elapsed() > deadline {
                let text = format!("timed out waiting for the '{key}' file lock after '{}s'", deadline.as_secs_f64());
                return Err(Error::new(Kind::LockTimeout, text)
                    .hint("another grootfs process holds it; `fuser` on the file below `locks/` of the store names it"));
            }
            watch.look(self.folder(Place::Locks)?, observer)?;
            wait(pause, cancel)?;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
    }

    /// When a volume was used last, in seconds; 0 if nobody knows.
    #[must_use]
    pub fn last_use(&self, chain_id: &str) -> i64 {
        let stat = self.folder(Place::Locks).ok().and_then(|folder| folder.stat(&file_name(chain_id)).ok().flatten());
        stat.map_or(0, |stat| stat.st_mtime)
    }

    /// Let go of a lock, held exclusively, on what there is not and need not be: its file goes with it.
    pub fn discard(&self, key: &str, held: Lock) -> Result<()> {
        let removed = self.remove_lock_file(&file_name(key));
        drop(held);
        removed
    }

    /// Remove the file of a lock that this process holds.
    pub(crate) fn remove_lock_file(&self, name: &[u8]) -> Result<()> {
        let folder = self.folder(Place::Locks)?;
        folder.unlink(name).map_err(|errno| Error::os(format!("unlink {}", folder.path_of(name).display()), errno))
    }
}

/// Sleep. Raises Cancelled if that is wanted meanwhile.
pub fn wait(pause: Duration, cancel: &AtomicBool) -> Result<()> {
    check(cancel)?;
    std::thread::sleep(pause);
    check(cancel)
}

/// Raise Cancelled if that is wanted.
pub fn check(cancel: &AtomicBool) -> Result<()> {
    if cancel.load(Ordering::Relaxed) { Err(Error::new(Kind::Cancelled, "cancelled")) } else { Ok(()) }
}

/// Lock what a descriptor is open on, if nobody else has it locked.
pub fn flock(file: impl AsFd, shared: bool) -> rustix::io::Result<bool> {
    let operation = if shared { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        // A disk that cannot be read is nobody's lock: there is nothing to wait for.
        Err(errno) => Err(errno),
    }
}

/// Whether `name` still names what the descriptor is open on: a lock on something that lost its name locks nothing.
pub fn is_at(file: impl AsFd, folder: &Folder, name: &[u8]) -> bool {
    let (Ok(held), Ok(Some(named))) = (rustix::fs::fstat(file), folder.stat(name)) else { return false };
    (held.st_ino, held.st_dev) == (named.st_ino, named.st_dev)
}
