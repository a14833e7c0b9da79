//! What a source resolves to: layers, wherever their bytes are, and a configuration.

use crate::chain::chain_id;
use crate::config::{self, Config};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::document::Value;
use crate::error::{Error, Result, quoted};
use crate::manifest::Manifest;
use crate::platform::Wanted;
use groot_core::blob::open_regular;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Annotation with the directory that a layer is unpacked below (contract, section 9.4).
pub const BASE_DIRECTORY: &str = "org.cloudfoundry.experimental.image.base-directory";

/// SHA-256 of an archive without entries, 1024 zero bytes: the layer of an image that has none.
const NOTHING: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// Where the bytes of a layer are. The source decides that, never what lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Somewhere else; whoever resolved the image knows.
    Remote,
    /// A regular file, or a part of one: offset and length.
    File(PathBuf, Option<(u64, u64)>),
    /// A directory of the caller's, to be copied.
    Directory(PathBuf),
    /// There are none: the layer is empty.
    Empty,
}

/// One layer. What is `None` is not checked.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Of the blob as it is stored: its name, wherever blobs have one.
    pub digest: Option<Digest>,
    /// Whether the blob has to be what its digest says. The digest is its name in any case.
    pub is_verified: bool,
    /// Of the uncompressed archive.
    pub diff_id: Option<Digest>,
    /// Bytes of the blob.
    pub size: Option<u64>,
    /// Empty where unknown.
    pub media_type: String,
    /// Other places that have it.
    pub urls: Vec<String>,
    /// Where it is unpacked; empty for the root.
    pub base_directory: String,
    /// Name of the volume with this layer and all below it.
    pub chain_id: String,
    /// Where its bytes are.
    pub origin: Origin,
}

impl Layer {
    /// How messages call it: its digest, or where it is.
    #[must_use]
    pub fn name(&self) -> String {
        match (&self.digest, &self.origin) {
            (Some(digest), _) => digest.to_string(),
            (None, Origin::File(path, _) | Origin::Directory(path)) => path.to_string_lossy().into_owned(),
            _ => self.chain_id.clone(),
        }
    }

    /// Its bytes, if they are on this machine: a file at the right place, and how many from there (`None`: to the end).
    pub fn open(&self) -> std::io::Result<(File, Option<u64>)> {
        match &self.origin {
            Origin::File(path, None) => Ok((open_regular(path)?.0, None)),
            Origin::File(path, Some((offset, length))) => {
                let (mut file, _) = open_regular(path)?;
                file.seek(SeekFrom::Start(*offset))?;
                Ok((file, Some(*length)))
            }
            Origin::Empty => Ok((File::open("/dev/null")?, None)),
            Origin::Directory(_) => Err(std::io::ErrorKind::IsADirectory.into()),
            Origin::Remote => Err(std::io::ErrorKind::NotFound.into()),
        }
    }

    /// Whether the layer's type says that registries need not have it.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.media_type.contains("nondistributable") || self.media_type.contains("foreign")
    }
}

/// A layer without its diff id, which the configuration has.
#[derive(Debug)]
pub(crate) struct Part {
    pub digest: Option<Digest>,
    pub size: u64,
    pub media_type: String,
    pub urls: Vec<String>,
    pub base_directory: String,
    pub origin: Origin,
}

/// Layers, bottom first, and the configuration.
#[derive(Debug, Clone)]
pub struct Image {
    /// At least one.
    pub layers: Vec<Layer>,
    /// The image's `image.json`, byte by byte.
    pub config: Vec<u8>,
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// Paths that the image declares as volumes, sorted.
    pub volumes: Vec<String>,
    /// Lines for the operator.
    pub warnings: Vec<String>,
    /// Digest of what a registry has under the image's name: its manifest, or the index above it.
    pub named: Option<Digest>,
    /// Whether the layers are compared with what the image says of them, as far as it says something.
    pub validated: bool,
    /// What tells the local file that this was made of from another one of the same name and time.
    pub file: Option<String>,
}

