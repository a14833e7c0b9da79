//! JSON from strangers: indexes, manifests, configurations, and whatever else is small and comes from outside.

use crate::error::{Error, Kind, Result};
pub use groot_document::{Map, Value};

/// Bytes of a manifest or index: what registries themselves accept.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Bytes of an image configuration, which holds the history of the build.
pub const MAX_CONFIG: u64 = 8 << 20;

/// Parse one JSON object of at most `most` bytes; `what` names it in messages.
pub fn parse(body: &[u8], what: &str, most: u64) -> Result<Map<String, Value>> {
    check_size(body.len() as u64, what, most)?;
    // A key is a stranger's text.
    let refused = |reason: groot_document::Refused| groot_core::error::printable(reason.to_string().as_bytes());
    let value =
        groot_document::parse_json(body).map_err(|reason| Error::image(format!("{what} is not valid JSON: {}", refused(reason))))?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Error::image(format!("{what} is not an object"))),
    }
}

/// Refuse what is larger than its bound.
pub fn check_size(size: u64, what: &str, most: u64) -> Result<()> {
    if size > most {
        return Err(Error::new(Kind::Limit, format!("{what} is larger than {most} bytes")));
    }
    Ok(())
}

/// The member `key` of an object, or `None` where it is missing or null, which mean the same in these documents.
#[must_use]
pub fn member<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

/// A member that is an object if it is there.
pub fn object<'a>(parent: &'a Map<String, Value>, key: &str, what: &str) -> Result<Option<&'a Map<String, Value>>> {
    member(parent, key).map(|value| value.as_object().ok_or_else(|| Error::image(format!("{what}: {key} is not an object")))).transpose()
}

/// A member that is a list of strings; missing is empty.
pub fn strings(parent: &Map<String, Value>, key: &str, what: &str) -> Result<Vec<String>> {
    let Some(value) = member(parent, key) else { return Ok(Vec::new()) };
    let texts = || value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
    texts().ok_or_else(|| Error::image(format!("{what}: {key} is not a list of strings")))
}

/// A member that is text; missing is empty.
pub fn text(parent: &Map<String, Value>, key: &str, what: &str) -> Result<String> {
    match member(parent, key) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(Error::image(format!("{what}: {key} is not a string"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e5_hostile_json_is_refused() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        let long = format!("{{\"a\":{}}}", "9".repeat(5000));
        for bad in [
            "",
            "[]",
            "5",
            "\"x\"",
            "{",
            "{} {}",
            "\u{feff}{}",
            r#"{"a":"\ud800"}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":{"b":1,"\u0062":2}}"#,
            r#"{"a":NaN}"#,
            r#"{"a":1e999}"#,
            &deep,
            &long,
        ] {
            let error = parse(bad.as_bytes(), "manifest", 1 << 20).unwrap_err();
            assert!(error.message.starts_with("manifest is not"), "{bad}: {error}");
        }
        assert_eq!(parse(b"{\"a\":\"\xff\"}", "x", 99).unwrap_err().kind, Kind::Image);
        assert_eq!(parse(&[b' '; 100], "x", 99).unwrap_err().kind, Kind::Limit);
        assert!(!parse(b"{\"\\u001b\":1,\"\\u001b\":2}", "x", 99).unwrap_err().message.contains('\u{1b}'));
    }

    #[test]
    fn order_and_numbers_stay() {
        let text = r#"{"z":1,"a":[18446744073709551615,-9223372036854775808,1.5,null,true,"ä"]}"#;
        assert_eq!(groot_document::parse_json(text.as_bytes()).unwrap().to_string(), text);
    }
}
