//! Content and metadata of files, in a thread of their own.
//!
//! Making a file and filling it are about the same work for the kernel. The extractor makes files, and this thread fills
//! them, behind it: both processors have something to do while small files are unpacked, and the kernel's lock on the
//! volume's tree is not held up by copying.
//!
//! The order of calls on one file matters and is always: create, write, owner, mode, attributes, time, close.
//! Owner before mode, because `chown` clears setuid and setgid; before attributes, because it drops file
//! capabilities; time last, because writing changes it.

use super::dirs::{change_owner, set_times};
use super::extract::{entry_error, timespec, within};
use super::remove::content;
use super::twin::{Twin, Twins};
use super::xattr;
use crate::error::{Error, Result, joined};
use crate::tar::Entry;
use bytes::Bytes;
use rustix::fs::Mode;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Files handed over at once: waking a thread costs as much as making a file.
const FILES: usize = 32;
/// Bytes handed over at once.
const BYTES: usize = 256 << 10;
/// Batches that wait. With the one in work and the one in the making, at most 6 * `FILES` files are open.
const BATCHES: usize = 4;

/// A file that was made, and what is still to be done to it.
pub(super) struct Made {
    pub file: File,
    pub entry: Arc<Entry>,
    /// Owner on the host, where making it did not give it.
    pub owner: Option<(u32, u32)>,
}

enum Task {
    Begin(Made),
    /// One of these files may have the content of the one that was begun.
    Compare(Vec<Twin>),
    /// Bytes for the file that was begun, at an offset.
    Data(u64, Bytes),
    End,
    /// Share the content of another file; says whether that was possible.
    Share(File, SyncSender<bool>),
    /// Say so when everything before is done.
    Tell(SyncSender<()>),
}

/// What was filled.
#[derive(Default)]
pub(super) struct Filled {
    /// Bytes of content in files with holes: where these begin and end is the file system's.
    pub sparse: u64,
    /// Bytes that were cloned, by the volume that has them (`Known::name`).
    pub cloned: BTreeMap<usize, u64>,
}

/// The sending end. Feed it `begin`, `data`, `end` for each file, and `finish` once.
pub(super) struct Filler {
    batch: Vec<Task>,
    files: usize,
    bytes: usize,
    /// `None` once the thread was told to end.
    queue: Option<SyncSender<Vec<Task>>>,
    thread: Option<JoinHandle<Result<Filled>>>,
}

impl Filler {
    pub(super) fn start() -> Result<Self> {
        let (queue, batches) = sync_channel(BATCHES);
        let thread = std::thread::Builder::new().name("fill".into()).spawn(move || fill(&batches));
        let thread = thread.map_err(|e| Error::io("starting a thread", e))?;
        Ok(Self { batch: Vec::new(), files: 0, bytes: 0, queue: Some(queue), thread: Some(thread) })
    }

    pub(super) fn begin(&mut self, made: Made) {
        self.files += 1;
        self.batch.push(Task::Begin(made));
    }

    /// The file that was begun may have the content of one of these.
    pub(super) fn compare(&mut self, twins: Vec<Twin>) {
        self.batch.push(Task::Compare(twins));
    }

    pub(super) fn data(&mut self, offset: u64, bytes: Bytes) -> Result<()> {
        self.bytes += bytes.len();
        self.batch.push(Task::Data(offset, bytes));
        if self.bytes < BYTES { Ok(()) } else { self.hand_over() }
    }

    pub(super) fn end(&mut self) -> Result<()> {
        self.batch.push(Task::End);
        if self.files < FILES { Ok(()) } else { self.hand_over() }
    }

    /// Share the content of `source` with the file that was begun (`FICLONE`); false if that is not possible.
    pub(super) fn share(&mut self, source: &File) -> Result<bool> {
        let source = source.try_clone().map_err(|e| Error::io("dup", e))?;
        let (done, told) = sync_channel(1);
        self.batch.push(Task::Share(source, done));
        self.hand_over()?;
        told.recv().map_err(|_| self.failure())
    }

    /// Wait until all files are as they shall be.
    pub(super) fn drain(&mut self) -> Result<()> {
        let (done, told) = sync_channel(1);
        self.batch.push(Task::Tell(done));
        self.hand_over()?;
        told.recv().map_err(|_| self.failure())
    }

    /// All files are begun and ended: wait for the last one.
    pub(super) fn finish(mut self) -> Result<Filled> {
        self.hand_over()?;
        self.join()
    }

