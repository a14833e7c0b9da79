//! Layouts as builders leave them, and as they should not.

use super::*;
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use groot_document::json;
use rustix::fs::{FileType, Mode};
use std::os::unix::fs::symlink;

struct Made(tempfile::TempDir);

impl Made {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
        Self(directory)
    }

    fn path_of(&self, descriptor: &Value) -> PathBuf {
        self.0.path().join("blobs/sha256").join(&descriptor["digest"].as_str().unwrap()[7..])
    }

    fn blob(&self, body: &str, media_type: &str) -> Value {
        let descriptor = json!({"mediaType": media_type, "digest": Digest::of(body.as_bytes()).to_string(), "size": body.len()});
        std::fs::write(self.path_of(&descriptor), body).unwrap();
        descriptor
    }

    /// An image of one layer for an architecture.
    fn image(&self, architecture: &str, media_type: &str) -> Value {
        let layer = self.blob(&format!("layer for {architecture}"), "application/vnd.oci.image.layer.v1.tar");
        let config = json!({"os": "linux", "architecture": architecture, "rootfs": {"diff_ids": [layer["digest"]]}});
        let config = self.blob(&config.to_string(), "application/vnd.oci.image.config.v1+json");
        self.blob(&json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string(), media_type)
    }

    fn index(&self, entries: &[Value], media_type: &str) -> Value {
        self.blob(&json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).to_string(), media_type)
    }

    fn top(&self, entries: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": entries});
        std::fs::write(self.0.path().join("index.json"), index.to_string()).unwrap();
    }

    /// The architecture of the image that `tail` names, for `platform`.
    fn resolve(&self, tail: &str, platform: &str) -> Result<String> {
        let reference = Reference::parse(OsStr::new(&format!("oci://{}{tail}", self.0.path().display())))?;
        let mut wanted = Wanted::parse(if platform.is_empty() { "linux/amd64" } else { platform })?;
        wanted.explicit = !platform.is_empty();
        let image = resolve(&reference, &wanted, true)?;
        let config: Value = groot_document::parse_json(&image.config).unwrap();
        Ok(config["architecture"].as_str().unwrap().to_owned())
    }
}

fn named(mut entry: Value, name: &str) -> Value {
    entry["annotations"] = json!({REF_NAME: name});
    entry
}

fn platform(mut entry: Value, architecture: &str) -> Value {
    entry["platform"] = json!({"os": "linux", "architecture": architecture});
    entry
}

#[test]
fn references() {
    let hex = "0".repeat(64);
    for (url, path, tag, digest) in [
        ("oci:///a/b", "/a/b", "", false),
        ("oci://a/b/", "/a/b", "", false),
        ("oci:///a/b:v1?x#y", "/a/b", "v1", false),
        ("oci:///a%20b:c%20d", "/a b", "c d", false),
        ("oci:///a:docker.io/library/alpine:3.20", "/a", "docker.io/library/alpine:3.20", false),
        ("oci:///a@b:t", "/a@b", "t", false),
        ("oci:///a%40b:t", "/a@b", "t", false),
        ("oci:///mod@v1.0.0:x@y", "/mod@v1.0.0", "x@y", false),
        (&format!("oci:///a@b@sha256:{hex}"), "/a@b", "", true),
        (&format!("oci:///a:t@sha256:{hex}"), "/a", "t", true),
    ] {
        let read = Reference::parse(OsStr::new(url)).unwrap();
        assert_eq!((read.path.to_str().unwrap(), read.tag.as_str(), read.digest.is_some()), (path, tag, digest), "{url}");
    }
    assert_eq!(Reference::parse(OsStr::new("oci:///%ff")).unwrap().path.as_os_str().as_bytes(), b"/\xff");
}

