//! OCI image layouts on disk (contract, section 9.4; OCI image specification, "Image Layout").
//!
//! Only `index.json` and `blobs/` are read; the marker file is not required.

use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::document::{self, MAX_CONFIG, MAX_MANIFEST, Value};
use crate::error::{Error, Kind, Result};
use crate::image::{Image, Origin};
use crate::index::{self, Index};
use crate::manifest::{Document, Manifest, read};
use crate::platform::{Platform, Wanted};
use groot_core::blob::open_regular;
use groot_core::error::{os_text, printable};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What errors of finding an image begin with (contract, section 7.4).
pub const PREFIX: &str = "fetching image reference: creating image: ";
/// Levels of indexes below `index.json`, or in a registry. A loop would break SHA-256, so this is all the bound that is needed.
pub const MAX_INDEX_DEPTH: usize = 2;

/// Bytes of `index.json`, which has one entry for each name in the layout: some hundred thousand.
const MAX_INDEX: u64 = 32 << 20;
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// `oci:///directory[:tag][@digest]`, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The layout's directory.
    pub path: PathBuf,
    /// Reference name of the image; empty if there is none.
    pub tag: String,
    /// Digest of a manifest or an index; it decides, whatever the tag says.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Query and fragment are dropped, escapes decoded; then a tail that is a digest is cut off, and the first `:` starts the
    /// tag. Any other `@` is part of a name.
    pub fn parse(url: &OsStr) -> Result<Self> {
        let text = url.as_bytes();
        let rest = text.strip_prefix(b"oci://").unwrap_or(text);
        let end = rest.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(rest.len());
        let decoded = unescape(&rest[..end]).map_err(|bad| {
            let (url, bad) = (printable(text), printable(bad));
            Error::source(format!("parse \"{url}\": invalid URL escape \"{bad}\""))
        })?;
        let mut name = decoded.as_slice();
        let mut digest = None;
        if let Some(at) = name.iter().rposition(|byte| *byte == b'@')
            && is_digest_like(&name[at + 1..])
        {
            digest = Some(Digest::parse(&String::from_utf8_lossy(&name[at + 1..]))?);
            name = &name[..at];
        }
        let colon = name.iter().position(|byte| *byte == b':').unwrap_or(name.len());
        let tag = name.get(colon + 1..).unwrap_or_default();
        let mut path = OsString::from("/");
        path.push(OsStr::from_bytes(trimmed(&name[..colon])));
        Ok(Self { path: path.into(), tag: String::from_utf8_lossy(tag).into_owned(), digest })
    }
}

/// Without slashes at both ends.
fn trimmed(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(start, |last| last + 1);
    &path[start..end]
}

/// Whether what follows an `@` is meant as a digest, be it a wrong one: an algorithm, a colon and no more parts of a path.
fn is_digest_like(tail: &[u8]) -> bool {
    (tail.starts_with(b"sha256:") || tail.starts_with(b"sha512:")) && !tail.contains(&b'/')
}

/// Decode the escapes of a URL's path; gives the first that is none.
fn unescape(path: &[u8]) -> std::result::Result<Vec<u8>, &[u8]> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let escape = &path[path.len() - more.len() - 1..][..3.min(more.len() + 1)];
        let digit = |i: usize| char::from(*more.get(i)?).to_digit(16);
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(escape) };
        decoded.push((high * 16 + low) as u8);
        rest = &more[2..];
    }
    Ok(decoded)
}

/// The image that `reference` names, for `wanted`. Documents are read and checked, layers are not looked at. Without `validate`
/// nothing is promised about layers (`--skip-layer-validation`).
pub fn resolve(reference: &Reference, wanted: &Wanted, validate: bool) -> Result<Image> {
    resolve_in(&Directory(&reference.path), &reference.tag, reference.digest.as_ref(), wanted, validate)
}

/// The same for a layout of any kind; see `Reference` for tag and digest.
pub(crate) fn resolve_in(place: &dyn Place, tag: &str, digest: Option<&Digest>, wanted: &Wanted, validate: bool) -> Result<Image> {
    let layout = Layout(place);
    let (manifest, wanted) = layout.manifest(tag, digest, wanted)?;
    // Its size says nothing that the digest does not, and is wrong in test images of the original.
    let config = layout.blob(&manifest.config.digest, None, "config", MAX_CONFIG, true)?;
    Image::join(&manifest, config, &wanted, validate, |layer| place.origin(&blob_name(&layer.digest)))
}

/// Where the files of a layout are.
pub(crate) trait Place {
    /// How messages call it.
    fn name(&self) -> String;
    /// A file of at most `most` bytes, by its name below the layout.
    fn read(&self, name: &str, most: u64) -> Result<Vec<u8>>;
    /// Where the bytes of a file are.
    fn origin(&self, name: &str) -> Origin;
}

/// A layout that is a directory.
struct Directory<'a>(&'a Path);

impl Place for Directory<'_> {
    fn name(&self) -> String {
        printable(self.0.as_os_str().as_bytes())
    }

    fn read(&self, name: &str, most: u64) -> Result<Vec<u8>> {
        read_file(&self.0.join(name), most)
    }

    fn origin(&self, name: &str) -> Origin {
        Origin::File(self.0.join(name), None)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Digest, size, media type and platform of the document that a descriptor leads to.
fn target(descriptor: Descriptor) -> (Digest, Option<u64>, String, Option<Platform>) {
    (descriptor.digest, Some(descriptor.size), descriptor.media_type, descriptor.platform)
}

struct Layout<'a>(&'a dyn Place);

