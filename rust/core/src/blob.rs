//! A blob while it is read: counted and hashed, and judged at its end. Nobody can forget to check, because the
//! bytes only come through here.

use crate::error::{Error, Result};
use crate::spool::Spool;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Take};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where a blob's bytes come from.
pub enum Source {
    /// A file that is complete.
    File(File),
    /// So many bytes from where a file stands: a layer that is a member of an archive.
    Part(Take<File>),
    /// A file that is still being downloaded.
    Spool(Arc<Spool>),
}

/// What the manifest and the image configuration promise. `None` is not checked.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// SHA-256 of the blob as stored (hex).
    pub digest: Option<String>,
    /// Bytes of the blob as stored.
    pub size: Option<u64>,
    /// SHA-256 of the uncompressed archive (hex).
    pub diff_id: Option<String>,
}

/// A reader that counts and hashes. Errors are kept as they are (`failure`) because `Read` would flatten them.
pub struct BlobReader<'a> {
    source: Source,
    offset: u64,
    sha: Sha256,
    expected: Expected,
    cancel: &'a AtomicBool,
    failure: Option<Error>,
}

impl<'a> BlobReader<'a> {
    /// Start at the first byte of `source`.
    pub fn new(source: Source, expected: Expected, cancel: &'a AtomicBool) -> Self {
        Self { source, offset: 0, sha: Sha256::new(), expected, cancel, failure: None }
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let cancelled = || self.cancel.load(Ordering::Relaxed);
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let n = match &mut self.source {
            Source::File(file) => file.read(buffer).map_err(|e| Error::io("reading blob", e))?,
            Source::Part(part) => part.read(buffer).map_err(|e| Error::io("reading blob", e))?,
            Source::Spool(spool) => spool.read_at(buffer, self.offset, &cancelled)?,
        };
        self.offset += n as u64;
        if self.expected.size.is_some_and(|size| self.offset > size) {
            return Err(Error::Blob("layer size is greater than the value in the manifest".into()));
        }
        self.sha.update(&buffer[..n]);
        Ok(n)
    }

    /// Read what is left, so that the whole blob is hashed, and say whether it is what was promised. When both the
    /// archive and the digest are bad, the digest is the reason and this is what tells.
    pub fn verdict(mut self) -> Result<()> {
        if let Some(error) = self.failure {
            return Err(error);
        }
        let mut buffer = vec![0; 128 << 10];
        while self.read_some(&mut buffer)? > 0 {}
        if self.expected.size.is_some_and(|size| self.offset < size) {
            return Err(Error::Blob("layer size is less than the value in the manifest".into()));
        }
        check_digest("layerID", self.expected.digest.as_deref(), self.sha)
    }

    /// The error that ended the reading, if it was ours rather than the decoder's.
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }
}

impl Source {
    /// What a descriptor of the caller refers to: a file at its offset or a pipe, to the end or so many bytes. The caller keeps
    /// its own.
    pub fn from_descriptor(raw: i32, length: Option<u64>) -> Result<Self> {
        let file: File = crate::sys::duplicate(raw).map_err(|e| Error::io("blob descriptor", e))?.into();
        Ok(match length {
            None => Self::File(file),
            Some(length) => Self::Part(file.take(length)),
        })
    }
}

/// Open what must be a regular file, or a link to one (builders link blobs); gives its size too. A directory in its place, or a
/// pipe that would hold us, is an error.
pub fn open_regular(path: &Path) -> std::io::Result<(File, u64)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file: File = rustix::fs::open(path, flags, Mode::empty())?.into();
    let found = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => Ok((file, found.st_size.unsigned_abs())),
        FileType::Directory => Err(Errno::ISDIR.into()),
        _ => Err(std::io::Error::other("not a regular file")),
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.failure.is_some() {
            return Err(std::io::Error::other("blob failed"));
        }
        self.read_some(buffer).map_err(|error| {
            self.failure = Some(error);
            std::io::Error::other("blob failed")
        })
    }
}

/// Compare a finished hash with the expected hex digest, in the original's words.
pub(crate) fn check_digest(what: &str, expected: Option<&str>, sha: Sha256) -> Result<()> {
    let Some(expected) = expected else { return Ok(()) };
    let actual = hex(&sha.finalize());
    if actual == expected {
        return Ok(());
    }
    Err(Error::Blob(format!("{what} digest mismatch: expected: {expected}, actual: {actual}")))
}

/// SHA-256 of `bytes` in hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    fn file(bytes: &[u8]) -> Source {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        Source::File(file)
    }

    fn verdict(bytes: &[u8], digest: Option<&str>, size: Option<u64>) -> Result<()> {
        let expected = Expected { digest: digest.map(str::to_owned), size, diff_id: None };
        BlobReader::new(file(bytes), expected, &AtomicBool::new(false)).verdict()
    }

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn says_what_is_wrong() {
        verdict(b"abc", Some(ABC), Some(3)).unwrap();
        verdict(b"anything", None, None).unwrap();
        let text = |r: Result<()>| r.unwrap_err().to_string();
        assert!(text(verdict(b"abd", Some(ABC), Some(3))).starts_with("layerID digest mismatch: expected: ba78"));
        assert!(text(verdict(b"abc", Some(ABC), Some(2))).contains("greater than the value in the manifest"));
        assert!(text(verdict(b"abc", Some(ABC), Some(4))).contains("less than the value in the manifest"));
    }
}
