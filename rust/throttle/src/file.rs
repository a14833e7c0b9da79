//! The file: a FUSE file system whose root is one regular file, mounted over the file that it shows.
//!
//! What is asked for is done at once and answered when the volume would have done it. A loop device over it with direct I/O has many
//! requests under way; they come joined, as they would reach a disk.

use crate::volume::{Limits, Micros, Volume, Way};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr,
    ReplyData, ReplyEmpty, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use rustix::fs::{FallocateFlags, fallocate};
use serde_json::Value;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Requests under way at once: more than a loop device has.
const BACKGROUND: u16 = 512;
const FOREVER: Duration = Duration::from_secs(3600);

enum Answer {
    Read(ReplyData, Vec<u8>),
    Written(ReplyWrite, u32),
}

impl Answer {
    fn send(self) {
        match self {
            Self::Read(reply, data) => reply.data(&data),
            Self::Written(reply, bytes) => reply.written(bytes),
        }
    }
}

/// An answer that waits; the earliest is the greatest.
struct Later {
    due: Micros,
    number: u64,
    answer: Answer,
}

impl Ord for Later {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due.total_cmp(&self.due).then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Later {}

#[derive(Default)]
struct State {
    volume: Volume,
    later: BinaryHeap<Later>,
    number: u64,
}

/// The volume and what waits for it, shared by the threads.
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    begin: Instant,
}

impl Queue {
    /// Nothing waits, nothing is limited.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), begin: Instant::now() }
    }

    fn now(&self) -> Micros {
        self.begin.elapsed().as_secs_f64() * 1e6
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Have other limits from now on.
    pub fn limit(&self, limits: Limits) {
        let now = self.now();
        self.state().volume.limit(limits, now);
    }

    /// See `Volume::report`.
    #[must_use]
    pub fn report(&self) -> Value {
        let now = self.now();
        self.state().volume.report(now)
    }

    fn answer(&self, way: Way, offset: u64, bytes: u64, answer: Answer) {
        let now = self.now();
        let mut state = self.state();
        let due = state.volume.admit(way, offset, bytes, now);
        if due <= now {
            drop(state);
            answer.send();
            return;
        }
        state.number += 1;
        let number = state.number;
        state.later.push(Later { due, number, answer });
        drop(state);
        self.changed.notify_one();
    }

    /// Send what is due, for ever.
    pub fn work(&self) -> ! {
        let mut state = self.state();
        loop {
            let now = self.now();
            match state.later.peek().map(|later| later.due) {
                Some(due) if due <= now => {
                    if let Some(later) = state.later.pop() {
                        drop(state);
                        later.answer.send();
                        state = self.state();
                    }
                }
                due => {
                    let wait = due.map_or(FOREVER, |due| Duration::from_secs_f64((due - now) / 1e6));
                    state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self::new()
    }
}

/// The file system.
pub struct Served {
    /// The file below the mount.
    pub file: File,
    /// What makes it slow.
    pub queue: Arc<Queue>,
}

impl Served {
    fn attributes(&self) -> io::Result<FileAttr> {
        let found = self.file.metadata()?;
        Ok(FileAttr {
            ino: INodeNo::ROOT,
            size: found.len(),
            blocks: found.blocks(),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: (found.mode() & 0o7777) as u16,
            nlink: 1,
            uid: found.uid(),
            gid: found.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for Served {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.set_congestion_threshold(BACKGROUND);
        Ok(())
    }

    fn getattr(&self, _request: &Request, _ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes() {
            Ok(attributes) => reply.attr(&FOREVER, &attributes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Never in the page cache, which would join and hold back what a disk sees.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut data = vec![0; size as usize];
        match self.file.read_at(&mut data, offset) {
            Ok(length) => {
                data.truncate(length);
                self.queue.answer(Way::Read, offset, u64::from(size), Answer::Read(reply, data));
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.file.write_all_at(data, offset) {
            Ok(()) => self.queue.answer(Way::Write, offset, data.len() as u64, Answer::Written(reply, data.len() as u32)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn flush(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, _data: bool, reply: ReplyEmpty) {
        // What a volume has answered is safe: there is no cache to flush, and nothing to count.
        reply.ok();
    }

    fn fallocate(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        // What is discarded is given back to the machine's disk; on a volume it is no operation.
        match fallocate(&self.file, FallocateFlags::from_bits_retain(mode.cast_unsigned()), offset, length) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(Errno::from_i32(error.raw_os_error())),
        }
    }
}
