//! The configuration file: which settings it holds (contract, section 3).
//!
//! Every spelling that any release used is read: the flat keys of the blog's era, the nested ones of the last BTRFS release, and
//! those that came and went between them (the table's `KEYS`). Unknown keys are ignored.

use crate::arguments::size;
use crate::failure::{Failure, Kind, message};
use crate::options::{KEYS, KeyForm, WITHOUT_MEANING};
use crate::settings::{Value, Values};
use groot_core::error::os_text;
use groot_document::{Value as Node, parse_yaml};
use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;

/// A larger file is refused.
pub const MAX_BYTES: u64 = 1 << 20;

/// The values that the file at `path` holds, by setting. Fails with a `ConfigError`.
pub fn read(path: &Path) -> Result<Values, Failure> {
    pick(&document(path)?.0)
}

/// The same, with what the file is.
pub fn read_open(path: &Path) -> Result<(Values, Metadata), Failure> {
    let (document, file) = document(path)?;
    Ok((pick(&document)?, file))
}

/// The keys in the file at `path` that nothing reads, dotted and in its order, but for those that some release wrote or read and that
/// mean nothing here. Fails with a `ConfigError`.
pub fn unknown_keys(path: &Path) -> Result<Vec<String>, Failure> {
    let (document, _) = document(path)?;
    let known = || KEYS.iter().flat_map(|key| key.spellings).chain(WITHOUT_MEANING).copied();
    let is_section = |name: &str| known().any(|key| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')));
    let mut unknown = Vec::new();
    for (name, node) in document.as_object().into_iter().flatten() {
        match node.as_object().filter(|_| is_section(name)) {
            Some(section) => {
                unknown.extend(section.keys().map(|key| format!("{name}.{key}")).filter(|dotted| !known().any(|key| key == dotted)));
            }
            None if known().any(|key| key == name) || is_section(name) => {}
            None => unknown.push(name.clone()),
        }
    }
    Ok(unknown)
}

fn document(path: &Path) -> Result<(Node, Metadata), Failure> {
    let mut data = Vec::new();
    let opened = File::open(path).and_then(|file| {
        let metadata = file.metadata()?;
        file.take(MAX_BYTES + 1).read_to_end(&mut data)?;
        Ok(metadata)
    });
    let metadata = opened.map_err(|error| {
        let reason = os_text(&error);
        Failure::new(Kind::ConfigError, message(["invalid config path: open ".as_ref(), path.as_os_str(), ": ".as_ref(), reason.as_ref()]))
    })?;
    if data.len() as u64 > MAX_BYTES {
        return Err(refused(format!("larger than {MAX_BYTES} bytes")));
    }
    let text = str::from_utf8(&data).map_err(|error| refused(error.to_string()))?;
    Ok((parse_yaml(text).map_err(|error| refused(error.to_string()))?, metadata))
}

fn refused(why: impl AsRef<str>) -> Failure {
    Failure::new(Kind::ConfigError, format!("invalid config file: {}", why.as_ref()))
}

fn pick(document: &Node) -> Result<Values, Failure> {
    if !matches!(document, Node::Object(_) | Node::Null) {
        return Err(refused("not a mapping of keys to values"));
    }
    let mut values = Values::new();
    for key in KEYS {
        let found = key.spellings.iter().find_map(|spelling| Some((spelling, look_up(document, spelling)?)));
        if let Some((spelling, node)) = found {
            let value = convert(node, key.form).ok_or_else(|| refused(format!("`{spelling}` must be {}", name_of(key.form))))?;
            values.insert(key.setting.to_owned(), value);
        }
    }
    Ok(values)
}

/// What is at a dotted key; nothing where it is null.
fn look_up<'a>(document: &'a Node, dotted: &str) -> Option<&'a Node> {
    dotted.split('.').try_fold(document, |node, part| node.get(part)).filter(|node| !node.is_null())
}

fn convert(node: &Node, form: KeyForm) -> Option<Value> {
    Some(match form {
        KeyForm::Switch => Value::Switch(node.as_bool().or_else(|| truth(node.as_str()?))?),
        KeyForm::Integer => Value::Integer(node.as_i64()?),
        KeyForm::Bytes => Value::Integer(node.as_i64().or_else(|| size(node.as_str()?))?),
        KeyForm::List => Value::List(texts(node)?.into_iter().map(Into::into).collect()),
        KeyForm::Lists => {
            let lists = node.as_object()?.iter().map(|(name, items)| Some((name.clone(), texts(items)?)));
            Value::Lists(lists.collect::<Option<_>>()?)
        }
        KeyForm::Text => Value::Text(text(node).filter(|_| !node.is_boolean())?.into()),
    })
}

