//! A file that one side still writes while the other already reads it.
//!
//! A download lands in a file (so that it can go on after a crash) and the unpacker follows it from the first byte.
//! The reader waits for bytes, for the end, or for the writer's failure.
//!
//! The bytes are checked against a digest anyway, are read once and are soon removed. So they go to the disk in large pieces past
//! the page cache, into a file that BTRFS neither checksums nor copies on write (with checksums it takes such writes through
//! the page cache, Linux 6.15): a twentieth of the processor time of ordinary writes, and what would lie dirty in the page cache is
//! written at the next best moment all the same. A reader that keeps up is served from memory and the disk is never read.
//!
//! What would come again in no time is not worth writing at all: then the writer says so (`Spool::pass_on`), and waits for the
//! reader instead of the disk.

use crate::error::{Error, Result};
use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a waiting reader looks whether it was cancelled.
const TICK: Duration = Duration::from_millis(100);
/// Bytes written to the disk at once. Pieces begin at multiples of it.
const PIECE: usize = 1 << 20;
/// What the kernel wants memory and offsets to be multiples of where it bypasses the page cache, at most.
const BLOCK: usize = 4096;
/// Pieces that stay in memory until they were read.
const KEPT: usize = 4;

/// Bytes of the file from `start` on, in memory that is aligned for the disk.
struct Piece {
    start: u64,
    memory: Vec<u8>,
    /// Where in `memory` the bytes begin.
    skip: usize,
    len: usize,
}

impl Piece {
    /// An empty one, in `memory` that another had or in new one.
    fn new(start: u64, memory: Option<Vec<u8>>) -> Self {
        let memory = memory.unwrap_or_else(|| vec![0; PIECE + BLOCK]);
        let skip = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { start, memory, skip, len: 0 }
    }

    fn end(&self) -> u64 {
        self.start + self.len as u64
    }

    /// Bytes that fit: up to the next multiple of `PIECE` in the file.
    fn room(&self) -> usize {
        PIECE - (self.start % PIECE as u64) as usize - self.len
    }

    fn push(&mut self, bytes: &[u8]) {
        let at = self.skip + self.len;
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.skip..self.skip + self.len]
    }

    /// Copy what is at `offset` and after it; none where that is not in this piece.
    fn copy(&self, buffer: &mut [u8], offset: u64) -> usize {
        if offset < self.start || offset >= self.end() {
            return 0;
        }
        let bytes = &self.bytes()[(offset - self.start) as usize..];
        let len = buffer.len().min(bytes.len());
        buffer[..len].copy_from_slice(&bytes[..len]);
        len
    }
}

struct Progress {
    /// Bytes that are in the file.
    stored: u64,
    /// What comes next, as far as it has come.
    filling: Piece,
    /// Full pieces that were not read yet, or are not yet in the file.
    kept: VecDeque<Arc<Piece>>,
    /// Memory for the next piece: fresh memory costs more than what is copied into it.
    free: Option<Vec<u8>>,
    /// How far the reader has come.
    read: u64,
    /// Whether what is not yet in the file will not be: it goes with being read.
    passes: bool,
    done: bool,
    failed: Option<String>,
}

