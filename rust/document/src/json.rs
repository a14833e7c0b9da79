//! JSON.

use crate::{Refused, Value};
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number};
use std::fmt::{self, Write};

/// Parse one JSON document: UTF-8, at most 128 levels, no duplicate keys.
pub fn parse_json(document: &[u8]) -> Result<Value, Refused> {
    let mut parser = serde_json::Deserializer::from_slice(document);
    let fail = |e: serde_json::Error| Refused::new(e.to_string());
    let value = Strict.deserialize(&mut parser).map_err(fail)?;
    parser.end().map_err(fail)?;
    Ok(value)
}

/// Reads what serde reads, but for duplicate keys.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = items.next_key::<String>()? {
            // Readers disagree on which of two values counts; that difference is the attack.
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate key `{key}`")));
            }
            let value = items.next_value_seed(Self)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// Compact JSON. `<`, `>`, `&` and the two line separators of Unicode are escaped, as in Go.
#[must_use]
pub fn format_json(value: &Value) -> String {
    let mut text = String::new();
    put_value(value, &mut text);
    text
}

fn put_value(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => put_text(text, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                put_value(item, out);
            }
            out.push(']');
        }
        Value::Object(items) => {
            out.push('{');
            for (i, (key, item)) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                put_text(key, out);
                out.push(':');
                put_value(item, out);
            }
            out.push('}');
        }
        plain => {
            let _ = write!(out, "{plain}");
        }
    }
}

fn put_text(text: &str, out: &mut String) {
    for c in Value::from(text).to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn order_and_escapes_as_in_go() {
        let value = json!({"b": [1, true, null, 1.5, "x"], "a": {}, "c": "<a&b>\u{2028}\"\\\n\0ü"});
        let text = format_json(&value);
        assert_eq!(text, "{\"b\":[1,true,null,1.5,\"x\"],\"a\":{},\"c\":\"\\u003ca\\u0026b\\u003e\\u2028\\\"\\\\\\n\\u0000ü\"}");
        assert_eq!(parse_json(text.as_bytes()), Ok(value));
    }

    #[test]
    fn refused() {
        let deep = [vec![b'['; 200], vec![b']'; 200]].concat();
        for document in [&b""[..], b"1 2", b"NaN", b"\"\xff\"", b"{\"a\":1,\"a\":2}", b"{\"x\":{\"a\":1,\"\\u0061\":1}}", &deep] {
            assert!(parse_json(document).is_err(), "{document:?}");
        }
    }
}
