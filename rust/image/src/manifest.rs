//! What a fetched document is, and an image's manifest (OCI image specification; Docker image manifest version 2, schema 2).

use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::document::{self, MAX_MANIFEST, Map, Value};
use crate::error::{Error, Result, quoted};
use crate::index::Index;

/// Media type of OCI's manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of OCI's index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of Docker's index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// More layers than any builder makes; each costs a commit.
pub const MAX_LAYERS: usize = 512;

const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";
/// What plain file servers say; the document must then speak for itself.
const UNTYPED: [&str; 5] = ["", "application/json", "application/octet-stream", "binary/octet-stream", "text/plain"];

/// A document that names an image, or several.
#[derive(Debug, Clone)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// One of several, by platform.
    Index(Index),
}

/// An image's manifest, checked.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// As declared, else OCI's.
    pub media_type: String,
    /// Of the document itself.
    pub digest: Digest,
    /// The image's configuration.
    pub config: Descriptor,
    /// Bottom first.
    pub layers: Vec<Descriptor>,
    /// What the manifest says it is, if it is no image.
    pub artifact_type: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Manifest,
    Index,
}

/// Whether `media_type` is one of the two that are indexes.
#[must_use]
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// Whether `media_type` is one of the two that are manifests.
#[must_use]
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Read a document that was given as `media_type` (a `Content-Type`, or what a descriptor says).
///
/// Refuses a document of which that, its own `mediaType` and its shape do not all say the same (CVE-2021-41190: two clients must
/// not see two images under one digest), and schema 1.
pub fn read(body: &[u8], media_type: &str) -> Result<Document> {
    let node = document::parse(body, "manifest", MAX_MANIFEST)?;
    let given = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let declared = document::text(&node, "mediaType", "manifest")?;
    let version = node.get("schemaVersion");
    if given.starts_with(SCHEMA_1) || declared.starts_with(SCHEMA_1) || version.and_then(Value::as_u64) == Some(1) {
        let hint = "pull and push the image again with a current docker or skopeo, which writes schema 2";
        return Err(Error::image("schema 1 manifests are not supported").with_hint(hint));
    }
    if version.and_then(Value::as_u64) != Some(2) {
        return Err(Error::image("manifest has no schemaVersion 2"));
    }
    let shape = shape(&node)?;
    let media_type = if !UNTYPED.contains(&given.as_str()) {
        given
    } else if !declared.is_empty() {
        declared.clone()
    } else {
        (if shape == Shape::Manifest { OCI_MANIFEST } else { OCI_INDEX }).to_owned()
    };
    let said = match media_type.as_str() {
        kind if is_manifest(kind) => Shape::Manifest,
        kind if is_index(kind) => Shape::Index,
        other => return Err(Error::image(format!("unknown media type {}", quoted(other)))),
    };
    if !declared.is_empty() && declared != media_type {
        return Err(Error::image(format!("ambiguous manifest: served as {media_type} but its mediaType is {}", quoted(&declared))));
    }
    if said != shape {
        let content = if shape == Shape::Manifest { "manifest" } else { "index" };
        return Err(Error::image(format!("ambiguous manifest: {media_type} with the content of an image {content}")));
    }
    match shape {
        Shape::Manifest => Manifest::check(&node, media_type, Digest::of(body)).map(|manifest| Document::Manifest(Box::new(manifest))),
        Shape::Index => Index::check(&node, media_type, "index").map(Document::Index),
    }
}

fn shape(node: &Map<String, Value>) -> Result<Shape> {
    if node.contains_key("fsLayers") || node.contains_key("history") {
        return Err(Error::image("ambiguous manifest: it has the content of schema 1 too"));
    }
    let image = (node.contains_key("config"), node.contains_key("layers"));
    match (node.contains_key("manifests"), image) {
        (true, (false, false)) => Ok(Shape::Index),
        (true, _) => Err(Error::image("ambiguous manifest: it has the content of both an image manifest and an index")),
        (false, (true, true)) => Ok(Shape::Manifest),
        (false, _) => Err(Error::image("manifest has neither config and layers nor manifests")),
    }
}

