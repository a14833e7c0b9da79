//! YAML.

use crate::{MAX_DEPTH, Refused, Value};
use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};
use serde_json::Map;

/// Parse the YAML that configuration files are written in: mappings, sequences, scalars. Plain scalars become what YAML 1.2's
/// core schema makes of them, but for fractions, which stay texts. Aliases are refused (a few lines of them fill any memory),
/// tags and duplicate keys too. Nothing at all is null.
pub fn parse_yaml(text: &str) -> Result<Value, Refused> {
    let mut parser = Parser::new_from_str(text);
    let mut document = None;
    while let Some(event) = next_event(&mut parser)? {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd | Event::Nothing => {}
            Event::DocumentStart(_) if document.is_some() => return Err(Refused::new("more than one document")),
            Event::DocumentStart(_) => {
                let event = following(&mut parser)?;
                document = Some(node(&mut parser, event, 0)?);
            }
            _ => return Err(Refused::new("unexpected content")),
        }
    }
    Ok(document.unwrap_or_default())
}

type Yaml<'a> = Parser<'a, StrInput<'a>>;

fn next_event<'a>(parser: &mut Yaml<'a>) -> Result<Option<Event<'a>>, Refused> {
    parser.next_event().transpose().map(|next| next.map(|(event, _)| event)).map_err(|e| Refused::new(e.to_string()))
}

fn following<'a>(parser: &mut Yaml<'a>) -> Result<Event<'a>, Refused> {
    next_event(parser)?.ok_or_else(|| Refused::new("unexpected end"))
}

fn node(parser: &mut Yaml<'_>, event: Event<'_>, depth: usize) -> Result<Value, Refused> {
    if depth > MAX_DEPTH {
        return Err(Refused::new("nested too deeply"));
    }
    match event {
        // What a tag means is the reader's choice; ours would be a guess.
        Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
            Err(Refused::new("tags are not supported"))
        }
        Event::Scalar(text, ScalarStyle::Plain, ..) => Ok(plain_scalar(&text)),
        Event::Scalar(text, ..) => Ok(text.into()),
        Event::SequenceStart(..) => {
            let mut list = Vec::new();
            while let Some(item) = inner(parser, depth)? {
                list.push(item);
            }
            Ok(Value::Array(list))
        }
        Event::MappingStart(..) => {
            let mut object = Map::new();
            while let Some(key) = inner(parser, depth)? {
                let key = match key {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                if object.contains_key(&key) {
                    return Err(Refused::new(format!("key `{key}` is given twice")));
                }
                let value = inner(parser, depth)?.ok_or_else(|| Refused::new("unexpected end"))?;
                object.insert(key, value);
            }
            Ok(Value::Object(object))
        }
        Event::Alias(_) => Err(Refused::new("aliases are not supported")),
        _ => Err(Refused::new("unexpected content")),
    }
}

/// The next node of a collection; `None` at its end.
fn inner(parser: &mut Yaml<'_>, depth: usize) -> Result<Option<Value>, Refused> {
    match following(parser)? {
        Event::SequenceEnd | Event::MappingEnd => Ok(None),
        event => node(parser, event, depth + 1).map(Some),
    }
}

fn plain_scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scalars_and_collections() {
        for (text, value) in [
            ("", json!(null)),
            ("a: 1\nb: -2\nc: text\nd: 1.5\n", json!({"a": 1, "b": -2, "c": "text", "d": "1.5"})),
            ("a: True\nb: '1'\nc: yes\n1: x\n", json!({"a": true, "b": "1", "c": "yes", "1": "x"})),
            ("a:\n- b\n- {c: [d]}\n", json!({"a": ["b", {"c": ["d"]}]})),
        ] {
            assert_eq!(parse_yaml(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn refused() {
        for (text, why) in [
            ("a: &x [1]\nb: *x\n", "aliases"),
            ("a: 1\na: 2\n", "given twice"),
            ("a: 1\n---\nb: 2\n", "more than one"),
            ("a: !custom x\n", "tags"),
            (&("[".repeat(66) + &"]".repeat(66)), "nested too deeply"),
            ("a: b: c", ""),
        ] {
            let error = parse_yaml(text).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
