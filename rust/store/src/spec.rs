//! The partial runtime specification that Garden reads (contract, section 7.3).

use crate::records::Image;
use groot_document::{Map, Value, json};
use std::path::Path;

/// Name of the directory that a runtime binds on a declared volume.
#[must_use]
pub fn volume_name(volume: &str) -> String {
    format!("vol-{}", groot_core::blob::sha256(volume.as_bytes()))
}

/// What a specification has, as its reader expects it.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// The image's tree is at `rootfs`, else the caller has to bind `snapshot` there.
    pub mounted: bool,
    /// The volumes that the image declares are mounts.
    pub volumes: bool,
    /// `args` is there, and null.
    pub args: bool,
}

/// The specification for an image at `path`.
#[must_use]
pub fn describe(image: &Image, path: &Path, shape: Shape) -> Value {
    let at = |name: &str| path.join(name).to_string_lossy().into_owned();
    let mut process = Map::new();
    process.insert("user".into(), json!({"uid": 0, "gid": 0}));
    if shape.args {
        process.insert("args".into(), Value::Null);
    }
    if !image.env.is_empty() {
        process.insert("env".into(), json!(image.env));
    }
    process.insert("cwd".into(), json!(""));
    let mut mounts = Vec::new();
    if !shape.mounted {
        mounts.push(json!({"destination": "/", "source": at("snapshot"), "options": ["bind"]}));
    }
    for volume in image.volumes.iter().filter(|_| shape.volumes) {
        mounts.push(json!({"destination": volume, "type": "bind", "source": at(&volume_name(volume)), "options": ["bind"]}));
    }
    let mut spec = Map::new();
    spec.insert("ociVersion".into(), json!(""));
    spec.insert("process".into(), Value::Object(process));
    spec.insert("root".into(), json!({"path": at("rootfs")}));
    if !mounts.is_empty() {
        spec.insert("mounts".into(), Value::Array(mounts));
    }
    Value::Object(spec)
}