impl Layout<'_> {
    /// The manifest, and what its image is held against.
    fn manifest(&self, tag: &str, digest: Option<&Digest>, wanted: &Wanted) -> Result<(Manifest, Wanted)> {
        // What `index.json` says of a document is not held against it, as in the original: its own test images are like that. What
        // counts is that layers are what the diff ids say.
        let mut check = digest.is_some();
        let (mut digest, mut size, mut media_type, mut platform) = match digest {
            Some(digest) => (digest.clone(), None, String::new(), None),
            None => target(self.choose(tag, wanted)?),
        };
        size = size.filter(|_| check);
        let mut wanted = wanted.clone();
        for _ in 0..=MAX_INDEX_DEPTH {
            wanted = wanted.after(platform.as_ref());
            let body = self.blob(&digest, size, "manifest", MAX_MANIFEST, check)?;
            match read(&body, &media_type)? {
                Document::Manifest(manifest) => return Ok((*manifest, wanted)),
                Document::Index(index) => (digest, size, media_type, platform) = target(index.choose(&wanted)?),
            }
            check = true;
        }
        Err(Error::image(format!("indexes are nested more than {MAX_INDEX_DEPTH} levels deep")))
    }

    /// The entry of `index.json` that a tag names, or the only one.
    fn choose(&self, tag: &str, wanted: &Wanted) -> Result<Descriptor> {
        let body = self.0.read("index.json", MAX_INDEX)?;
        let index = Index::check(&document::parse(&body, "index.json", MAX_INDEX)?, String::new(), "index.json")?;
        let images: Vec<_> = index.entries().iter().filter(|entry| entry.as_object().is_some_and(index::is_image)).collect();
        let hint = || named_hint(&images);
        let candidates: Vec<_> = if tag.is_empty() {
            // The only entry is taken whatever it is; the document then says what is wrong with it.
            if images.is_empty() { index.entries().iter().collect() } else { images.clone() }
        } else {
            images.iter().copied().filter(|entry| name_of(entry) == Some(tag)).collect()
        };
        match candidates[..] {
            [] if tag.is_empty() => {
                Err(Error::source(format!("{PREFIX}no image in oci layout {}", self.0.name())).with_hint("its index.json names none"))
            }
            [] => {
                let tag = printable(tag.as_bytes());
                let text = format!("{PREFIX}creating image source: no descriptor found for reference \"{tag}\"");
                Err(Error { hint: hint(), ..Error::source(text) })
            }
            [only] => only_entry(only, wanted),
            _ if !tag.is_empty() || candidates.iter().all(|entry| name_of(entry).is_none() && has_platform(entry)) => {
                index::choose(candidates.into_iter(), wanted, "the layout")
            }
            _ => {
                let text = format!("{PREFIX}more than one image in oci, choose an image");
                let names = hint().map(|names| format!("; {names}")).unwrap_or_default();
                Err(Error::source(text).with_hint(format!("add `:<tag>` to the image{names}")))
            }
        }
    }

    /// A small blob. Its digest is held against the bytes if `check`, and its size if there is one.
    fn blob(&self, digest: &Digest, size: Option<u64>, what: &str, most: u64, check: bool) -> Result<Vec<u8>> {
        let body = self.0.read(&blob_name(digest), most)?;
        let actual = Digest::of(&body);
        if check && actual != *digest {
            let (expected, actual) = (digest.hex(), actual.hex());
            return Err(Error::image(format!("{PREFIX}{what} digest mismatch: expected: {expected}, actual: {actual}")));
        }
        match size {
            Some(size) if body.len() as u64 != size => {
                Err(Error::image(format!("{PREFIX}{what} size mismatch: expected: {size}, actual: {}", body.len())))
            }
            _ => Ok(body),
        }
    }
}

/// The only entry there is: an error if it is for another platform than the one asked for.
fn only_entry(entry: &Value, wanted: &Wanted) -> Result<Descriptor> {
    let platform = entry.get("platform").and_then(Value::as_object).and_then(Platform::from_object);
    match platform {
        Some(platform) if wanted.explicit && wanted.rank(&platform).is_none() => Err(wanted.missing(&[platform], "the layout")),
        _ => Descriptor::parse(Some(entry), "index entry"),
    }
}

/// A regular file of at most `most` bytes.
fn read_file(path: &Path, most: u64) -> Result<Vec<u8>> {
    let (file, size) = open_regular(path).map_err(|error| {
        let shown = printable(path.as_os_str().as_bytes());
        match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                Error::source("Image source doesn't exist").with_hint(format!("{shown} is missing"))
            }
            _ => Error::source(format!("{PREFIX}open {shown}: {}", os_text(&error))),
        }
    })?;
    let name = path.file_name().map(|name| printable(name.as_bytes())).unwrap_or_default();
    document::check_size(size, &name, most)?;
    let mut body = Vec::with_capacity(size as usize);
    let read = file.take(most + 1).read_to_end(&mut body);
    read.map_err(|error| Error::new(Kind::Source, format!("{PREFIX}read {name}: {}", os_text(&error))))?;
    document::check_size(body.len() as u64, &name, most)?;
    Ok(body)
}

/// The reference name of an entry.
fn name_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(REF_NAME)?.as_str()
}

fn has_platform(entry: &Value) -> bool {
    entry.get("platform").is_some_and(Value::is_object)
}

/// A line with the first names in a layout.
fn named_hint(images: &[&Value]) -> Option<String> {
    let mut names: Vec<_> = images.iter().filter_map(|entry| name_of(entry)).map(|name| printable(name.as_bytes())).collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(8);
    names.truncate(8);
    let dots = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| format!("the layout has {}{dots}", names.join(", ")))
}

#[cfg(test)]
mod tests;
