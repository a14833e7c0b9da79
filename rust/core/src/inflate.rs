//! Decompression, chosen by what the bytes are, held against what the media type says.

use crate::blob::BlobReader;
use crate::error::{Error, Result, printable};
use flate2::bufread::MultiGzDecoder;
use std::io::{BufRead, BufReader, Read};

/// Bytes read from the blob at once.
const INPUT: usize = 256 << 10;
/// Largest zstd window (log 2): 128 MiB. A frame may ask for 2 GiB, and would get it.
const ZSTD_WINDOW_LOG: u32 = 27;

/// What a layer's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain archive.
    None,
    /// RFC 1952, one or more members.
    Gzip,
    /// RFC 8878, one or more frames.
    Zstd,
}

impl Compression {
    /// By the first bytes. Anything that is neither gzip nor zstd counts as plain.
    #[must_use]
    pub fn of_magic(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A skippable frame may come first (RFC 8878, 3.1.2).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// By media type; `None` where the type does not tell (empty, or a local file).
    #[must_use]
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        if media_type.contains("gzip") {
            Some(Self::Gzip)
        } else if media_type.contains("zstd") {
            Some(Self::Zstd)
        } else if media_type.is_empty() {
            None
        } else {
            Some(Self::None)
        }
    }
}

/// A decoder that still owns its blob, so that the blob can be judged when decoding is over.
pub enum Decoder<'a> {
    /// Nothing to decode.
    None(Box<BufReader<BlobReader<'a>>>),
    /// gzip.
    Gzip(Box<MultiGzDecoder<BufReader<BlobReader<'a>>>>),
    /// zstd.
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<BlobReader<'a>>>>),
}

impl<'a> Decoder<'a> {
    /// Look at the first bytes and choose. The second value is a note for the log where media type and bytes differ
    /// but both are known; a type that promises compression over bytes that have none is refused. With the refusal
    /// the blob is handed back, because a wrong digest explains more than a wrong magic.
    #[allow(clippy::result_large_err)]
    pub fn new(blob: BlobReader<'a>, media_type: &str) -> std::result::Result<(Self, Option<String>), (Error, Option<BlobReader<'a>>)> {
        let mut input = BufReader::with_capacity(INPUT, blob);
        let head = match peek(&mut input) {
            Ok(head) => head,
            Err(error) => return Err((error, Some(input.into_inner()))),
        };
        let found = Compression::of_magic(&head);
        let declared = Compression::of_media_type(media_type);
        let mut note = None;
        if declared.is_some_and(|declared| declared != found) {
            if found == Compression::None {
                let text =
                    format!("expected blob to be of type {media_type}: its first bytes are `{}`", printable(&head[..head.len().min(8)]));
                return Err((Error::layer(text), Some(input.into_inner())));
            }
            note = Some(format!("layer is {found:?} although its media type is {media_type}"));
        }
        let decoder = match found {
            Compression::None => Self::None(Box::new(input)),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(input))),
            Compression::Zstd => Self::Zstd(Box::new(zstd_decoder(input).map_err(|error| (error, None))?)),
        };
        Ok((decoder, note))
    }

    /// Fill `buffer` as far as there are bytes; less than full means the end.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let result = match self {
                Self::None(input) => input.read(&mut buffer[filled..]),
                Self::Gzip(decoder) => decoder.read(&mut buffer[filled..]),
                Self::Zstd(decoder) => decoder.read(&mut buffer[filled..]),
            };
            match result {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.blame(&error)),
            }
        }
        Ok(filled)
    }

    /// A read error is the blob's own if it has one, else the decoder's.
    fn blame(&mut self, error: &std::io::Error) -> Error {
        let (blob, what) = match self {
            Self::None(input) => (input.get_mut(), "layer"),
            Self::Gzip(decoder) => (decoder.get_mut().get_mut(), "gzip"),
            Self::Zstd(decoder) => (decoder.get_mut().get_mut(), "zstd"),
        };
        blob.take_failure().unwrap_or_else(|| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                Error::layer(format!("{what}: unexpected end of data"))
            } else {
                Error::layer(format!("{what}: {error}"))
            }
        })
    }

    /// The blob, for its verdict. Buffered bytes are already hashed.
    #[must_use]
    pub fn into_blob(self) -> BlobReader<'a> {
        match self {
            Self::None(input) => input.into_inner(),
            Self::Gzip(decoder) => decoder.into_inner().into_inner(),
            Self::Zstd(decoder) => decoder.finish().into_inner(),
        }
    }
}

fn peek(input: &mut BufReader<BlobReader<'_>>) -> Result<Vec<u8>> {
    match input.fill_buf() {
        Ok(bytes) => Ok(bytes[..bytes.len().min(16)].to_vec()),
        Err(error) => Err(input.get_mut().take_failure().unwrap_or_else(|| Error::io("reading blob", error))),
    }
}

fn zstd_decoder(input: BufReader<BlobReader<'_>>) -> Result<zstd::stream::read::Decoder<'static, BufReader<BlobReader<'_>>>> {
    let context = |error| Error::io("zstd", error);
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(context)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(context)?;
    Ok(decoder)
}
