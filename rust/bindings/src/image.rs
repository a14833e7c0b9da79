//! What an image is: the rules are `groot_image`'s, this hands them to Python.

use crate::documents::to_object;
use crate::errors::image_error;
use crate::store::ImageParts;
use groot_core::error::os_text;
use groot_image::document::{self, MAX_CONFIG, MAX_MANIFEST};
use groot_image::layout::MAX_INDEX_DEPTH;
use groot_image::manifest::{Document, read};
use groot_image::{Digest, Origin, Reference, Wanted, archive, chain, config, image, index, layout, manifest};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;

/// Bytes of an image configuration, at most.
pub const CONFIG_LIMIT: u64 = MAX_CONFIG;
/// Bytes of a manifest or index, at most.
pub const MANIFEST_LIMIT: u64 = MAX_MANIFEST;
/// Levels of nested indexes, at most.
pub const INDEX_DEPTH: usize = MAX_INDEX_DEPTH;

/// One layer.
#[pyclass(frozen, module = "groot_fast._core")]
#[derive(Clone)]
pub struct Layer(image::Layer);

/// The bytes of a layer that is on this machine.
#[pyclass(frozen, module = "groot_fast._core")]
pub struct Blob(File, Option<u64>);

#[pymethods]
impl Blob {
    /// The descriptor, which closes with the object.
    pub fn fileno(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// See `groot_image::image::identity`; as of now.
    #[getter]
    fn identity(&self) -> PyResult<String> {
        Ok(image::identity(&self.0.metadata()?))
    }

    /// Bytes that belong to the layer.
    #[getter]
    pub fn length(&self) -> Option<u64> {
        self.1
    }
}

#[pymethods]
impl Layer {
    #[new]
    #[pyo3(signature = (*, chain_id, digest=None, diff_id=None, size=None, media_type=String::new(), urls=Vec::new(), base_directory=String::new(), path=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        chain_id: String,
        digest: Option<&str>,
        diff_id: Option<&str>,
        size: Option<u64>,
        media_type: String,
        urls: Vec<String>,
        base_directory: String,
        path: Option<PathBuf>,
    ) -> PyResult<Self> {
        let parse = |hex: Option<&str>| hex.map(|hex| Digest::parse(&format!("sha256:{hex}"))).transpose().map_err(|e| image_error(py, e));
        let (digest, diff_id) = (parse(digest)?, parse(diff_id)?);
        let origin = path.map_or(Origin::Remote, |path| Origin::File(path, None));
        Ok(Self(image::Layer { is_verified: digest.is_some(), digest, diff_id, size, media_type, urls, base_directory, chain_id, origin }))
    }

    #[getter]
    fn chain_id(&self) -> &str {
        &self.0.chain_id
    }

    #[getter]
    fn digest(&self) -> Option<&str> {
        self.0.digest.as_ref().map(Digest::hex)
    }

    #[getter]
    fn is_verified(&self) -> bool {
        self.0.is_verified
    }

    #[getter]
    fn diff_id(&self) -> Option<&str> {
        self.0.diff_id.as_ref().map(Digest::hex)
    }

    #[getter]
    fn size(&self) -> Option<u64> {
        self.0.size
    }

    #[getter]
    fn media_type(&self) -> &str {
        &self.0.media_type
    }

    #[getter]
    fn urls(&self) -> Vec<String> {
        self.0.urls.clone()
    }

    #[getter]
    fn base_directory(&self) -> &str {
        &self.0.base_directory
    }

    #[getter]
    fn name(&self) -> String {
        self.0.name()
    }

    /// The directory to copy, if that is what the layer is.
    #[getter]
    fn directory(&self) -> Option<OsString> {
        match &self.0.origin {
            Origin::Directory(path) => Some(path.clone().into_os_string()),
            _ => None,
        }
    }

    #[getter]
    fn is_foreign(&self) -> bool {
        self.0.is_foreign()
    }

    #[getter]
    fn is_empty(&self) -> bool {
        self.0.origin == Origin::Empty
    }

    /// Whether its bytes are on this machine, as far as one can see.
    fn is_here(&self) -> bool {
        match &self.0.origin {
            Origin::File(path, _) | Origin::Directory(path) => path.exists(),
            Origin::Empty => true,
            Origin::Remote => false,
        }
    }

    fn open(&self, py: Python<'_>) -> PyResult<Blob> {
        let opened = py.detach(|| self.0.open());
        opened.map(|(file, length)| Blob(file, length)).map_err(|error| {
            let path = match &self.0.origin {
                Origin::File(path, _) | Origin::Directory(path) => path.to_string_lossy().into_owned(),
                Origin::Remote | Origin::Empty => self.0.name(),
            };
            PyOSError::new_err((error.raw_os_error().unwrap_or(0), format!("open {path}: {}", os_text(&error))))
        })
    }
}

