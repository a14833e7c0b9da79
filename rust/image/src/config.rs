//! An image's configuration (OCI image specification, "Image Configuration").

use crate::digest::Digest;
use crate::document::{self, MAX_CONFIG, member};
use crate::error::{Error, Result};
use crate::platform::Platform;
use std::collections::BTreeSet;

const WHAT: &str = "image configuration";

/// What an image without a configuration (a tar file, a directory) gets.
pub const EMPTY: &[u8] = br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;

/// The parts of a configuration that somebody uses, and all of it as it is.
#[derive(Debug, Clone)]
pub struct Config {
    /// The document, byte by byte: the image's `image.json`.
    pub raw: Vec<u8>,
    /// Digests of the uncompressed layers, bottom first.
    pub diff_ids: Vec<Digest>,
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// Paths that the image declares as volumes, sorted.
    pub volumes: Vec<String>,
    /// Whom it was built for; `None` where it does not say.
    pub platform: Option<Platform>,
}

impl Config {
    /// Check a configuration.
    pub fn parse(raw: Vec<u8>) -> Result<Self> {
        let node = document::parse(&raw, WHAT, MAX_CONFIG)?;
        let rootfs = document::object(&node, "rootfs", WHAT)?;
        let rootfs = rootfs.ok_or_else(|| Error::image(format!("{WHAT}: rootfs is not an object")))?;
        let diff_ids = document::strings(rootfs, "diff_ids", WHAT)?;
        let diff_ids = diff_ids.iter().map(|text| Digest::parse(text)).collect::<Result<_>>()?;
        let (mut env, mut volumes) = (Vec::new(), Vec::new());
        if let Some(runtime) = document::object(&node, "config", WHAT)? {
            env = variables(document::strings(runtime, "Env", WHAT)?)?;
            let declared = document::object(runtime, "Volumes", WHAT)?;
            volumes = destinations(declared.into_iter().flat_map(|paths| paths.keys()))?;
        }
        let platform = Platform::from_object(&node);
        Ok(Self { raw, diff_ids, env, volumes, platform })
    }

    /// Whether a configuration of this media type can be an image's; an artifact's never is.
    #[must_use]
    pub fn is_image(media_type: &str) -> bool {
        // Untyped ones come from tools of old.
        matches!(media_type, "" | "application/json" | "application/octet-stream")
            || media_type.starts_with("application/vnd.oci.image.config.v1+json")
            || media_type.starts_with("application/vnd.docker.container.image.v1+json")
    }

    /// Whether the raw document has content for a run, rather than that of an artifact.
    #[must_use]
    pub fn has_rootfs(raw: &[u8]) -> bool {
        document::parse(raw, WHAT, MAX_CONFIG).is_ok_and(|node| member(&node, "rootfs").is_some())
    }
}

/// Variables that a process can have. One without `=` stands for one that is not to be set, as in Docker.
fn variables(given: Vec<String>) -> Result<Vec<String>> {
    let refuse = |text: &str, why: &str| Error::image(format!("{WHAT}: variable `{}` {why}", text.escape_debug()));
    let mut kept = Vec::new();
    for variable in given {
        if variable.contains('\0') {
            return Err(refuse(&variable, "has a NUL"));
        }
        match variable.find('=') {
            Some(0) => return Err(refuse(&variable, "has no name")),
            None if variable.is_empty() => return Err(refuse(&variable, "has no name")),
            None => {}
            Some(_) => kept.push(variable),
        }
    }
    Ok(kept)
}

/// Volumes of one image, at most.
pub const MAX_VOLUMES: usize = 128;