#[test]
fn references_that_are_none() {
    for (url, bad) in [("oci:///%", "%"), ("oci:///%4", "%4"), ("oci:///%zz", "%zz"), ("oci:///a%^!b", "%^!"), ("oci:///%+1", "%+1")] {
        let message = Reference::parse(OsStr::new(url)).unwrap_err().message;
        assert_eq!(message, format!("parse \"{url}\": invalid URL escape \"{bad}\""));
    }
    for url in ["oci:///a@sha256:", "oci:///a@sha256:abc", "oci:///a@sha512:abc"] {
        assert!(Reference::parse(OsStr::new(url)).unwrap_err().message.starts_with("invalid digest"));
    }
}

#[test]
fn by_tag_by_digest_and_alone() {
    let made = Made::new();
    let (one, other) = (made.image("amd64", OCI_MANIFEST), made.image("s390x", OCI_MANIFEST));
    made.top(&[named(one.clone(), "one"), named(other.clone(), "other")]);
    assert_eq!(made.resolve(":one", "").unwrap(), "amd64");
    assert_eq!(made.resolve(":other", "").unwrap(), "s390x");
    assert_eq!(made.resolve(&format!("@{}", other["digest"].as_str().unwrap()), "").unwrap(), "s390x");
    let error = made.resolve("", "").unwrap_err();
    assert_eq!(error.message, "fetching image reference: creating image: more than one image in oci, choose an image");
    assert_eq!(error.hint.unwrap(), "add `:<tag>` to the image; the layout has one, other");
    let error = made.resolve(":no", "").unwrap_err();
    assert!(error.message.ends_with("creating image source: no descriptor found for reference \"no\""));
    made.top(&[other]);
    assert_eq!(made.resolve("", "").unwrap(), "s390x");
}

#[test]
fn a_docker_manifest_and_a_docker_list() {
    let made = Made::new();
    let image = made.image("amd64", DOCKER_MANIFEST);
    made.top(&[named(image.clone(), "t")]);
    assert_eq!(made.resolve(":t", "").unwrap(), "amd64");
    made.top(&[named(made.index(&[platform(image, "amd64")], DOCKER_LIST), "t")]);
    assert_eq!(made.resolve(":t", "").unwrap(), "amd64");
}

#[test]
fn nested_indexes() {
    let made = Made::new();
    let (amd, arm) = (made.image("amd64", OCI_MANIFEST), made.image("arm64", OCI_MANIFEST));
    let inner = made.index(&[platform(arm, "arm64"), platform(amd, "amd64")], OCI_INDEX);
    let outer = made.index(&[platform(inner.clone(), "amd64")], OCI_INDEX);
    for top in [&inner, &outer, &made.index(std::slice::from_ref(&inner), OCI_INDEX)] {
        made.top(&[named(top.clone(), "t")]);
        assert_eq!(made.resolve(":t", "").unwrap(), "amd64");
    }
    assert_eq!(made.resolve(&format!("@{}", outer["digest"].as_str().unwrap()), "").unwrap(), "amd64");
    made.top(&[made.index(&[made.index(&[outer], OCI_INDEX)], OCI_INDEX)]);
    assert_eq!(made.resolve("", "").unwrap_err().message, "indexes are nested more than 2 levels deep");
}

#[test]
fn the_platform_asked_for_or_an_error_that_names_what_there_is() {
    let made = Made::new();
    let (amd, arm) = (made.image("amd64", OCI_MANIFEST), made.image("arm64", OCI_MANIFEST));
    let both = [platform(arm.clone(), "arm64"), platform(amd.clone(), "amd64")];
    made.top(&[made.index(&both, OCI_INDEX)]);
    assert_eq!(made.resolve("", "linux/arm64").unwrap(), "arm64");
    assert_eq!(made.resolve("", "linux/s390x").unwrap_err().hint.unwrap(), "the list holds: linux/amd64, linux/arm64");
    // One entry a platform, under one name or none.
    made.top(&both.clone().map(|entry| named(entry, "t")));
    assert_eq!((made.resolve(":t", "").unwrap(), made.resolve(":t", "linux/arm64").unwrap()), ("amd64".into(), "arm64".into()));
    made.top(&both);
    assert_eq!(made.resolve("", "").unwrap(), "amd64");
    // A single image.
    for entry in [platform(arm.clone(), "arm64"), arm] {
        made.top(&[entry]);
        assert_eq!(made.resolve("", "").unwrap(), "arm64");
        assert!(made.resolve("", "linux/amd64").unwrap_err().hint.unwrap().ends_with("holds: linux/arm64"));
    }
}