/// Layers, bottom first, and a configuration.
#[pyclass(frozen, module = "groot_fast._core")]
pub struct Image(image::Image);

#[pymethods]
impl Image {
    #[new]
    #[pyo3(signature = (layers, config=None, env=Vec::new(), volumes=Vec::new()))]
    fn new(layers: Vec<PyRef<'_, Layer>>, config: Option<Vec<u8>>, env: Vec<String>, mut volumes: Vec<String>) -> Self {
        volumes.sort_unstable();
        let layers = layers.iter().map(|layer| layer.0.clone()).collect();
        let config = config.unwrap_or_else(|| config::EMPTY.to_vec());
        Self(image::Image { layers, config, env, volumes, warnings: Vec::new(), named: None, validated: true, file: None })
    }

    #[staticmethod]
    fn of_tar(path: PathBuf) -> PyResult<Self> {
        Ok(Self(image::Image::of_tar(&path)?))
    }

    #[staticmethod]
    fn of_directory(chain_id: String, path: PathBuf) -> Self {
        Self(image::Image::of_one(chain_id, Origin::Directory(path)))
    }

    #[getter]
    fn layers(&self) -> Vec<Layer> {
        self.0.layers.iter().cloned().map(Layer).collect()
    }

    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.config)
    }

    #[getter]
    fn env(&self) -> Vec<String> {
        self.0.env.clone()
    }

    #[getter]
    fn volumes(&self) -> Vec<String> {
        self.0.volumes.clone()
    }

    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.0.warnings.clone()
    }

    /// What a volume has to be for this image to be made of it.
    #[getter]
    fn demand(&self) -> (bool, Option<String>) {
        (self.0.validated, self.0.file.clone())
    }

    #[getter]
    fn chain_ids(&self) -> Vec<String> {
        self.0.chain_ids().map(str::to_owned).collect()
    }

    #[getter]
    fn compressed_size(&self) -> u64 {
        self.0.compressed_size()
    }

    #[getter]
    fn parts(&self) -> ImageParts {
        let chain_ids = self.0.chain_ids().map(str::to_owned).collect();
        let named = self.0.named.as_ref().map(ToString::to_string);
        (chain_ids, self.0.config.clone(), self.0.env.clone(), self.0.volumes.clone(), self.0.compressed_size(), named)
    }

    #[staticmethod]
    fn recalled(parts: ImageParts) -> Self {
        let (chain_ids, config, env, volumes, compressed, named) = parts;
        let last = chain_ids.len().saturating_sub(1);
        let layer = |(i, chain_id)| image::Layer {
            digest: None,
            is_verified: false,
            diff_id: None,
            size: Some(if i == last { compressed } else { 0 }),
            media_type: String::new(),
            urls: Vec::new(),
            base_directory: String::new(),
            chain_id,
            origin: Origin::Remote,
        };
        let layers = chain_ids.into_iter().enumerate().map(layer).collect();
        let named = named.and_then(|text| Digest::parse(&text).ok());
        Self(image::Image { layers, config, env, volumes, warnings: Vec::new(), named, validated: true, file: None })
    }
}

/// An image manifest.
#[pyclass(frozen, module = "groot_fast._core")]
pub struct Manifest {
    read: manifest::Manifest,
    body: Vec<u8>,
    chosen: bool,
    named: Option<Digest>,
}

#[pymethods]
impl Manifest {
    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.body)
    }

    #[getter]
    fn media_type(&self) -> &str {
        &self.read.media_type
    }

    #[getter]
    fn digest(&self) -> String {
        self.read.digest.to_string()
    }

    /// Digest and size of the configuration.
    #[getter]
    fn config(&self) -> (String, u64) {
        (self.read.config.digest.to_string(), self.read.config.size)
    }

    /// The image of this manifest and its configuration.
    fn join(&self, py: Python<'_>, config: Vec<u8>, platform: &str) -> PyResult<Image> {
        let join = || {
            let mut wanted = Wanted::parse(platform)?;
            wanted.explicit &= !self.chosen;
            image::Image::join(&self.read, config, &wanted, true, |_| Origin::Remote)
        };
        let named = self.named.clone().unwrap_or_else(|| self.read.digest.clone());
        // What is said of an image is said each time, so one with warnings is looked at each time.
        let know = |image: image::Image| image::Image { named: image.warnings.is_empty().then_some(named), ..image };
        join().map(|image| Image(know(image))).map_err(|e| image_error(py, e))
    }
}

