//! The pipeline: blob -> digest -> inflate in one thread, diff id in another, tar -> names in a third, content in a fourth (`Extractor`).
//!
//! They meet in bounded channels of buffers that go round, so that memory does not depend on the layer.

use crate::blob::{BlobReader, Expected, Source, check_digest};
use crate::error::{Error, Result, joined};
use crate::inflate::Decoder;
use crate::layer::{Extractor, Options, Stats};
use crate::sys;
use crate::tar::{Event, TarReader};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of one buffer: large enough that handing over costs nothing, small enough to stay in the second-level cache.
const CHUNK: usize = 256 << 10;
/// Buffers in flight. A layer has stretches of small files, in which the writing is behind, and of large ones, in which the
/// inflating is: 24 MiB bridge most of them.
const CHUNKS: usize = 96;
/// The same for a blob that is still being downloaded: what is ahead of the unpacking is kept there already, compressed.
const CHUNKS_OF_DOWNLOAD: usize = 8;

/// Buffers that are not in use. The next layer takes those of the one before: the allocator would keep both.
static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn spare() -> MutexGuard<'static, Vec<Vec<u8>>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer on its way. It is spare when the last piece of it is dropped.
struct Chunk(Vec<u8>);

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut spare = spare();
        if spare.len() < CHUNKS {
            spare.push(std::mem::take(&mut self.0));
        }
    }
}

/// One layer to unpack.
pub struct Job {
    /// The blob.
    pub source: Source,
    /// What it must be.
    pub expected: Expected,
    /// Its media type, empty where unknown.
    pub media_type: String,
    /// The volume's directory.
    pub root: OwnedFd,
    /// How to apply it.
    pub options: Options,
}

/// What an unpacked layer was.
#[derive(Debug, Default)]
pub struct Report {
    /// Counters of the extraction.
    pub stats: Stats,
    /// Things worth a line in the log.
    pub notes: Vec<String>,
}

/// Unpack one layer. On success the blob was what was promised, to the last byte; on failure the directory holds
/// something in between and must be thrown away. Spawns threads of its own; the caller's umask stays.
pub fn unpack(job: Job, cancel: &AtomicBool) -> Result<Report> {
    let Job { source, expected, media_type, root, options } = job;
    let limits = options.limits.clone();
    let chunks = match source {
        Source::File(_) | Source::Part(_) => CHUNKS,
        Source::Spool(_) => CHUNKS_OF_DOWNLOAD,
    };
    std::thread::scope(|scope| {
        let (full_in, full_out) = sync_channel(chunks);
        let producer = std::thread::Builder::new()
            .name("inflate".into())
            .spawn_scoped(scope, move || {
                let diff_id = expected.diff_id.clone();
                inflate(BlobReader::new(source, expected, cancel), diff_id.as_deref(), &media_type, &full_in)
            })
            .map_err(|e| Error::io("starting a thread", e))?;
        let consumer = std::thread::Builder::new()
            .name("extract".into())
            .spawn_scoped(scope, move || -> Result<Stats> {
                // The modes in the archive are final; ours must not take bits away.
                sys::unshare_fs().map_err(|e| Error::io("unshare", e))?;
                rustix::process::umask(rustix::fs::Mode::empty());
                extract(TarReader::new(limits), Extractor::new(root, options)?, &full_out)
            })
            .map_err(|e| Error::io("starting a thread", e))?;
        let stats = joined(consumer.join());
        let notes = joined(producer.join());
        settle(stats, notes)
    })
}

/// Which of two failures is the reason. A blob that is not what was promised explains any trouble with its content;
/// trouble with the disk explains why the blob was not read to its end.
fn settle(stats: Result<Stats>, notes: Result<Vec<String>>) -> Result<Report> {
    match (stats, notes) {
        (Ok(stats), Ok(notes)) => Ok(Report { stats, notes }),
        (Err(Error::Layer(_)) | Ok(_), Err(blob)) | (Err(_), Err(blob @ (Error::Blob(_) | Error::Cancelled))) => Err(blob),
        (Err(error), _) => Err(error),
    }
}

fn inflate(blob: BlobReader<'_>, diff_id: Option<&str>, media_type: &str, full: &SyncSender<Bytes>) -> Result<Vec<String>> {
    let (decoder, note) = match Decoder::new(blob, media_type) {
        Ok(started) => started,
        Err((error, blob)) => {
            if let Some(blob) = blob {
                blob.verdict()?;
            }
            return Err(error);
        }
    };
    // The digest of what comes out takes a third of the time that inflating does; a processor may be free for it.
    let (plain, to_hash) = sync_channel::<Bytes>(CHUNKS_OF_DOWNLOAD);
    let (is_whole, sha) = std::thread::scope(|scope| {
        let hasher = std::thread::Builder::new()
            .name("digest".into())
            .spawn_scoped(scope, move || Ok(to_hash.into_iter().fold(Sha256::new(), |sha, chunk| sha.chain_update(&chunk))))
            .map_err(|e| Error::io("starting a thread", e))?;
        let is_whole = pass_on(decoder, full, &plain);
        drop(plain);
        let sha = joined(hasher.join());
        Ok((is_whole?, sha?))
    })?;
    if !is_whole {
        return Ok(Vec::new());
    }
    check_digest("diffID", diff_id, sha)?;
    Ok(note.into_iter().collect())
}

/// Give all that comes out to both. False if the extractor gave up, and the blob is good: its reason counts then.
fn pass_on(mut decoder: Decoder<'_>, full: &SyncSender<Bytes>, plain: &SyncSender<Bytes>) -> Result<bool> {
    let ended = loop {
        let mut buffer = spare().pop().unwrap_or_default();
        buffer.resize(CHUNK, 0);
        let filled = match decoder.fill(&mut buffer) {
            Ok(filled) => filled,
            Err(error) => break Err(error),
        };
        buffer.truncate(filled);
        let chunk = Bytes::from_owner(Chunk(buffer));
        if filled > 0 && (plain.send(chunk.clone()).is_err() || full.send(chunk).is_err()) {
            // Only the blob's end tells whether it is bad itself.
            decoder.into_blob().verdict()?;
            return Ok(false);
        }
        if filled < CHUNK {
            break Ok(());
        }
    };
    // A decoder's failure is explained by a wrong digest, if there is one.
    match ended {
        Err(error @ Error::Layer(_)) => {
            decoder.into_blob().verdict()?;
            Err(error)
        }
        Err(error) => Err(error),
        Ok(()) => decoder.into_blob().verdict().map(|()| true),
    }
}

fn extract(mut tar: TarReader, mut extractor: Extractor, full: &Receiver<Bytes>) -> Result<Stats> {
    for chunk in full {
        let mut input = chunk.as_ref();
        while let Some(event) = tar.next(&mut input)? {
            match event {
                Event::Entry(entry) => extractor.begin(entry)?,
                Event::Data { offset, bytes } => extractor.data(offset, chunk.slice_ref(bytes))?,
                Event::End => extractor.end()?,
            }
        }
    }
    tar.finish()?;
    extractor.finish()
}