impl Manifest {
    fn check(node: &Map<String, Value>, media_type: String, digest: Digest) -> Result<Self> {
        let config = Descriptor::parse(node.get("config"), "manifest: config")?;
        let layers = match node.get("layers") {
            Some(Value::Array(layers)) => layers.as_slice(),
            // Go writes an empty list like this.
            Some(Value::Null) => &[],
            _ => return Err(Error::image("manifest: layers is not a list")),
        };
        if layers.len() > MAX_LAYERS {
            return Err(Error::image(format!("manifest: {} layers, more than {MAX_LAYERS}", layers.len())));
        }
        let layers = layers.iter().enumerate().map(|(i, layer)| Descriptor::parse(Some(layer), &format!("manifest: layer {i}")));
        let artifact_type = document::text(node, "artifactType", "manifest")?;
        Ok(Self { media_type, digest, config, layers: layers.collect::<Result<_>>()?, artifact_type })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groot_document::json;

    pub fn manifest() -> Value {
        let digest = Digest::of(b"x").to_string();
        json!({
            "schemaVersion": 2,
            "config": {"mediaType": "c", "digest": digest, "size": 2},
            "layers": [{"mediaType": "tar", "digest": digest, "size": 10}],
        })
    }

    fn with(change: &Value) -> Value {
        let mut document = manifest();
        for (key, value) in change.as_object().unwrap() {
            document[key] = value.clone();
        }
        document
    }

    fn text(document: &Value, media_type: &str) -> String {
        read(document.to_string().as_bytes(), media_type).unwrap_err().message
    }

    #[test]
    fn what_a_document_is() {
        let index = json!({"schemaVersion": 2, "manifests": []});
        for (document, given, expected) in [
            (manifest(), OCI_MANIFEST, OCI_MANIFEST),
            (manifest(), "application/vnd.oci.image.manifest.v1+json; charset=utf-8", OCI_MANIFEST),
            (manifest(), "", OCI_MANIFEST),
            (with(&json!({"mediaType": DOCKER_MANIFEST})), "application/json", DOCKER_MANIFEST),
            (with(&json!({"mediaType": DOCKER_MANIFEST})), DOCKER_MANIFEST, DOCKER_MANIFEST),
        ] {
            let Document::Manifest(read) = read(document.to_string().as_bytes(), given).unwrap() else { panic!("an index") };
            assert_eq!(read.media_type, expected);
        }
        for given in [OCI_INDEX, DOCKER_LIST, ""] {
            assert!(matches!(read(index.to_string().as_bytes(), given).unwrap(), Document::Index(_)));
        }
    }

    #[test]
    fn e1_ambiguous_documents() {
        let index = json!({"schemaVersion": 2, "manifests": []});
        for (document, given) in [
            (with(&json!({"manifests": []})), OCI_MANIFEST),
            (with(&json!({"manifests": []})), OCI_INDEX),
            (manifest(), OCI_INDEX),
            (index.clone(), OCI_MANIFEST),
            (json!({"schemaVersion": 2, "manifests": [], "layers": []}), OCI_INDEX),
            (with(&json!({"mediaType": OCI_INDEX})), ""),
            (with(&json!({"mediaType": OCI_INDEX})), OCI_MANIFEST),
            (with(&json!({"mediaType": DOCKER_MANIFEST})), OCI_MANIFEST),
            (with(&json!({"fsLayers": []})), OCI_MANIFEST),
        ] {
            assert!(text(&document, given).starts_with("ambiguous manifest"), "{document} {given}");
        }
    }

    #[test]
    fn e1_documents_that_are_nothing() {
        for (change, given, reason) in [
            (json!({"schemaVersion": 3}), OCI_MANIFEST, "no schemaVersion 2"),
            (json!({"schemaVersion": true}), OCI_MANIFEST, "no schemaVersion 2"),
            (json!({"schemaVersion": "2"}), OCI_MANIFEST, "no schemaVersion 2"),
            (json!({"mediaType": 5}), OCI_MANIFEST, "mediaType is not a string"),
            (json!({"mediaType": "x/y"}), "", "unknown media type 'x/y'"),
            (json!({}), "text/html", "unknown media type 'text/html'"),
            (json!({"layers": {}}), "", "layers is not a list"),
            (json!({"config": null}), "", "config is not an object"),
        ] {
            assert!(text(&with(&change), given).contains(reason), "{change}");
        }
        assert!(text(&json!({"schemaVersion": 2, "config": {}}), "").contains("neither config and layers nor manifests"));
    }

    #[test]
    fn e7_schema_1_has_a_hint() {
        for (document, given) in [
            (json!({"schemaVersion": 1, "fsLayers": [], "history": []}), "application/json"),
            (manifest(), "application/vnd.docker.distribution.manifest.v1+prettyjws"),
            (with(&json!({"mediaType": "application/vnd.docker.distribution.manifest.v1+json"})), ""),
        ] {
            let error = read(document.to_string().as_bytes(), given).unwrap_err();
            assert_eq!(error.message, "schema 1 manifests are not supported");
            assert!(error.hint.unwrap().contains("push the image again"));
        }
    }

    #[test]
    fn e4_number_of_layers() {
        let layer = manifest()["layers"][0].clone();
        let count = |n| with(&json!({"layers": vec![layer.clone(); n]}));
        assert!(text(&count(10_000), "").contains("10000 layers, more than 512"));
        read(count(MAX_LAYERS).to_string().as_bytes(), "").unwrap();
        read(with(&json!({"layers": null})).to_string().as_bytes(), "").unwrap();
    }
}