    fn hand_over(&mut self) -> Result<()> {
        (self.files, self.bytes) = (0, 0);
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(3 * FILES));
        match self.queue.as_ref().map(|queue| queue.send(batch)) {
            Some(Ok(())) => Ok(()),
            _ => Err(self.failure()),
        }
    }

    /// Why the thread ended before it was told to.
    fn failure(&mut self) -> Error {
        self.join().err().unwrap_or_else(|| Error::layer("internal error: nobody fills files"))
    }

    fn join(&mut self) -> Result<Filled> {
        self.queue = None;
        self.thread.take().map_or_else(|| Ok(Filled::default()), |thread| joined(thread.join()))
    }
}

impl Drop for Filler {
    /// Nobody must still be writing when the extractor is gone.
    fn drop(&mut self) {
        let _ = self.join();
    }
}

fn fill(batches: &Receiver<Vec<Task>>) -> Result<Filled> {
    let mut open: Option<Open> = None;
    let mut filled = Filled::default();
    let mut buffer = Vec::new();
    for task in batches.iter().flatten() {
        match task {
            Task::Begin(made) => open = Some(Open { made, written: 0, twins: None }),
            Task::Compare(twins) => {
                if let Some(open) = &mut open {
                    open.twins = Twins::open(&twins);
                }
            }
            Task::Data(offset, bytes) => {
                if let Some(open) = &mut open {
                    open.take(offset, &bytes, &mut filled, &mut buffer)?;
                }
            }
            Task::Share(source, done) => {
                let shared = open.as_mut().is_some_and(|Open { made, written, .. }| {
                    let shared = rustix::fs::ioctl_ficlone(&made.file, &source).is_ok();
                    if shared {
                        *written = source.metadata().map_or(0, |found| found.len());
                    }
                    shared
                });
                // Who asked may be gone.
                let _ = done.send(shared);
            }
            Task::End => {
                if let Some(mut open) = open.take() {
                    open.settle(&mut filled, &mut buffer)?;
                    let Open { made, written, .. } = open;
                    complete(&made, written)?;
                    if made.entry.sparse {
                        filled.sparse += content(&rustix::fs::fstat(&made.file).map_err(|e| entry_error("stat", &made.entry, e))?);
                    }
                }
            }
            // Who asked may be gone.
            Task::Tell(done) => drop(done.send(())),
        }
    }
    Ok(filled)
}

/// The file that is being filled.
struct Open {
    made: Made,
    /// Where its content ends so far, with what only its twins have.
    written: u64,
    twins: Option<Twins>,
}

impl Open {
    fn take(&mut self, offset: u64, bytes: &[u8], filled: &mut Filled, buffer: &mut Vec<u8>) -> Result<()> {
        let is_known = self.twins.as_mut().is_some_and(|twins| twins.compare(bytes, buffer));
        if !is_known {
            self.settle(filled, buffer)?;
            self.made.file.write_all_at(bytes, offset).map_err(|e| entry_error("write", &self.made.entry, e))?;
        }
        self.written = offset + bytes.len() as u64;
        Ok(())
    }

    /// Have in the file what only its twins had until now.
    fn settle(&mut self, filled: &mut Filled, buffer: &mut Vec<u8>) -> Result<()> {
        if let Some(twins) = self.twins.take() {
            let (volume, cloned) = twins.settle(&self.made.file, buffer).map_err(|e| entry_error("write", &self.made.entry, e))?;
            if cloned > 0 {
                *filled.cloned.entry(volume).or_default() += cloned;
            }
        }
        Ok(())
    }
}

fn complete(made: &Made, written: u64) -> Result<()> {
    let Made { file, entry, owner } = made;
    if written < entry.size {
        file.set_len(entry.size).map_err(|e| entry_error("truncate", entry, e))?;
    }
    if let Some(owner) = *owner {
        change_owner(file, owner).map_err(|e| entry_error("chown", entry, e))?;
    }
    // Creating gives the permission bits; setuid, setgid and sticky are only safe once the owner is right.
    if entry.mode & 0o7000 != 0 {
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(|e| entry_error("chmod", entry, e))?;
    }
    xattr::set_kept(file, &entry.xattrs).map_err(|e| within("extended attributes of", entry, e))?;
    set_times(file, timespec(entry.mtime)).map_err(|e| entry_error("chtimes", entry, e))
}