#[test]
fn many_names_are_read() {
    let made = Made::new();
    let image = made.image("amd64", OCI_MANIFEST);
    let pad = "x".repeat(200);
    made.top(&(0..20_000).map(|i| named(image.clone(), &format!("tag-{i}-{pad}"))).collect::<Vec<_>>());
    assert!(std::fs::metadata(made.0.path().join("index.json")).unwrap().len() > 4 << 20);
    assert_eq!(made.resolve(&format!(":tag-19999-{pad}"), "").unwrap(), "amd64");
}

#[test]
fn artifacts_beside_an_image_do_not_count() {
    let made = Made::new();
    let mut signature = made.blob("{}", OCI_MANIFEST);
    signature["artifactType"] = json!("application/vnd.dev.cosign.artifact.sig.v1+json");
    made.top(&[signature, made.image("amd64", OCI_MANIFEST)]);
    assert_eq!(made.resolve("", "").unwrap(), "amd64");
}

#[test]
fn what_names_nothing() {
    let made = Made::new();
    for index in [r#"{"manifests":null}"#, r#"{"manifests":[]}"#, "{}"] {
        std::fs::write(made.0.path().join("index.json"), index).unwrap();
        assert!(made.resolve("", "").unwrap_err().message.contains("no image in oci layout"), "{index}");
        assert!(made.resolve(":t", "").unwrap_err().message.contains("no descriptor found"), "{index}");
    }
    std::fs::write(made.0.path().join("index.json"), "[]").unwrap();
    assert_eq!(made.resolve("", "").unwrap_err().message, "index.json is not an object");
    std::fs::remove_file(made.0.path().join("index.json")).unwrap();
    assert_eq!(made.resolve("", "").unwrap_err().message, "Image source doesn't exist");
}

#[test]
fn e3_documents_are_held_against_their_digests_and_sizes() {
    let made = Made::new();
    let image = made.image("amd64", OCI_MANIFEST);
    let mut wrong = image.clone();
    wrong["size"] = json!(5);
    made.top(&[made.index(&[wrong.clone()], OCI_INDEX)]);
    assert!(made.resolve("", "").unwrap_err().message.contains("manifest size mismatch: expected: 5"));
    // As in the original, but for what `index.json` itself says.
    made.top(&[wrong]);
    assert_eq!(made.resolve("", "").unwrap(), "amd64");
    made.top(std::slice::from_ref(&image));
    let body = std::fs::read_to_string(made.path_of(&image)).unwrap();
    let config: Value = groot_document::parse_json(body.as_bytes()).unwrap();
    std::fs::write(made.path_of(&config["config"]), "{}").unwrap();
    assert!(made.resolve("", "").unwrap_err().message.contains("config digest mismatch"));
    std::fs::write(made.path_of(&image), body.replace("schemaVersion", "schemaversion")).unwrap();
    let by_digest = format!("@{}", image["digest"].as_str().unwrap());
    assert!(made.resolve(&by_digest, "").unwrap_err().message.contains("manifest digest mismatch"));
    made.top(&[made.index(&[image], OCI_INDEX)]);
    assert!(made.resolve("", "").unwrap_err().message.contains("manifest digest mismatch"));
}

#[test]
fn a_blob_is_a_regular_file_or_a_link_to_one() {
    let made = Made::new();
    let image = made.image("amd64", OCI_MANIFEST);
    made.top(std::slice::from_ref(&image));
    let (path, aside) = (made.path_of(&image), made.0.path().join("aside"));
    std::fs::rename(&path, &aside).unwrap();
    symlink(&aside, &path).unwrap();
    assert_eq!(made.resolve("", "").unwrap(), "amd64");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(made.resolve("", "").unwrap_err().message.ends_with(": is a directory"));
    std::fs::remove_dir(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(made.resolve("", "").unwrap_err().message.ends_with(": not a regular file"));
}
