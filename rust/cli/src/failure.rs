//! Why a call failed: the one line for people, its hint, the exit code.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::sync::{Mutex, PoisonError};

/// The distinctions that callers make; each is an exception of the same name in Python (`groot_fast.errors`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The call itself is wrong: argument count, option value, combination of options.
    UsageError,
    /// The configuration file or a value in it cannot be used.
    ConfigError,
    /// The store is missing, not initialised, damaged, or refused an operation.
    StoreError,
    /// An image with this id is already there (or being created).
    ImageExists,
    /// No image with this id.
    ImageNotFound,
    /// The image source cannot be found, read or understood.
    SourceError,
    /// A disk limit cannot be set or is too small for the image.
    QuotaError,
    /// The command was stopped from outside.
    Cancelled,
    /// Everything else, a defect included.
    GrootError,
}

/// A failure as the caller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind.
    pub kind: Kind,
    /// One line; it may hold names that are no text.
    pub message: OsString,
    /// The cure, in one line.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(kind: Kind, message: impl Into<OsString>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(self, text: impl Into<String>) -> Self {
        Self { hint: Some(text.into()), ..self }
    }

    /// How the process ends (contract, section 5).
    #[must_use]
    pub fn code(&self) -> u8 {
        if self.kind == Kind::Cancelled { 130 } else { 1 }
    }

    /// What stands on stdout.
    #[must_use]
    pub fn text(&self) -> OsString {
        let mut text = self.message.clone();
        if let Some(hint) = &self.hint {
            text.push("\n\nhint: ");
            text.push(hint);
        }
        text
    }
}

/// Parts of a message, put together as bytes.
pub(crate) fn message<const N: usize>(parts: [&OsStr; N]) -> OsString {
    parts.into_iter().collect()
}

/// Where the last panic of this process happened.
static PANICKED_AT: Mutex<String> = Mutex::new(String::new());

/// From here on a panic writes nothing by itself: who catches it makes a `Failure` of it.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|location| format!("{}:{}", location.file(), location.line())).unwrap_or_default();
        *PANICKED_AT.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }));
}

/// A defect, in one line, from what a panic left.
#[must_use]
pub fn of_panic(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let place = PANICKED_AT.lock().unwrap_or_else(PoisonError::into_inner);
    let text = text.unwrap_or("no text").replace('\n', " ");
    Failure::new(Kind::GrootError, format!("internal error: {text} ({place})"))
}
