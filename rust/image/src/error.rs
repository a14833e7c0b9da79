//! One error type: a line for a person, perhaps the cure, and the kind that a caller acts on.

use groot_core::error::printable;
use std::fmt;

/// Shorthand used by the whole crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong. Each kind is a class of the Python package's `errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The image cannot be found, read, or understood (`SourceError`).
    Source,
    /// A document is malformed, ambiguous, or does not fit the others (`BadImage`).
    Image,
    /// The bytes of a blob are not what was promised (`BadBlob`).
    Blob,
    /// Larger than the bound set for it (`LimitExceeded`).
    Limit,
    /// The caller's own wish cannot be understood (`ConfigError`).
    Config,
}

/// Why an image cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What a caller acts on.
    pub kind: Kind,
    /// One line; the contract's words where it has some.
    pub message: String,
    /// One sentence with the cure, where it is known.
    pub hint: Option<String>,
}

impl Error {
    /// An error without a hint.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// A malformed document.
    pub fn image(message: impl Into<String>) -> Self {
        Self::new(Kind::Image, message)
    }

    /// Something that cannot be found or read.
    pub fn source(message: impl Into<String>) -> Self {
        Self::new(Kind::Source, message)
    }

    /// The same with the cure.
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

/// Text of a stranger for a message: short, and nothing in it can drive a terminal.
#[must_use]
pub fn quoted(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("'{}{dots}'", printable(short.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_short_and_harmless() {
        assert_eq!(quoted("a\n\u{1b}[1m"), "'a\\n\\u{1b}[1m'");
        assert_eq!(quoted(&"x".repeat(500)), format!("'{}...'", "x".repeat(80)));
    }
}
