//! One error type. Its variants are the distinctions a caller acts on; its text is what a person reads.

use std::fmt::{self, Write};
use std::io;

/// Shorthand used by the whole crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed.
#[derive(Debug)]
pub enum Error {
    /// The operating system refused; `context` says what was tried, in the form ``mkdir `a/b` ``.
    Io {
        /// What was tried.
        context: String,
        /// What the system said.
        source: io::Error,
    },
    /// The archive is malformed, hostile, or cannot be applied to this tree.
    Layer(String),
    /// The bytes are not what was promised (digest or size).
    Blob(String),
    /// A bound of `Limits` was reached.
    Limit(String),
    /// The caller asked to stop.
    Cancelled,
}

impl Error {
    /// An I/O error with what was tried.
    pub fn io(context: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { context: context.into(), source: source.into() }
    }

    /// A malformed or unusable archive.
    pub fn layer(text: impl Into<String>) -> Self {
        Self::Layer(text.into())
    }

    /// The error number, where the operating system gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { context, source } if context.is_empty() => f.write_str(&os_text(source)),
            Self::Io { context, source } => write!(f, "{context}: {}", os_text(source)),
            Self::Layer(text) | Self::Blob(text) | Self::Limit(text) => f.write_str(text),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for Error {}

/// The result of a thread of ours, from what its `join` gave; a panic is an error too.
pub(crate) fn joined<T>(ended: std::thread::Result<Result<T>>) -> Result<T> {
    ended.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Error::layer(format!("internal error: {}", text.unwrap_or("thread panicked"))))
    })
}

/// The system's text the way Go programs print it (`no such file or directory`), because callers of the
/// original match on it.
#[must_use]
pub fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Bytes of a name for a message: characters that show stay, all else is escaped, so that a hostile
/// archive cannot drive the terminal that shows a log (RUSTSEC-2025-0055).
#[must_use]
pub fn printable(name: &[u8]) -> String {
    let mut text = escaped(name, &[]);
    if text.len() > 256 {
        let end = (0..=256).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// The same for a whole text that a terminal gets; the characters in `kept` stay too.
#[must_use]
pub fn escaped(bytes: &[u8], kept: &[char]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_printable(c) || kept.contains(&c) {
                text.push(c);
            } else {
                text.extend(c.escape_default());
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Neither control, format, private use, unassigned nor any space but the blank: what `escape_debug` leaves as it is after
/// another character, but for quotes and the backslash, which it escapes for another reason.
#[must_use]
pub fn is_printable(c: char) -> bool {
    matches!(c, '\'' | '"' | '\\') || String::from_iter(['x', c]).escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_text_reads_like_the_original() {
        let error = Error::io("open `a`", io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(error.to_string(), "open `a`: no such file or directory");
        assert_eq!(error.errno(), Some(libc::ENOENT));
    }

    #[test]
    fn a_panic_says_why() {
        let why = |work: fn() -> Result<()>| joined(std::thread::spawn(work).join()).unwrap_err().to_string();
        assert_eq!(why(|| panic!("plain")), "internal error: plain");
        assert_eq!(why(|| panic!("number {}", 7)), "internal error: number 7");
        assert_eq!(why(|| std::panic::panic_any(7)), "internal error: thread panicked");
    }

    #[test]
    fn names_cannot_drive_a_terminal() {
        assert_eq!(printable(b"a\x1b[31mb\xff\n"), "a\\u{1b}[31mb\\xff\\n");
        assert_eq!(printable("'\"\\ü\u{202e}\u{d7fc}".as_bytes()), "'\"\\ü\\u{202e}\\u{d7fc}");
        assert!(printable(&vec![b'x'; 5000]).len() < 300);
    }
}
