//! Images in tar files: what `docker save` writes (`docker-archive`), and an OCI layout in a tar (`oci-archive`).
//!
//! A layer is read right out of the archive, from where its member begins. Nothing is unpacked but layers.

use crate::config::Config;
use crate::digest::is_hex;
use crate::document::{self, MAX_CONFIG, MAX_MANIFEST, Value};
use crate::error::{Error, Result};
use crate::image::{Image, Origin, Part};
use crate::layout::{Place, resolve_in};
use crate::manifest::MAX_LAYERS;
use crate::platform::Wanted;
use groot_core::blob::{BlobReader, Expected, Source, open_regular};
use groot_core::error::{os_text, printable};
use groot_core::inflate::Decoder;
use groot_core::limits::Limits;
use groot_core::tar::{BLOCK, Event, Kind, TarReader};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

const SCHEMES: [&str; 2] = ["docker-archive:", "oci-archive:"];
/// Members, more than which no archive of images has: some for each layer of some images.
const MAX_MEMBERS: usize = 8 * MAX_LAYERS;
/// Levels of directories in one: `blobs/sha256/<digest>`. A root file system soon has more, and is not looked at to its end.
const MAX_DEPTH: usize = 3;
/// Links from one member to another that are followed.
const MAX_LINKS: usize = 8;

/// The image that `text` names, if that is an archive of images: `docker-archive:FILE[:NAME]` or `oci-archive:FILE[:NAME]`, or the
/// path of a file. `None` for the path of any other file.
pub fn resolve(text: &OsStr, wanted: &Wanted, validate: bool) -> Result<Option<Image>> {
    let Some((path, name)) = split(text) else {
        return Archive::open(Path::new(text))?.map(|archive| archive.resolve("", wanted, validate)).transpose();
    };
    match Archive::open(path)? {
        Some(archive) => archive.resolve(&name, wanted, validate).map(Some),
        None => Err(Error::source(format!("{} is no archive of an image", shown(path)))
            .with_hint("a tar file of a root file system is given by its path alone")),
    }
}

/// File and name in `docker-archive:FILE[:NAME]` and `oci-archive:FILE[:NAME]`.
#[must_use]
pub fn split(text: &OsStr) -> Option<(&Path, String)> {
    let text = text.as_bytes();
    let rest = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme.as_bytes()))?;
    // Other tools take both spellings.
    let rest = rest.strip_prefix(b"//").unwrap_or(rest);
    let colon = rest.iter().position(|byte| *byte == b':').unwrap_or(rest.len());
    let name = rest.get(colon + 1..).unwrap_or_default();
    Some((Path::new(OsStr::from_bytes(&rest[..colon])), String::from_utf8_lossy(name).into_owned()))
}

/// What a member is.
#[derive(Debug, Clone)]
enum Member {
    /// Offset and length of its bytes.
    Bytes(u64, u64),
    /// The same as another member.
    Link(String),
}

/// A tar file with images in it.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    file: File,
    members: HashMap<String, Member>,
    /// The entries of `manifest.json`, if there is one as `docker save` writes it.
    images: Vec<Value>,
}

impl Archive {
    /// Look whether the file is an archive of images; `None` if it is any other tar file, or none.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let context = |e: std::io::Error| Error::source(format!("open {}: {}", shown(path), os_text(&e)));
        let (file, _) = open_regular(path).map_err(context)?;
        let mut start = [0; 4];
        let read = file.read_at(&mut start, 0).map_err(context)?;
        if start.starts_with(&[0x1f, 0x8b]) || start == [0x28, 0xb5, 0x2f, 0xfd] {
            return refuse_compressed(path, file).map(|()| None);
        }
        let Some(members) = (read == start.len()).then(|| scan(&file)).flatten() else { return Ok(None) };
        let mut archive = Self { path: path.to_owned(), file, members, images: Vec::new() };
        if archive.members.contains_key("manifest.json") {
            let list = archive.read("manifest.json", MAX_MANIFEST).ok().and_then(|body| groot_document::parse_json(&body).ok());
            // A file of this name may be anything else.
            if let Some(Value::Array(images)) = list
                && !images.is_empty()
                && images.iter().all(|image| image["Config"].is_string() && image["Layers"].is_array())
            {
                archive.images = images;
            }
        }
        let is_layout = ["index.json", "oci-layout"].iter().all(|name| archive.members.contains_key(*name));
        Ok((!archive.images.is_empty() || is_layout).then_some(archive))
    }

    /// The image of this name (`repository:tag`, or a reference name of the layout), or the only one.
    pub fn resolve(&self, name: &str, wanted: &Wanted, validate: bool) -> Result<Image> {
        if self.images.is_empty() {
            return resolve_in(self, name, None, wanted, validate);
        }
        let image = self.choose(name)?;
        let config = self.read(image["Config"].as_str().unwrap_or_default(), MAX_CONFIG)?;
        let layers = document::strings(image.as_object().unwrap_or(&document::Map::new()), "Layers", "manifest.json")?;
        if layers.len() > MAX_LAYERS {
            return Err(Error::image(format!("manifest.json: {} layers, more than {MAX_LAYERS}", layers.len())));
        }
        let part = |name: &String| {
            let (offset, size) = self.find(name)?;
            let origin = Origin::File(self.path.clone(), Some((offset, size)));
            Ok(Part { digest: None, size, media_type: String::new(), urls: Vec::new(), base_directory: String::new(), origin })
        };
        let parts = layers.iter().map(part).collect::<Result<_>>()?;
        Image::assemble(Config::parse(config)?, parts, wanted, validate)
    }

    fn choose(&self, name: &str) -> Result<&Value> {
        let names = |image: &'_ Value| -> Vec<String> {
            let names = image["RepoTags"].as_array().into_iter().flatten();
            names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let all = || {
            let mut all: Vec<_> = self.images.iter().flat_map(names).map(|name| printable(name.as_bytes())).take(8).collect();
            all.sort_unstable();
            if all.is_empty() { "no names".to_owned() } else { all.join(", ") }
        };
        // Tools write the name in full.
        let short = |own: &str| {
            let prefixes = ["docker.io/library/", "docker.io/", "localhost/"];
            prefixes.iter().find_map(|prefix| own.strip_prefix(prefix)).unwrap_or(own).to_owned()
        };
        let same = |own: &String| [own.clone(), short(own)].iter().any(|own| own == name || own.strip_suffix(":latest") == Some(name));
        match &self.images[..] {
            [only] if name.is_empty() => Ok(only),
            _ if name.is_empty() => Err(Error::source(format!("more than one image in {}, choose an image", shown(&self.path)))
                .with_hint(format!("write it as docker-archive:FILE:NAME; the archive has {}", all()))),
            images => images.iter().find(|image| names(image).iter().any(same)).ok_or_else(|| {
                let name = printable(name.as_bytes());
                Error::source(format!("no image `{name}` in {}", shown(&self.path))).with_hint(format!("the archive has {}", all()))
            }),
        }
    }

    /// Offset and length of a member's bytes.
    fn find(&self, name: &str) -> Result<(u64, u64)> {
        let mut next = normalised(name);
        for _ in 0..=MAX_LINKS {
            match self.members.get(&next) {
                Some(Member::Bytes(offset, length)) => return Ok((*offset, *length)),
                Some(Member::Link(target)) => next.clone_from(target),
                None => break,
            }
        }
        let hint = format!("{} is missing in {}", printable(name.as_bytes()), shown(&self.path));
        Err(Error::source("Image source doesn't exist").with_hint(hint))
    }
}

