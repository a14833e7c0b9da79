//! An index: images for several platforms, or of several names (OCI image specification, "Image Index"; Docker manifest list).

use crate::config::Config;
use crate::descriptor::Descriptor;
use crate::document::{Map, Value, member};
use crate::error::{Error, Result};
use crate::manifest::{is_index, is_manifest};
use crate::platform::{Platform, Wanted};

/// An index. What its entries are is only checked for the one that is chosen: the others are none of our business, and may be
/// of kinds that are invented later.
#[derive(Debug, Clone)]
pub struct Index {
    media_type: String,
    entries: Vec<Value>,
}

impl Index {
    /// The index in a document of this media type; `what` names it in messages.
    pub fn check(node: &Map<String, Value>, media_type: String, what: &str) -> Result<Self> {
        let entries = match member(node, "manifests") {
            None => Vec::new(),
            Some(Value::Array(entries)) => entries.clone(),
            Some(_) => return Err(Error::image(format!("{what}: manifests is not a list"))),
        };
        Ok(Self { media_type, entries })
    }

    /// As declared, else OCI's.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// All entries, unchecked.
    #[must_use]
    pub fn entries(&self) -> &[Value] {
        &self.entries
    }

    /// The entry for `wanted`; see `choose`.
    pub fn choose(&self, wanted: &Wanted) -> Result<Descriptor> {
        choose(self.entries.iter(), wanted, "the list")
    }
}

/// Of some entries the one for `wanted`: the best of those for this platform, else the first that names none. Artifacts and
/// attestations are none of them. The error's hint says what `place` holds.
pub fn choose<'a>(entries: impl Iterator<Item = &'a Value>, wanted: &Wanted, place: &str) -> Result<Descriptor> {
    let mut best: Option<(u32, &Value)> = None;
    let mut found = Vec::new();
    for entry in entries {
        let rank = match offer(entry) {
            Offer::Nobody => None,
            Offer::Anybody => Some(u32::MAX),
            Offer::For(platform) => {
                let rank = wanted.rank(&platform);
                found.push(platform);
                rank
            }
        };
        // The first of equals stays: the index's own order.
        if let Some(rank) = rank.filter(|rank| best.is_none_or(|(least, _)| *rank < least)) {
            best = Some((rank, entry));
        }
    }
    match best {
        Some((_, entry)) => Descriptor::parse(Some(entry), "index entry"),
        None => Err(wanted.missing(&found, place)),
    }
}

/// Whom an entry is for.
enum Offer {
    /// A platform.
    For(Platform),
    /// It names none.
    Anybody,
    /// It is no image, or what it says of its platform cannot be read.
    Nobody,
}

fn offer(entry: &Value) -> Offer {
    let Some(node) = entry.as_object().filter(|node| is_image(node)) else { return Offer::Nobody };
    match member(node, "platform") {
        None => Offer::Anybody,
        Some(Value::Object(platform)) => match Platform::from_object(platform) {
            // What attestations are for.
            Some(platform) if platform.os == "unknown" || platform.architecture == "unknown" => Offer::Nobody,
            Some(platform) => Offer::For(platform),
            None if platform.values().all(|value| value.is_null() || value == "") => Offer::Anybody,
            None => Offer::Nobody,
        },
        Some(_) => Offer::Nobody,
    }
}

