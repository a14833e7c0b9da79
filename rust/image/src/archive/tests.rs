//! Archives as docker, podman, skopeo, nix and bazel write them, and what looks like one.

use super::*;
use crate::digest::Digest;
use groot_document::json;
use std::io::Write;

/// A header of GNU tar's, then the content.
fn member(name: &str, flag: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[148..156].copy_from_slice(b"        ");
    block[156] = flag;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..263].copy_from_slice(b"ustar\0");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut bytes = block.to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    member(name, b'0', "", content)
}

fn written(parts: &[Vec<u8>]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&parts.concat()).unwrap();
    file.write_all(&[0; 1024]).unwrap();
    file
}

fn wanted() -> Wanted {
    Wanted::parse("linux/amd64").unwrap()
}

fn config(layer: &[u8]) -> Vec<u8> {
    json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [Digest::of(layer).to_string()]}}).to_string().into()
}

/// The bytes of an image's only layer.
fn content(image: &Image) -> Vec<u8> {
    use std::io::Read;
    let (file, length) = image.layers[0].open().unwrap();
    let mut bytes = Vec::new();
    file.take(length.unwrap()).read_to_end(&mut bytes).unwrap();
    assert_eq!(Digest::of(&bytes).hex(), image.layers[0].chain_id);
    bytes
}

fn saved(name: &str, layer: &str) -> Value {
    json!({"Config": "c.json", "RepoTags": [name], "Layers": [layer]})
}

#[test]
fn docker_archives() {
    let layer = b"the layer".as_slice();
    let list = json!([saved("x:y", "abc/layer.tar")]).to_string();
    for parts in [
        // docker's order, podman's links, nix's and bazel's names.
        vec![
            file("c.json", &config(layer)),
            member("abc/", b'5', "", b""),
            file("abc/layer.tar", layer),
            file("manifest.json", list.as_bytes()),
        ],
        vec![
            file("l.tar", layer),
            member("abc/layer.tar", b'2', "../l.tar", b""),
            file("c.json", &config(layer)),
            file("manifest.json", list.as_bytes()),
        ],
        vec![
            file("./manifest.json", list.as_bytes()),
            file("./c.json", &config(layer)),
            file("./l", layer),
            member("./abc/layer.tar", b'1', "./l", b""),
        ],
    ] {
        let made = written(&parts);
        let archive = Archive::open(made.path()).unwrap().unwrap();
        let image = archive.resolve("", &wanted(), true).unwrap();
        assert_eq!(content(&image), layer);
        assert_eq!(image.config, config(layer));
        archive.resolve("x:y", &wanted(), true).unwrap();
        assert_eq!(archive.resolve("x:z", &wanted(), true).unwrap_err().hint.unwrap(), "the archive has x:y");
    }
}

#[test]
fn one_of_several_by_name() {
    let (one, other) = (b"one".as_slice(), b"other".as_slice());
    let list =
        json!([saved("docker.io/library/a:latest", "1"), {"Config": "d.json", "RepoTags": ["b:1", "b:2"], "Layers": ["2"]}]).to_string();
    let parts = [
        file("1", one),
        file("2", other),
        file("c.json", &config(one)),
        file("d.json", &config(other)),
        file("manifest.json", list.as_bytes()),
    ];
    let made = written(&parts);
    let archive = Archive::open(made.path()).unwrap().unwrap();
    assert_eq!(content(&archive.resolve("b:2", &wanted(), true).unwrap()), other);
    for name in ["a", "a:latest", "docker.io/library/a:latest"] {
        assert_eq!(content(&archive.resolve(name, &wanted(), true).unwrap()), one);
    }
    let error = archive.resolve("", &wanted(), true).unwrap_err();
    assert!(error.message.starts_with("more than one image in "));
    assert_eq!(error.hint.unwrap(), "write it as docker-archive:FILE:NAME; the archive has b:1, b:2, docker.io/library/a:latest");
}

#[test]
fn spellings() {
    let split = |text: &str| super::split(OsStr::new(text)).map(|(path, name)| (path.to_str().unwrap().to_owned(), name));
    let found = |path: &str, name: &str| Some((path.to_owned(), name.to_owned()));
    assert_eq!(split("docker-archive:/a.tar"), found("/a.tar", ""));
    assert_eq!(split("docker-archive:a.tar:x/y:1"), found("a.tar", "x/y:1"));
    assert_eq!(split("oci-archive:///a.tar:t"), found("/a.tar", "t"));
    assert_eq!(split("/a.tar:x"), None);
    let plain = written(&[file("etc/passwd", b"x")]);
    let text = format!("oci-archive:{}", plain.path().display());
    assert!(resolve(OsStr::new(&text), &wanted(), true).unwrap_err().message.ends_with("is no archive of an image"));
    assert!(resolve(plain.path().as_os_str(), &wanted(), true).unwrap().is_none());
}

#[test]
fn a_layout_in_an_archive() {
    let layer = b"the layer".as_slice();
    let config = config(layer);
    let describe = |body: &[u8], kind: &str| json!({"mediaType": kind, "digest": Digest::of(body).to_string(), "size": body.len()});
    let manifest = json!({"schemaVersion": 2, "config": describe(&config, ""), "layers": [describe(layer, "")]}).to_string();
    let mut entry = describe(manifest.as_bytes(), crate::manifest::OCI_MANIFEST);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "t"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let blob = |body: &[u8]| file(&format!("blobs/sha256/{}", Digest::of(body).hex()), body);
    let parts = [blob(layer), blob(&config), blob(manifest.as_bytes()), file("index.json", index.as_bytes()), file("oci-layout", b"{}")];
    let made = written(&parts);
    let archive = Archive::open(made.path()).unwrap().unwrap();
    for name in ["", "t"] {
        assert_eq!(content(&archive.resolve(name, &wanted(), true).unwrap()), layer);
    }
    assert!(archive.resolve("no", &wanted(), true).unwrap_err().message.contains("no descriptor found"));
    // Without the configuration.
    let made = written(&[&parts[..1], &parts[2..]].concat());
    let error = Archive::open(made.path()).unwrap().unwrap().resolve("", &wanted(), true).unwrap_err();
    assert_eq!(error.message, "Image source doesn't exist");
}

#[test]
fn other_tar_files_are_none() {
    let list = json!([saved("x:y", "1")]).to_string();
    for parts in [
        vec![file("etc/passwd", b"x"), file("bin/sh", b"x")],
        vec![file("manifest.json", br#"{"name": "a web application"}"#), file("index.json", b"{}")],
        vec![file("manifest.json", b"not JSON")],
        vec![file("usr/share/doc/x", b""), file("manifest.json", list.as_bytes())],
        vec![member("dev/null", b'3', "", b""), file("manifest.json", list.as_bytes())],
        vec![b"x".repeat(2000)],
        vec![],
    ] {
        assert!(Archive::open(written(&parts).path()).unwrap().is_none());
    }
    assert!(Archive::open(Path::new("/")).unwrap_err().message.contains("is a directory"));
}

#[test]
fn what_is_missing_or_turns_in_circles_is_an_error() {
    for layer in ["absent", "loop", "../../etc/passwd"] {
        let list = json!([saved("x:y", layer)]).to_string();
        let parts = [member("loop", b'2', "loop", b""), file("c.json", &config(b"")), file("manifest.json", list.as_bytes())];
        let made = written(&parts);
        let error = Archive::open(made.path()).unwrap().unwrap().resolve("", &wanted(), true).unwrap_err();
        assert!(error.hint.unwrap().contains("is missing in"), "{layer}");
    }
}