impl Image {
    /// An image that is one layer and has no configuration: a tar file, a directory.
    #[must_use]
    pub fn of_one(chain_id: String, origin: Origin) -> Self {
        let layer = Layer {
            digest: None,
            is_verified: false,
            diff_id: None,
            size: None,
            media_type: String::new(),
            urls: Vec::new(),
            base_directory: String::new(),
            chain_id,
            origin,
        };
        Self {
            layers: vec![layer],
            config: config::EMPTY.to_vec(),
            env: Vec::new(),
            volumes: Vec::new(),
            warnings: Vec::new(),
            named: None,
            validated: true,
            file: None,
        }
    }

    /// A tar file, known by its path, as it was given, and its time of modification (contract, section 9.2). Those may be another
    /// file's too: paths can be relative or lead through links, and times are put back or pinned by builders.
    pub fn of_tar(path: &Path) -> std::io::Result<Self> {
        let found = std::fs::metadata(path)?;
        let time = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        let key = [path.as_os_str().as_bytes(), format!("-{time}").as_bytes()].concat();
        Ok(Self { file: Some(identity(&found)), ..Self::of_one(groot_core::blob::sha256(&key), Origin::File(path.to_owned(), None)) })
    }

    /// Join a manifest and its configuration (whose digest the caller has checked). Without `validate` sizes and diff ids of layers
    /// are left out and digests are names only, which is what `--skip-layer-validation` means. `origin` says where a layer's bytes are.
    pub fn join(
        manifest: &Manifest,
        config: Vec<u8>,
        wanted: &Wanted,
        validate: bool,
        origin: impl Fn(&Descriptor) -> Origin,
    ) -> Result<Self> {
        let config = parse_config(manifest, config)?;
        let part = |descriptor: &Descriptor| {
            let base_directory = match descriptor.annotations.get(BASE_DIRECTORY) {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(_) => return Err(Error::image(format!("annotation {BASE_DIRECTORY} is not a string"))),
            };
            Ok(Part {
                digest: Some(descriptor.digest.clone()),
                size: descriptor.size,
                media_type: descriptor.media_type.clone(),
                urls: descriptor.urls.clone(),
                base_directory,
                origin: origin(descriptor),
            })
        };
        Self::assemble(config, manifest.layers.iter().map(part).collect::<Result<_>>()?, wanted, validate)
    }

    /// An image of a configuration and its layers, as far as something else than a manifest says what they are.
    pub(crate) fn assemble(config: Config, parts: Vec<Part>, wanted: &Wanted, validate: bool) -> Result<Self> {
        if parts.len() != config.diff_ids.len() {
            let text = format!("manifest has {} layers, image configuration has {} diff ids", parts.len(), config.diff_ids.len());
            return Err(Error::image(text));
        }
        let warnings = check_platform(&config, wanted)?;
        let mut layers: Vec<Layer> = Vec::with_capacity(parts.len().max(1));
        for (part, diff_id) in parts.into_iter().zip(&config.diff_ids) {
            layers.push(Layer {
                chain_id: chain_id(layers.last().map(|below| below.chain_id.as_str()), diff_id, &part.base_directory),
                is_verified: validate && part.digest.is_some(),
                digest: part.digest,
                diff_id: validate.then(|| diff_id.clone()),
                size: validate.then_some(part.size),
                media_type: part.media_type,
                urls: part.urls,
                base_directory: part.base_directory,
                origin: part.origin,
            });
        }
        if layers.is_empty() {
            layers.push(nothing()?);
        }
        Ok(Self {
            layers,
            config: config.raw,
            env: config.env,
            volumes: config.volumes,
            warnings,
            named: None,
            validated: validate,
            file: None,
        })
    }

    /// Names of the volumes, bottom first.
    pub fn chain_ids(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().map(|layer| layer.chain_id.as_str())
    }

