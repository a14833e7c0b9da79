//! What stands on stdout for programs: one JSON document a command, failures too (`--output json`).
//!
//! | command | document |
//! | --- | --- |
//! | `create` | `{"id", "path"}`; with `--json` the partial runtime specification |
//! | `delete` | `{"id", "message"}` |
//! | `list`, `check`, `doctor` | as with their `--json` |
//! | `stats`, `capacity` | as always |
//! | others | `{"message"}`, what they say to people; `{}` if that is nothing |
//! | any that fails | `{"error": {"code", "message", "hint"}}`; `hint` only if there is one |

use crate::call::Call;
use crate::failure::{Failure, Kind};
use groot_document::{Map, Value as Json, format_json, json, parse_json};
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Texts, or JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Output {
    /// What a word means.
    #[must_use]
    pub fn of(word: &OsStr) -> Option<Self> {
        [Self::Text, Self::Json].into_iter().find(|output| output.word() == word)
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// What a command that succeeded prints, from what it has to say to people.
#[must_use]
pub fn of_success(call: &Call, text: OsString) -> OsString {
    // A script or a page is what was asked for, and a server has said all it has to say.
    if call.settings.output == Output::Text || matches!(call.command.name, "completion" | "man-page" | "serve") {
        return text;
    }
    let said = text.to_string_lossy();
    if said.starts_with(['{', '[']) && parse_json(said.as_bytes()).is_ok() {
        return text;
    }
    // Of an image's path too, which some commands take.
    let name = |argument: &OsString| Path::new(argument).file_name().unwrap_or(argument).to_string_lossy().into_owned();
    let id = |at: usize| call.positional.get(at).map(name).unwrap_or_default();
    let document = match call.command.name {
        "create" => json!({"id": id(1), "path": said}),
        "delete" => json!({"id": id(0), "message": said}),
        _ if said.is_empty() => Json::Object(Map::new()),
        _ => json!({"message": said}),
    };
    format_json(&document).into()
}

/// What a command that failed prints.
#[must_use]
pub fn of_failure(failure: &Failure) -> OsString {
    let mut error = Map::new();
    error.insert("code".into(), word(failure.kind).into());
    error.insert("message".into(), failure.message.to_string_lossy().into());
    if let Some(hint) = &failure.hint {
        error.insert("hint".into(), hint.as_str().into());
    }
    format_json(&json!({"error": error})).into()
}

/// The kind that an exception of Python's has, by the names of its class and those that it is derived from.
#[must_use]
pub fn kind_of(classes: &[String]) -> Kind {
    let kinds = [
        Kind::UsageError,
        Kind::ConfigError,
        Kind::ImageExists,
        Kind::ImageNotFound,
        Kind::QuotaError,
        Kind::SourceError,
        Kind::StoreError,
        Kind::Cancelled,
    ];
    let named = |class: &String| kinds.into_iter().find(|kind| format!("{kind:?}") == *class);
    classes.iter().find_map(named).unwrap_or(Kind::GrootError)
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::UsageError => "usage",
        Kind::ConfigError => "config",
        Kind::StoreError => "store",
        Kind::ImageExists => "image-exists",
        Kind::ImageNotFound => "image-not-found",
        Kind::SourceError => "source",
        Kind::QuotaError => "quota",
        Kind::Cancelled => "cancelled",
        Kind::GrootError => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures() {
        let failure = Failure::new(Kind::ImageNotFound, "no \"x\"");
        assert_eq!(of_failure(&failure), r#"{"error":{"code":"image-not-found","message":"no \"x\""}}"#);
        let failure = Failure::new(Kind::Cancelled, "stopped").hint("again");
        assert_eq!(of_failure(&failure), r#"{"error":{"code":"cancelled","message":"stopped","hint":"again"}}"#);
    }

    #[test]
    fn kinds_of_exceptions() {
        let kind = |classes: &[&str]| kind_of(&classes.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(kind(&["BadBlob", "SourceError", "GrootError", "Exception"]), Kind::SourceError);
        assert_eq!(kind(&["LockTimeout", "StoreError", "GrootError"]), Kind::StoreError);
        assert_eq!(kind(&["FileNotFoundError", "OSError"]), Kind::GrootError);
    }
}