/// The shared end of writer and reader.
pub struct Spool {
    file: File,
    /// The same past the page cache, where the file system can do that.
    direct: Option<File>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Spool {
    /// A spool over `file`, of which the first `written` bytes are already there.
    #[must_use]
    pub fn new(file: File, written: u64) -> Self {
        if written == 0 {
            // Only an empty file takes it. Elsewhere than on BTRFS it is refused, and not needed.
            let _ = ioctl_getflags(&file).and_then(|flags| ioctl_setflags(&file, flags | IFlags::NOCOW));
        }
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let direct = rustix::fs::open(path, OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()).ok().map(File::from);
        let filling = Piece::new(written, None);
        let progress =
            Progress { stored: written, filling, kept: VecDeque::new(), free: None, read: 0, passes: false, done: false, failed: None };
        Self { file, direct, progress: Mutex::new(progress), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Append bytes. Only one writer may call this.
    pub fn write(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let mut progress = self.lock();
            let (now, later) = bytes.split_at(bytes.len().min(progress.filling.room()));
            progress.filling.push(now);
            let is_full = progress.filling.room() == 0;
            drop(progress);
            self.changed.notify_all();
            if is_full {
                self.save()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// From now on nothing is written to the file: each byte can be had once, by one reader. For the writer only, which has to see
    /// to it that there is never much to be read (`unread`).
    pub fn pass_on(&self) {
        self.lock().passes = true;
    }

    /// Put all that has come into the file. For the writer only, and where much comes `write` does it better by itself.
    pub fn save(&self) -> Result<()> {
        let mut progress = self.lock();
        if progress.filling.len == 0 {
            return Ok(());
        }
        let next = Piece::new(progress.filling.end(), progress.free.take());
        let piece = Arc::new(std::mem::replace(&mut progress.filling, next));
        progress.kept.push_back(Arc::clone(&piece));
        if progress.passes {
            drop(piece);
            progress.forget();
            return Ok(());
        }
        if piece.start != progress.stored {
            // The length of the file says how much of the blob is there: no gaps.
            return Err(Error::io("writing blob to tempfile after what could not be written", rustix::io::Errno::IO));
        }
        drop(progress);
        let direct = self.direct.as_ref().filter(|_| piece.len == PIECE);
        let stored = match direct.map(|direct| direct.write_all_at(piece.bytes(), piece.start)) {
            Some(Ok(())) => Ok(()),
            // Whatever a file system minds about it, it does not mind this.
            _ => self.file.write_all_at(piece.bytes(), piece.start),
        };
        stored.map_err(|e| Error::io("writing blob to tempfile", e))?;
        let mut progress = self.lock();
        progress.stored = piece.end();
        drop(piece);
        progress.forget();
        Ok(())
    }

    /// Fewer bytes than this may be written without access to the disk.
    pub fn room(&self) -> usize {
        let progress = self.lock();
        if progress.passes { usize::MAX } else { progress.filling.room() }
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.lock().filling.end()
    }

    /// Bytes that no reader has had yet.
    pub fn unread(&self) -> u64 {
        let progress = self.lock();
        progress.filling.end().saturating_sub(progress.read)
    }

    /// No more bytes will come; all are in the file.
    pub fn finish(&self) -> Result<()> {
        self.save()?;
        self.lock().done = true;
        self.changed.notify_all();
        Ok(())
    }

    /// The writer gave up; readers end with this text. What came is in the file if that is possible, for whoever goes on.
    pub fn fail(&self, reason: &str) {
        let _ = self.save();
        self.lock().failed = Some(reason.to_owned());
        self.changed.notify_all();
    }

    /// Write everything to `pipe` as it comes, until the end. A closed pipe ends it quietly: the reader had enough.
    pub fn copy_to(&self, mut pipe: impl Write, cancelled: &dyn Fn() -> bool) -> Result<()> {
        let mut buffer = vec![0; 256 << 10];
        let mut offset = 0;
        loop {
            let n = self.read_at(&mut buffer, offset, cancelled)?;
            if n == 0 {
                return Ok(());
            }
            match pipe.write_all(&buffer[..n]) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                other => other.map_err(|e| Error::io("passing on a blob", e))?,
            }
            offset += n as u64;
        }
    }

    /// Read at `offset`, waiting until there is something to read. Zero means the end.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64, cancelled: &dyn Fn() -> bool) -> Result<usize> {
        let mut progress = self.lock();
        loop {
            if cancelled() {
                return Err(Error::Cancelled);
            }
            if let Some(reason) = &progress.failed {
                return Err(Error::Blob(reason.clone()));
            }
            let is_stored = offset < progress.stored;
            let mut len = progress.copy(buffer, offset);
            if len == 0 && is_stored {
                len = buffer.len().min((progress.stored - offset) as usize);
                drop(progress);
                len = self.file.read_at(&mut buffer[..len], offset).map_err(|e| Error::io("reading tempfile", e))?;
                progress = self.lock();
            }
            if len > 0 {
                progress.read = progress.read.max(offset + len as u64);
                progress.forget();
                return Ok(len);
            }
            if progress.done || is_stored {
                return Ok(0);
            }
            progress = self.changed.wait_timeout(progress, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Progress {
    /// Copy what is in memory at `offset`.
    fn copy(&self, buffer: &mut [u8], offset: u64) -> usize {
        let pieces = self.kept.iter().map(AsRef::as_ref).chain([&self.filling]);
        pieces.map(|piece| piece.copy(buffer, offset)).find(|&len| len > 0).unwrap_or(0)
    }

    /// Let go of pieces that were read and are in the file or never will be, or that there are too many of.
    fn forget(&mut self) {
        let safe = if self.passes { u64::MAX } else { self.stored };
        while self.kept.front().is_some_and(|piece| piece.end() <= safe.min(self.read)) {
            let piece = self.kept.pop_front();
            self.reuse(piece);
        }
        // The newest: a reader that is far behind comes to the others first.
        while self.kept.len() > KEPT && self.kept.back().is_some_and(|piece| piece.end() <= self.stored) {
            let piece = self.kept.pop_back();
            self.reuse(piece);
        }
    }

    fn reuse(&mut self, piece: Option<Arc<Piece>>) {
        if let Some(piece) = piece.and_then(Arc::into_inner) {
            self.free = Some(piece.memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn spool() -> Arc<Spool> {
        Arc::new(Spool::new(tempfile::tempfile().unwrap(), 0))
    }

    fn read_from(spool: &Spool, start: usize, most: usize) -> Vec<u8> {
        let (mut all, mut buffer) = (Vec::new(), vec![0; most]);
        loop {
            match spool.read_at(&mut buffer, (start + all.len()) as u64, &|| false).unwrap() {
                0 => return all,
                n => all.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// Bytes of which no two pieces are alike.
    fn noise(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
    }

    fn file_of(spool: &Spool) -> Vec<u8> {
        let mut bytes = vec![0; spool.file.metadata().unwrap().len() as usize];
        spool.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn reader_follows_the_writer() {
        for len in [0, 11, PIECE - 1, PIECE, PIECE + 1, 7 * PIECE + 5000] {
            let (spool, bytes) = (spool(), noise(len));
            let reader = Arc::clone(&spool);
            let got = std::thread::spawn(move || read_from(&reader, 0, 70_001));
            for part in bytes.chunks(300_007) {
                spool.write(part).unwrap();
            }
            assert_eq!(spool.written(), len as u64);
            spool.finish().unwrap();
            assert!(got.join().unwrap() == bytes, "{len} bytes");
            assert!(file_of(&spool) == bytes, "{len} bytes");
            assert_eq!(spool.unread(), 0);
        }
    }

    #[test]
    fn what_is_passed_on_is_read_once_and_not_written() {
        for had in [0, 100, 2 * PIECE + 5] {
            let (spool, bytes) = (spool(), noise(6 * PIECE + 77));
            spool.write(&bytes[..had]).unwrap();
            spool.pass_on();
            assert_eq!(spool.room(), usize::MAX);
            let stored = file_of(&spool).len();
            let (mut got, mut buffer) = (Vec::new(), vec![0; 100_003]);
            for part in bytes[had..].chunks(300_007) {
                spool.write(part).unwrap();
                while spool.unread() > 1 << 19 {
                    let n = spool.read_at(&mut buffer, got.len() as u64, &|| false).unwrap();
                    got.extend_from_slice(&buffer[..n]);
                }
                assert!(spool.lock().kept.len() <= 3, "memory is bounded");
            }
            spool.save().unwrap();
            spool.finish().unwrap();
            got.extend(read_from(&spool, got.len(), 70_001));
            assert!(got == bytes, "{had} bytes before");
            assert_eq!(file_of(&spool).len(), stored);
            assert!(spool.lock().kept.is_empty());
        }
    }

    #[test]
    fn late_readers_and_second_ones() {
        let (spool, bytes) = (spool(), noise(9 * PIECE + 77));
        spool.write(&bytes).unwrap();
        assert!(spool.lock().kept.len() <= KEPT, "memory is bounded");
        assert_eq!(spool.unread(), bytes.len() as u64);
        spool.finish().unwrap();
        for _ in 0..2 {
            assert_eq!(read_from(&spool, 0, 1 << 18), bytes);
        }
        assert!(spool.lock().kept.is_empty());
    }

    #[test]
    fn goes_on_where_another_stopped() {
        for had in [0, 1, 4095, 4096, PIECE - 1, PIECE, 2 * PIECE + 12_345] {
            let bytes = noise(4 * PIECE + 9);
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&bytes[..had], 0).unwrap();
            let spool = Spool::new(file, had as u64);
            spool.write(&bytes[had..]).unwrap();
            spool.finish().unwrap();
            assert!(read_from(&spool, 0, 1 << 18) == bytes && file_of(&spool) == bytes, "{had} bytes had been there");
        }
    }

    #[test]
    fn what_came_before_a_failure_is_in_the_file() {
        let (spool, bytes) = (spool(), noise(PIECE + 100));
        spool.write(&bytes).unwrap();
        assert_eq!(file_of(&spool).len(), PIECE);
        spool.fail("no route");
        assert_eq!(file_of(&spool), bytes);
    }

    #[test]
    fn a_disk_that_refuses() {
        let full = Spool::new(std::fs::OpenOptions::new().read(true).write(true).open("/dev/full").unwrap(), 0);
        assert!(full.write(&noise(PIECE)).unwrap_err().to_string().to_lowercase().contains("no space left"));
        let full = Spool::new(std::fs::OpenOptions::new().read(true).write(true).open("/dev/full").unwrap(), 0);
        full.write(b"x").unwrap();
        assert!(full.finish().is_err());
        full.write(b"y").unwrap();
        assert!(full.finish().unwrap_err().to_string().contains("after what could not be written"));
    }

    #[test]
    fn failure_and_cancellation_wake_the_reader() {
        let failed = spool();
        failed.fail("no route");
        assert_eq!(failed.read_at(&mut [0; 4], 0, &|| false).unwrap_err().to_string(), "no route");
        assert!(matches!(spool().read_at(&mut [0; 4], 0, &|| true), Err(Error::Cancelled)));
    }
}