    /// Bytes of all blobs, as the manifest gives them.
    #[must_use]
    pub fn compressed_size(&self) -> u64 {
        self.layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size.unwrap_or(0)))
    }
}

/// What tells a file from another one of the same name and time of modification, and from itself after a change.
#[must_use]
pub fn identity(found: &std::fs::Metadata) -> String {
    format!("{}-{}-{}.{:09}", found.ino(), found.len(), found.ctime(), found.ctime_nsec())
}

/// The layer of an image without layers.
fn nothing() -> Result<Layer> {
    let diff_id = Digest::parse(NOTHING)?;
    Ok(Layer {
        digest: None,
        is_verified: false,
        chain_id: chain_id(None, &diff_id, ""),
        diff_id: None,
        size: Some(0),
        media_type: String::new(),
        urls: Vec::new(),
        base_directory: String::new(),
        origin: Origin::Empty,
    })
}

/// The configuration, or an error that says what the document is instead.
fn parse_config(manifest: &Manifest, raw: Vec<u8>) -> Result<Config> {
    let media_type = &manifest.config.media_type;
    let artifact = !manifest.artifact_type.is_empty() || !Config::is_image(media_type);
    if artifact && !Config::has_rootfs(&raw) {
        let kind = if manifest.artifact_type.is_empty() { media_type } else { &manifest.artifact_type };
        return Err(Error::image(format!("not an image of a container but an artifact of type {}", quoted(kind)))
            .with_hint("name an image with a root file system"));
    }
    Config::parse(raw)
}

