//! Why a name, a file or a reply cannot be used.

use std::fmt;

/// Shorthand used by the whole crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The distinctions a caller acts on; the names of the classes in `python/groot_fast/errors.py`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The image's name cannot be used.
    Source,
    /// A digest is none.
    BadImage,
    /// A file of the operator cannot be used.
    Config,
    /// A registry refused, or sent nonsense.
    Registry,
}

/// One clear line, and the cure where it is known. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of fault it is.
    pub kind: Kind,
    /// What a person reads.
    pub message: String,
    /// The cure, if it is known.
    pub hint: Option<String>,
    /// The HTTP status of a refusal.
    pub status: Option<u16>,
}

impl Error {
    /// An error without a hint.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, status: None }
    }

    /// The same with a cure.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Text in double quotes and printable ASCII, whatever was in it.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => shown.push_str("\\\""),
            ' '..='~' => shown.push(character),
            _ => shown.extend(character.escape_default()),
        }
    }
    shown.push('"');
    shown
}