/// Whether an entry says that it is an image, or images: not an artifact, nor an attestation about an image.
#[must_use]
pub fn is_image(entry: &Map<String, Value>) -> bool {
    let media_type = member(entry, "mediaType").map_or(Some(""), Value::as_str);
    let known = media_type.is_some_and(|kind| kind.is_empty() || is_manifest(kind) || is_index(kind));
    let artifact = member(entry, "artifactType").is_some_and(|kind| !kind.as_str().is_some_and(Config::is_image));
    let reference = entry.get("annotations").is_some_and(|notes| notes.get("vnd.docker.reference.type").is_some());
    known && !artifact && !reference
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::manifest::{OCI_INDEX, OCI_MANIFEST};
    use groot_document::json;

    fn entry(number: usize, platform: Option<&str>) -> Value {
        let mut entry = json!({"mediaType": OCI_MANIFEST, "digest": Digest::of(&[number as u8]).to_string(), "size": 5});
        if let Some(text) = platform {
            let parts: Vec<_> = text.split('/').collect();
            entry["platform"] = json!({"os": parts[0], "architecture": parts[1], "variant": parts.get(2)});
        }
        entry
    }

    fn changed(mut entry: Value, change: &Value) -> Value {
        for (key, value) in change.as_object().unwrap() {
            entry[key] = value.clone();
        }
        entry
    }

    /// Which of the entries is chosen for linux/amd64 on a processor of level 2.
    fn chosen(entries: &[Value]) -> Result<usize> {
        let wanted = Wanted { platform: Platform::new("linux", "amd64", None), explicit: false, runs: Some(2) };
        let digest = choose(entries.iter(), &wanted, "the list")?.digest.to_string();
        Ok(entries.iter().position(|entry| entry["digest"] == digest.as_str()).unwrap())
    }

    fn chosen_of(platforms: &[Option<&str>]) -> Result<usize> {
        chosen(&platforms.iter().enumerate().map(|(number, text)| entry(number, *text)).collect::<Vec<_>>())
    }

    #[test]
    fn e6_the_platform_that_is_wanted() {
        for (platforms, expected) in [
            (&[Some("linux/amd64")][..], 0),
            (&[Some("windows/amd64"), Some("linux/arm64"), Some("linux/amd64")], 2),
            (&[Some("unknown/unknown"), Some("linux/amd64")], 1),
            (&[Some("linux/amd64"), Some("linux/amd64")], 0),
            (&[Some("linux/amd64/v3"), Some("linux/amd64/v2"), Some("linux/amd64")], 1),
            (&[Some("linux/x86_64")], 0),
        ] {
            assert_eq!(chosen_of(platforms).unwrap(), expected, "{platforms:?}");
        }
    }

    #[test]
    fn an_entry_without_platform_is_taken_when_nothing_else_fits() {
        assert_eq!(chosen_of(&[None]).unwrap(), 0);
        assert_eq!(chosen_of(&[None, Some("linux/amd64")]).unwrap(), 1);
        assert_eq!(chosen_of(&[Some("linux/arm64"), None, None]).unwrap(), 1);
        assert_eq!(chosen(&[changed(entry(0, None), &json!({"platform": {}}))]).unwrap(), 0);
        assert_eq!(chosen(&[changed(entry(0, None), &json!({"platform": null, "mediaType": OCI_INDEX}))]).unwrap(), 0);
    }

    #[test]
    fn attestations_and_artifacts_are_never_taken() {
        let attestation = changed(entry(0, None), &json!({"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}));
        for other in [
            entry(0, Some("unknown/unknown")),
            attestation,
            changed(entry(0, Some("linux/amd64")), &json!({"artifactType": "application/vnd.amazon.soci.index.v2+json"})),
        ] {
            assert!(chosen(std::slice::from_ref(&other)).is_err());
            assert_eq!(chosen(&[other, entry(1, Some("linux/amd64"))]).unwrap(), 1);
        }
    }

    #[test]
    fn e9_only_the_chosen_entry_is_checked() {
        for change in [
            json!({"digest": format!("sha512:{}", "a".repeat(128))}),
            json!({"digest": null}),
            json!({"size": -1}),
            json!({"size": 5 << 30}),
            json!({"mediaType": "application/vnd.example.blob"}),
            json!({"mediaType": 5}),
            json!({"platform": []}),
            json!({"platform": {"os": 5, "architecture": "amd64"}}),
            json!({"urls": 5, "annotations": 5}),
        ] {
            let neighbour = changed(entry(0, Some("linux/s390x")), &change);
            assert_eq!(chosen(&[neighbour, entry(1, Some("linux/amd64"))]).unwrap(), 1, "{change}");
        }
        assert_eq!(chosen(&[json!(5), json!(null), entry(2, Some("linux/amd64"))]).unwrap(), 2);
        for change in [json!({"digest": "sha256:../../x"}), json!({"size": true}), json!({"urls": 5})] {
            chosen(&[changed(entry(0, Some("linux/amd64")), &change)]).unwrap_err();
        }
    }

    #[test]
    fn e6_nothing_fits_and_the_hint_says_what_there_is() {
        let error = chosen_of(&[Some("linux/s390x"), Some("linux/arm/v7"), Some("linux/s390x")]).unwrap_err();
        assert_eq!(error.message, "no image found in manifest list for architecture amd64, OS linux");
        assert_eq!(error.hint.unwrap(), "the list holds: linux/arm/v7, linux/s390x");
        assert_eq!(chosen_of(&[]).unwrap_err().hint.unwrap(), "the list holds: no image with a platform");
    }
}