/// What there is to say of the platform in the configuration: nothing, a warning, or an error if another one was asked for.
fn check_platform(config: &Config, wanted: &Wanted) -> Result<Vec<String>> {
    let Some(own) = config.platform.as_ref().filter(|own| !own.os.is_empty() && !own.architecture.is_empty()) else {
        return Ok(Vec::new());
    };
    // Builders often leave the variant out of one of the two places.
    if own.os == wanted.platform.os && own.architecture == wanted.platform.architecture {
        return Ok(Vec::new());
    }
    if wanted.explicit {
        return Err(wanted.missing(std::slice::from_ref(own), "the image"));
    }
    let own = groot_core::error::printable(own.to_string().as_bytes());
    Ok(vec![format!("the image is for {own} by its own configuration, not for {}", wanted.platform)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Document, read};
    use crate::platform::Platform;
    use groot_document::json;

    fn digest(number: usize) -> Digest {
        Digest::of(&[number as u8])
    }

    fn manifest(layers: usize, annotation: Option<&str>) -> Manifest {
        let layer = |i| {
            let mut layer = json!({"mediaType": "tar", "digest": digest(i % 3).to_string(), "size": 10});
            if let Some(base) = annotation {
                layer["annotations"] = json!({BASE_DIRECTORY: base});
            }
            layer
        };
        let document = json!({
            "schemaVersion": 2,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(9).to_string(), "size": 2},
            "layers": (0..layers).map(layer).collect::<Vec<_>>(),
        });
        let Document::Manifest(manifest) = read(document.to_string().as_bytes(), "").unwrap() else { panic!("an index") };
        *manifest
    }

    fn config(diff_ids: usize, architecture: &str) -> Vec<u8> {
        let diff_ids: Vec<_> = (0..diff_ids).map(|i| digest(5 + i % 3).to_string()).collect();
        json!({"os": "linux", "architecture": architecture, "rootfs": {"diff_ids": diff_ids}, "config": {"Env": ["A=b"]}})
            .to_string()
            .into()
    }

    fn wanted(explicit: bool) -> Wanted {
        Wanted { platform: Platform::new("linux", "amd64", None), explicit, runs: Some(1) }
    }

    fn join(manifest: &Manifest, config: Vec<u8>) -> Result<Image> {
        Image::join(manifest, config, &wanted(false), true, |_| Origin::Remote)
    }

    #[test]
    fn layers_and_configuration() {
        let image = join(&manifest(2, None), config(2, "amd64")).unwrap();
        assert_eq!(image.layers[1].digest, Some(digest(1)));
        assert_eq!(image.layers[1].diff_id, Some(digest(6)));
        assert_eq!(image.layers[0].chain_id, digest(5).hex());
        assert_eq!((image.env.as_slice(), image.compressed_size(), image.warnings.len()), (&["A=b".to_owned()][..], 20, 0));
    }

    #[test]
    fn skipping_validation_leaves_out_all_that_is_checked_but_names() {
        let manifest = manifest(2, None);
        let image = Image::join(&manifest, config(2, "amd64"), &wanted(false), false, |_| Origin::Remote).unwrap();
        assert!(!image.validated && join(&manifest, config(2, "amd64")).unwrap().validated);
        assert!(image.layers.iter().all(|layer| !layer.is_verified && layer.diff_id.is_none() && layer.size.is_none()));
        assert_eq!(image.layers.iter().map(|layer| layer.digest.clone()).collect::<Vec<_>>(), [Some(digest(0)), Some(digest(1))]);
        assert!(image.chain_ids().eq(join(&manifest, config(2, "amd64")).unwrap().chain_ids()));
    }

    #[test]
    fn e4_counts_of_layers_and_diff_ids() {
        let text = |layers, diff_ids| join(&manifest(layers, None), config(diff_ids, "amd64")).unwrap_err().message;
        assert_eq!(text(2, 3), "manifest has 2 layers, image configuration has 3 diff ids");
        assert_eq!(text(3, 2), "manifest has 3 layers, image configuration has 2 diff ids");
        assert_eq!(text(0, 1), "manifest has 0 layers, image configuration has 1 diff ids");
        let same = join(&manifest(7, None), config(7, "amd64")).unwrap();
        assert_eq!(same.chain_ids().collect::<std::collections::BTreeSet<_>>().len(), 7);
    }

    #[test]
    fn an_image_without_layers_is_an_empty_tree() {
        let image = join(&manifest(0, None), config(0, "amd64")).unwrap();
        assert_eq!((image.layers.len(), &image.layers[0].origin), (1, &Origin::Empty));
        assert_eq!(groot_core::blob::sha256(&[0; 1024]), image.layers[0].chain_id);
    }

    #[test]
    fn the_base_directory_is_part_of_the_names() {
        let ids = |base| join(&manifest(2, base), config(2, "amd64")).unwrap().chain_ids().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(ids(None), ids(Some("/")));
        assert_ne!(ids(None), ids(Some("/home/vcap")));
        assert_ne!(ids(Some("/srv")), ids(Some("/home/vcap")));
    }

    #[test]
    fn a_platform_that_contradicts() {
        let image = join(&manifest(1, None), config(1, "arm64")).unwrap();
        assert_eq!(image.warnings, ["the image is for linux/arm64 by its own configuration, not for linux/amd64"]);
        let error = Image::join(&manifest(1, None), config(1, "arm64"), &wanted(true), true, |_| Origin::Remote).unwrap_err();
        assert_eq!(error.message, "no image found in manifest list for architecture amd64, OS linux");
        assert_eq!(error.hint.unwrap(), "the image holds: linux/arm64");
        assert!(join(&manifest(1, None), config(1, "")).unwrap().warnings.is_empty());
    }

    #[test]
    fn an_artifact_is_called_one() {
        let mut artifact = manifest(1, None);
        artifact.config.media_type = "application/vnd.oci.empty.v1+json".into();
        let error = join(&artifact, b"{}".to_vec()).unwrap_err();
        assert_eq!(error.message, "not an image of a container but an artifact of type 'application/vnd.oci.empty.v1+json'");
        artifact.artifact_type = "application/vnd.example".into();
        assert!(join(&artifact, b"{}".to_vec()).unwrap_err().message.ends_with("'application/vnd.example'"));
        join(&artifact, config(1, "amd64")).unwrap();
    }
}