impl Place for Archive {
    fn name(&self) -> String {
        shown(&self.path)
    }

    fn read(&self, name: &str, most: u64) -> Result<Vec<u8>> {
        let (offset, length) = self.find(name)?;
        document::check_size(length, &printable(name.as_bytes()), most)?;
        let mut body = vec![0; length as usize];
        self.file
            .read_exact_at(&mut body, offset)
            .map_err(|e| Error::source(format!("read {} in {}: {}", printable(name.as_bytes()), shown(&self.path), os_text(&e))))?;
        Ok(body)
    }

    fn origin(&self, name: &str) -> Origin {
        match self.find(name) {
            Ok(section) => Origin::File(self.path.clone(), Some(section)),
            Err(_) => Origin::Remote,
        }
    }
}

/// The members of a tar file by name; `None` for what is no tar, or cannot be an archive of images.
fn scan(file: &File) -> Option<HashMap<String, Member>> {
    let mut reader = TarReader::new(Limits::default());
    let mut members = HashMap::new();
    let mut block = [0; BLOCK];
    let mut at = 0;
    while file.read_exact_at(&mut block, at).is_ok() {
        at += BLOCK as u64;
        let mut input = &block[..];
        while let Some(event) = reader.next(&mut input).ok()? {
            let Event::Entry(entry) = event else { continue };
            let name = normalised(&String::from_utf8_lossy(&entry.path));
            if members.len() == MAX_MEMBERS || name.split('/').count() > MAX_DEPTH {
                return None;
            }
            let target = String::from_utf8_lossy(&entry.link).into_owned();
            let member = match entry.kind {
                Kind::File => Some(Member::Bytes(at, entry.size)),
                Kind::Hardlink => Some(Member::Link(normalised(&target))),
                Kind::Symlink if target.starts_with('/') => return None,
                Kind::Symlink => {
                    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                    Some(Member::Link(normalised(&format!("{parent}/{target}"))))
                }
                Kind::Directory => None,
                _ => return None,
            };
            members.extend(member.map(|member| (name, member)));
            at += reader.skip_body()?;
        }
    }
    Some(members)
}

/// A name without what makes no difference.
fn normalised(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A compressed archive of images cannot be read in pieces, and would become a root file system of `manifest.json` and tars.
fn refuse_compressed(path: &Path, file: File) -> Result<()> {
    let cancel = AtomicBool::new(false);
    let blob = BlobReader::new(Source::File(file), Expected::default(), &cancel);
    let mut block = [0; BLOCK];
    // What is wrong with the file is said when it is unpacked.
    let Ok((mut decoder, _)) = Decoder::new(blob, "") else { return Ok(()) };
    if !decoder.fill(&mut block).is_ok_and(|filled| filled == BLOCK) {
        return Ok(());
    }
    let first = match TarReader::new(Limits::default()).next(&mut &block[..]) {
        Ok(Some(Event::Entry(entry))) => normalised(&String::from_utf8_lossy(&entry.path)),
        _ => return Ok(()),
    };
    let top = first.split('/').next().unwrap_or_default();
    let digest = top.strip_prefix("sha256:").unwrap_or(top);
    if top == "blobs" || top == "oci-layout" || is_hex(digest.split('.').next().unwrap_or_default()) {
        return Err(Error::source(format!("{} is a compressed archive of an image", shown(path))).with_hint("decompress it first"));
    }
    Ok(())
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests;