/// YAML 1.1, which the original reads, has more words for a truth value than YAML 1.2.
fn truth(word: &str) -> Option<bool> {
    match word.to_lowercase().as_str() {
        "yes" | "on" | "y" => Some(true),
        "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

fn texts(node: &Node) -> Option<Vec<String>> {
    node.as_array()?.iter().map(text).collect()
}

fn text(node: &Node) -> Option<String> {
    match node {
        Node::String(text) => Some(text.clone()),
        Node::Number(number) => Some(number.to_string()),
        Node::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

fn name_of(form: KeyForm) -> &'static str {
    match form {
        KeyForm::Switch => "true or false",
        KeyForm::Integer => "a whole number",
        KeyForm::Bytes => "a number of bytes",
        KeyForm::List => "a list of strings",
        KeyForm::Lists => "a mapping of names to lists of strings",
        KeyForm::Text => "a string",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(text: &str) -> Result<Values, String> {
        let parsed = parse_yaml(text).map_err(|error| error.to_string())?;
        pick(&parsed).map_err(|failure| failure.message.into_string().unwrap())
    }

    #[test]
    fn the_first_spelling_that_is_there_counts() {
        for key in KEYS {
            let sample = match key.form {
                KeyForm::Text => ["a", "b"],
                KeyForm::Switch => ["true", "false"],
                KeyForm::Integer | KeyForm::Bytes => ["1", "2"],
                KeyForm::List => ["[a]", "[b]"],
                KeyForm::Lists => ["{a: [b]}", "{c: [d]}"],
            };
            let nested = |dotted: &str, value: &str| match dotted.split_once('.') {
                Some((section, name)) => format!("{section}: {{{name}: {value}}}\n"),
                None => format!("{dotted}: {value}\n"),
            };
            let newest = values(&nested(key.spellings[0], sample[0])).unwrap();
            assert_eq!(newest.keys().collect::<Vec<_>>(), [key.setting]);
            for spelling in &key.spellings[1..] {
                assert_eq!(values(&nested(spelling, sample[0])).unwrap(), newest, "{spelling}");
                if spelling.split('.').next() != key.spellings[0].split('.').next() {
                    let both = nested(spelling, sample[1]) + &nested(key.spellings[0], sample[0]);
                    assert_eq!(values(&both).unwrap(), newest, "{spelling}");
                }
            }
        }
    }

    #[test]
    fn words_and_kinds() {
        for (text, setting, value) in [
            ("create: {disk_limit_size_bytes: 1GiB}", "disk_limit", Value::Integer(1 << 30)),
            ("clean_on_create: yes", "with_clean", Value::Switch(true)),
            ("clean_on_create: Off", "with_clean", Value::Switch(false)),
            ("store: 5", "store", Value::Text("5".into())),
            ("ignore_base_images: [a, 1]", "ignore_images", Value::List(vec!["a".into(), "1".into()])),
        ] {
            assert_eq!(values(text).unwrap().get(setting), Some(&value), "{text}");
        }
    }

    #[test]
    fn harmless_files() {
        for text in ["", "---\n", "# only\n", "null", "unknown: [1, {a: b}]\n", "create:\n", "create: text\n", "store:\n"] {
            assert_eq!(values(text), Ok(Values::new()), "{text}");
        }
    }

    #[test]
    fn refused_files() {
        for (text, why) in [
            ("- a\n", "invalid config file: not a mapping of keys to values"),
            ("text", "invalid config file: not a mapping of keys to values"),
            ("store: [a]\n", "invalid config file: `store` must be a string"),
            ("store: true\n", "invalid config file: `store` must be a string"),
            ("create: {json: 1}\n", "invalid config file: `create.json` must be true or false"),
            ("create: {json: maybe}\n", "invalid config file: `create.json` must be true or false"),
            ("create: {disk_limit_size_bytes: 1.5}\n", "invalid config file: `create.disk_limit_size_bytes` must be a number of bytes"),
            ("disk_limit_size_bytes: true\n", "invalid config file: `disk_limit_size_bytes` must be a number of bytes"),
            ("insecure_registries: a\n", "invalid config file: `insecure_registries` must be a list of strings"),
            ("insecure_registries: [[a]]\n", "invalid config file: `insecure_registries` must be a list of strings"),
            ("registry_mirrors: [a]\n", "invalid config file: `registry_mirrors` must be a mapping of names to lists of strings"),
        ] {
            assert_eq!(values(text), Err(why.to_owned()));
        }
    }

    #[test]
    fn files_that_cannot_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, data: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, data).unwrap();
            path
        };
        for (path, why) in [
            (directory.path().join("missing"), "/missing: no such file or directory"),
            (directory.path().to_owned(), ": is a directory"),
            (write("huge", &vec![b'#'; MAX_BYTES as usize + 1]), "invalid config file: larger than 1048576 bytes"),
            (write("bytes", b"store: \xff\xfe\n"), "invalid config file: invalid utf-8 sequence of 1 bytes from index 7"),
            (write("yaml", b"a: b: c\n"), "invalid config file: "),
        ] {
            let text = read(&path).unwrap_err().message.into_string().unwrap();
            assert!(text.contains(why) && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn keys_that_nothing_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.yml");
        let text = "store: /s\nstroe: /t\ncreate: {json: true, jason: true}\ninit: {owneruser: vcap, store_size_bytes: 1}\n\
                    log_timestamp_format: rfc3339\nclean: 5\nother: {a: 1}\n";
        std::fs::write(&path, text).unwrap();
        assert_eq!(unknown_keys(&path).unwrap(), ["stroe", "create.jason", "other"]);
    }

    proptest! {
        #[test]
        fn any_text_is_a_configuration_or_refused(text: String) {
            let _ = values(&text);
        }
    }
}
