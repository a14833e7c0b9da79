//! A reference to a blob (OCI image specification, "Content Descriptors").

use crate::digest::Digest;
use crate::document::{self, Map, Value, member};
use crate::error::{Error, Result, quoted};
use crate::platform::Platform;

/// A reference to a blob, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Empty where there is none.
    pub media_type: String,
    /// What the blob must be.
    pub digest: Digest,
    /// Bytes of the blob, below 2^63.
    pub size: u64,
    /// Other places that have it.
    pub urls: Vec<String>,
    /// Whom it is for, if it is an index's entry that says so.
    pub platform: Option<Platform>,
    /// What its author says about it.
    pub annotations: Map<String, Value>,
}

impl Descriptor {
    /// Check one; `what` names it in messages.
    pub fn parse(value: Option<&Value>, what: &str) -> Result<Self> {
        let Some(Value::Object(node)) = value else {
            return Err(Error::image(format!("{what} is not an object")));
        };
        let digest = match member(node, "digest") {
            Some(Value::String(text)) => Digest::parse(text).map_err(|e| Error::image(format!("{what}: {e}")))?,
            _ => return Err(Error::image(format!("{what}: invalid digest: expected a string"))),
        };
        let size = match node.get("size").and_then(Value::as_u64) {
            Some(size) if i64::try_from(size).is_ok() => size,
            _ => {
                let size = node.get("size").map_or("null".into(), ToString::to_string);
                return Err(Error::image(format!("{what}: invalid size {}", quoted(&size))));
            }
        };
        Ok(Self {
            media_type: document::text(node, "mediaType", what)?,
            digest,
            size,
            urls: document::strings(node, "urls", what)?,
            platform: member(node, "platform").and_then(Value::as_object).and_then(Platform::from_object),
            annotations: document::object(node, "annotations", what)?.cloned().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groot_document::json;

    fn parse(change: (&str, Value)) -> Result<Descriptor> {
        let mut value = json!({"mediaType": "x", "digest": format!("sha256:{}", "0".repeat(64)), "size": 5});
        value[change.0] = change.1;
        Descriptor::parse(Some(&value), "layer 0")
    }

    #[test]
    fn e9_sizes() {
        assert_eq!(parse(("size", json!(i64::MAX))).unwrap().size, i64::MAX as u64);
        for bad in [json!(-1), json!(1_u64 << 63), json!(1.5), json!("1"), json!(null), json!(true)] {
            assert!(parse(("size", bad)).unwrap_err().message.starts_with("layer 0: invalid size"));
        }
    }

    #[test]
    fn null_means_missing() {
        let read = parse(("urls", json!(null))).unwrap();
        assert_eq!((read.urls.len(), read.annotations.len()), (0, 0));
        assert_eq!(parse(("mediaType", json!(null))).unwrap().media_type, "");
    }

    #[test]
    fn unexpected_types_are_refused() {
        for (key, value) in [("digest", json!(5)), ("mediaType", json!(5)), ("urls", json!([5])), ("annotations", json!([]))] {
            assert!(parse((key, value)).is_err(), "{key}");
        }
        assert!(Descriptor::parse(None, "config").is_err());
    }
}
