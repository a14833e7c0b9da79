//! JSON from strangers: indexes, manifests, configurations, and whatever else is small and comes from outside.

use crate::error::{Error, Kind, Result};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
pub use serde_json::{Map, Number, Value};
use std::fmt;

/// Bytes of a manifest or index: what registries themselves accept.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Bytes of an image configuration, which holds the history of the build.
pub const MAX_CONFIG: u64 = 8 << 20;

/// A value whose objects have no key twice: readers disagree on which of the two counts, and that is an attack.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> std::result::Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = items.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate key `{key}`")));
            }
            let Strict(value) = items.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// Parse one JSON value: UTF-8, at most 128 levels, no duplicate keys, no number that is not finite. The caller bounds the size.
///
/// # Errors
/// One line that says what is wrong and at which place.
pub fn parse_value(body: &[u8]) -> std::result::Result<Value, String> {
    match serde_json::from_slice(body) {
        Ok(Strict(value)) => Ok(value),
        // A key is a stranger's text.
        Err(error) => Err(groot_core::error::printable(error.to_string().as_bytes())),
    }
}

/// Parse one JSON object of at most `most` bytes; `what` names it in messages.
pub fn parse(body: &[u8], what: &str, most: u64) -> Result<Map<String, Value>> {
    check_size(body.len() as u64, what, most)?;
    let value = parse_value(body).map_err(|reason| Error::image(format!("{what} is not valid JSON: {reason}")))?;
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
        assert_eq!(parse_value(text.as_bytes()).unwrap().to_string(), text);
    }
}