/// Places of volumes, sorted: absolute, without `.`, `..` and slashes that change nothing, each once.
fn destinations<'a>(given: impl Iterator<Item = &'a String>) -> Result<Vec<String>> {
    let mut found = BTreeSet::new();
    for path in given {
        let refuse = |why: &str| Error::image(format!("{WHAT}: volume `{}` {why}", path.escape_debug()));
        if !path.starts_with('/') {
            return Err(refuse("is not an absolute path"));
        }
        if path.chars().any(char::is_control) {
            return Err(refuse("has control characters"));
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        match parts.first() {
            None => return Err(refuse("is the root of the image")),
            Some(&"proc") => return Err(refuse("is the kernel's")),
            Some(_) => found.insert(format!("/{}", parts.join("/"))),
        };
        if found.len() > MAX_VOLUMES {
            return Err(Error::image(format!("{WHAT}: more than {MAX_VOLUMES} volumes")));
        }
    }
    Ok(found.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use groot_document::{Value, json};

    fn parse(value: &Value) -> Result<Config> {
        Config::parse(value.to_string().into_bytes())
    }

    #[test]
    fn the_parts() {
        let value = json!({
            "os": "linux", "architecture": "amd64", "config": {"Env": ["A=b"], "Volumes": {"/v": {}, "/a": {}}},
            "rootfs": {"diff_ids": [Digest::of(b"").to_string()]},
        });
        let config = parse(&value).unwrap();
        assert_eq!((config.env, config.volumes), (vec!["A=b".to_owned()], vec!["/a".to_owned(), "/v".to_owned()]));
        assert_eq!(config.platform.unwrap().to_string(), "linux/amd64");
        assert_eq!(config.raw, value.to_string().into_bytes());
    }

    #[test]
    fn missing_parts_are_empty() {
        for runtime in [json!(null), json!({}), json!({"Env": null, "Volumes": null})] {
            let config = parse(&json!({"config": runtime, "rootfs": {"diff_ids": null}})).unwrap();
            assert!(config.env.is_empty() && config.volumes.is_empty() && config.diff_ids.is_empty() && config.platform.is_none());
        }
    }

    #[test]
    fn volumes_are_places_that_a_runtime_may_see() {
        let volumes = |paths: &[&str]| {
            let paths: groot_document::Map<_, _> = paths.iter().map(|&path| (path.to_owned(), json!({}))).collect();
            parse(&json!({"config": {"Volumes": paths}, "rootfs": {"diff_ids": []}}))
                .map(|config| config.volumes)
                .map_err(|error| error.message)
        };
        assert_eq!(volumes(&["/data/", "/data", "/a/./b//c", "/x/../y"]).unwrap(), ["/a/b/c", "/data", "/y"]);
        for (path, why) in [
            ("", "is not an absolute path"),
            ("data", "is not an absolute path"),
            ("../data", "is not an absolute path"),
            ("/", "is the root of the image"),
            ("/a/..", "is the root of the image"),
            ("/../..", "is the root of the image"),
            ("/proc", "is the kernel's"),
            ("/proc/self", "is the kernel's"),
            ("/x/../proc/", "is the kernel's"),
            ("/a\nb", "has control characters"),
            ("/a\0b", "has control characters"),
            ("/a\u{1b}[31m", "has control characters"),
        ] {
            let text = volumes(&[path]).unwrap_err();
            assert!(text.ends_with(why) && !text.contains('\n'), "{text}");
        }
        let many: Vec<String> = (0..=MAX_VOLUMES).map(|i| format!("/v{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(volumes(&many[1..]).unwrap().len(), MAX_VOLUMES);
        assert_eq!(volumes(&many).unwrap_err(), "image configuration: more than 128 volumes");
    }

    #[test]
    fn variables_are_such_that_a_process_can_have() {
        let env = |texts: &[&str]| parse(&json!({"config": {"Env": texts}, "rootfs": {"diff_ids": []}})).map(|config| config.env);
        assert_eq!(env(&["A=b", "B=", "C=d=e", "UNSET"]).unwrap(), ["A=b", "B=", "C=d=e"]);
        for bad in ["", "=x", "A=b\0c", "A\0=b"] {
            assert!(env(&[bad]).unwrap_err().message.starts_with("image configuration: variable `"));
        }
    }

    #[test]
    fn e11_unexpected_types() {
        for bad in [json!({"Env": 5}), json!({"Env": [1]}), json!({"Env": {"A": "b"}}), json!({"Volumes": ["/a"]}), json!({"Volumes": 1})] {
            let text = parse(&json!({"config": bad, "rootfs": {"diff_ids": []}})).unwrap_err().message;
            assert!(text.starts_with("image configuration: "), "{text}");
        }
        for bad in
            [json!({}), json!({"rootfs": 1}), json!({"rootfs": {"diff_ids": "x"}}), json!({"rootfs": {"diff_ids": ["x"]}}), json!([])]
        {
            parse(&bad).unwrap_err();
        }
    }
}