/// An index.
#[pyclass(frozen, module = "groot_fast._core")]
pub struct Index(index::Index);

#[pymethods]
impl Index {
    #[getter]
    fn media_type(&self) -> &str {
        self.0.media_type()
    }

    /// Digest, size and media type of the entry for a platform, and whether it names one.
    fn choose(&self, py: Python<'_>, platform: &str) -> PyResult<(String, u64, String, bool)> {
        let chosen = Wanted::parse(platform).and_then(|wanted| self.0.choose(&wanted)).map_err(|e| image_error(py, e))?;
        Ok((chosen.digest.to_string(), chosen.size, chosen.media_type, chosen.platform.is_some()))
    }
}

/// Read a manifest or an index that was served as `media_type`.
#[pyfunction]
#[pyo3(signature = (body, media_type, *, chosen=false, named=None))]
pub fn read_document(py: Python<'_>, body: Vec<u8>, media_type: &str, chosen: bool, named: Option<&str>) -> PyResult<Py<PyAny>> {
    let named = named.map(Digest::parse).transpose().map_err(|e| image_error(py, e))?;
    match read(&body, media_type).map_err(|e| image_error(py, e))? {
        Document::Manifest(manifest) => Ok(Py::new(py, Manifest { read: *manifest, body, chosen, named })?.into_any()),
        Document::Index(index) => Ok(Py::new(py, Index(index))?.into_any()),
    }
}

/// Read one JSON object of at most `most` bytes.
#[pyfunction]
#[pyo3(signature = (body, what, most=MAX_MANIFEST))]
pub fn parse_document<'py>(py: Python<'py>, body: &[u8], what: &str, most: u64) -> PyResult<Bound<'py, PyAny>> {
    let object = document::parse(body, what, most).map_err(|e| image_error(py, e))?;
    to_object(py, &document::Value::Object(object))
}

/// A digest in its only spelling.
#[pyfunction]
pub fn parse_digest(py: Python<'_>, text: &str) -> PyResult<String> {
    Digest::parse(text).map(|digest| digest.to_string()).map_err(|e| image_error(py, e))
}

/// The platform that a text asks for; nothing is this machine's.
#[pyfunction]
pub fn parse_platform(py: Python<'_>, text: &str) -> PyResult<String> {
    Wanted::parse(text).map(|wanted| wanted.platform.to_string()).map_err(|e| image_error(py, e))
}

/// Names of the volumes of a stack.
#[pyfunction]
pub fn chain_ids(py: Python<'_>, diff_ids: Vec<String>) -> PyResult<Vec<String>> {
    let diff_ids: Result<Vec<_>, _> = diff_ids.iter().map(|text| Digest::parse(text)).collect();
    diff_ids.map(|diff_ids| chain::chain_ids(&diff_ids)).map_err(|e| image_error(py, e))
}

/// The file of a reference to an archive; `None` for a reference of another kind.
#[pyfunction]
pub fn archive_path(text: OsString) -> Option<OsString> {
    archive::split(&text).map(|(path, _)| path.as_os_str().to_owned())
}

/// The image in an archive of images; `None` for the path of any other file.
#[pyfunction]
pub fn resolve_archive(py: Python<'_>, text: OsString, platform: &str, validate: bool) -> PyResult<Option<Image>> {
    let resolve = || archive::resolve(&text, &Wanted::parse(platform)?, validate);
    py.detach(resolve).map(|image| image.map(Image)).map_err(|e| image_error(py, e))
}

/// An image of an OCI layout, understood but not yet looked for.
#[pyclass(frozen, module = "groot_fast._core")]
pub struct OciReference(Reference, Wanted);

#[pymethods]
impl OciReference {
    #[new]
    fn new(py: Python<'_>, url: OsString, platform: &str) -> PyResult<Self> {
        let read = Reference::parse(&url).and_then(|reference| Ok((reference, Wanted::parse(platform)?)));
        read.map(|(reference, wanted)| Self(reference, wanted)).map_err(|e| image_error(py, e))
    }

    #[getter]
    fn path(&self) -> OsString {
        self.0.path.clone().into_os_string()
    }

    #[getter]
    fn tag(&self) -> &str {
        &self.0.tag
    }

    #[getter]
    fn digest(&self) -> Option<String> {
        self.0.digest.as_ref().map(ToString::to_string)
    }

    fn resolve(&self, py: Python<'_>, validate: bool) -> PyResult<Image> {
        py.detach(|| layout::resolve(&self.0, &self.1, validate)).map(Image).map_err(|e| image_error(py, e))
    }
}
