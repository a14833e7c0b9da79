//! A file that one side still writes while the other already reads it.
//!
//! A download lands in a file (so that it can go on after a crash) and the unpacker follows it from the first byte.
//! The reader waits for bytes, for the end, or for the writer's failure.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often a waiting reader looks whether it was cancelled.
const TICK: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Progress {
    written: u64,
    done: bool,
    failed: Option<String>,
}

/// The shared end of writer and reader.
pub struct Spool {
    file: File,
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Spool {
    /// A spool over `file`, of which the first `written` bytes are already there.
    #[must_use]
    pub fn new(file: File, written: u64) -> Self {
        let progress = Progress { written, ..Progress::default() };
        Self { file, progress: Mutex::new(progress), changed: Condvar::new() }
    }

    fn update(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut progress);
        self.changed.notify_all();
    }

    /// Append bytes. Only one writer may call this.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        let at = self.written();
        self.file.write_all_at(bytes, at).map_err(|e| Error::io("writing blob to tempfile", e))?;
        self.update(|progress| progress.written = at + bytes.len() as u64);
        Ok(())
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).written
    }

    /// No more bytes will come.
    pub fn finish(&self) {
        self.update(|progress| progress.done = true);
    }

    /// The writer gave up; readers end with this text.
    pub fn fail(&self, reason: &str) {
        self.update(|progress| progress.failed = Some(reason.to_owned()));
    }

    /// Write everything to `pipe` as it comes, until the end. A closed pipe ends it quietly: the reader had enough.
    pub fn copy_to(&self, mut pipe: impl Write) -> Result<()> {
        let mut buffer = vec![0; 256 << 10];
        let mut offset = 0;
        loop {
            let n = self.read_at(&mut buffer, offset, &|| false)?;
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
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if cancelled() {
                return Err(Error::Cancelled);
            }
            if let Some(reason) = &progress.failed {
                return Err(Error::Blob(reason.clone()));
            }
            if progress.written > offset {
                let len = buffer.len().min((progress.written - offset) as usize);
                drop(progress);
                return self.file.read_at(&mut buffer[..len], offset).map_err(|e| Error::io("reading tempfile", e));
            }
            if progress.done {
                return Ok(0);
            }
            progress = self.changed.wait_timeout(progress, TICK).unwrap_or_else(PoisonError::into_inner).0;
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

    #[test]
    fn reader_follows_the_writer() {
        let spool = spool();
        let reader = Arc::clone(&spool);
        let got = std::thread::spawn(move || {
            let (mut all, mut buffer) = (Vec::new(), [0; 7]);
            loop {
                match reader.read_at(&mut buffer, all.len() as u64, &|| false).unwrap() {
                    0 => return all,
                    n => all.extend_from_slice(&buffer[..n]),
                }
            }
        });
        for part in [b"one ".as_slice(), b"two ", b"three"] {
            spool.write(part).unwrap();
        }
        spool.finish();
        assert_eq!(got.join().unwrap(), b"one two three");
    }

    #[test]
    fn failure_and_cancellation_wake_the_reader() {
        let failed = spool();
        failed.fail("no route");
        assert_eq!(failed.read_at(&mut [0; 4], 0, &|| false).unwrap_err().to_string(), "no route");
        assert!(matches!(spool().read_at(&mut [0; 4], 0, &|| true), Err(Error::Cancelled)));
    }
}
