//! One error type: what kind of failure (callers act on it), one line for people, and a cure if one is known.

use groot_btrfs::removal::Refusal;
use rustix::io::Errno;
use std::fmt;

/// Shorthand used by the whole crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The kinds of failure; those of Python's `groot_fast.errors` with the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The store is missing, not initialised, damaged, or refused an operation.
    Store,
    /// A lock was not free within its deadline.
    LockTimeout,
    /// An image with this id is there, or being created.
    ImageExists,
    /// No image with this id.
    ImageNotFound,
    /// A disk limit cannot be set or is too small for the image.
    Quota,
    /// The call itself is wrong.
    Usage,
    /// The operating system refused, with this error number.
    Os(i32),
    /// An archive or a listing is malformed.
    Layer,
    /// The caller asked to stop.
    Cancelled,
    /// It takes a process in a user namespace (`Helper`), and there is none.
    NeedsHelper,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What kind of failure.
    pub kind: Kind,
    /// One line for people.
    pub text: String,
    /// The cure.
    pub hint: Option<String>,
    /// Whether it came of a full disk or a used up quota.
    pub full: bool,
}

impl Error {
    /// An error without a hint.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        const FULL: [i32; 2] = [libc::ENOSPC, libc::EDQUOT];
        let full = matches!(kind, Kind::Os(number) if FULL.contains(&number));
        Self { kind, text: text.into(), hint: None, full }
    }

    /// Something about the store.
    pub fn store(text: impl Into<String>) -> Self {
        Self::new(Kind::Store, text)
    }

    /// The same with a cure.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The operating system refused; `doing` says what was tried.
    pub fn os(doing: impl fmt::Display, errno: Errno) -> Self {
        Self::new(Kind::Os(errno.raw_os_error()), format!("{doing}: {}", text_of(errno)))
    }

    /// The same for an error of the standard library.
    pub fn io(doing: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::os(doing, errno_of(error))
    }

    /// The error number, if the operating system gave one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self.kind {
            Kind::Os(number) => Some(Errno::from_raw_os_error(number)),
            _ => None,
        }
    }

    /// What could not be removed below `place`.
    #[must_use]
    pub fn refusal(place: impl fmt::Display, refusal: &Refusal) -> Self {
        let error = Self::new(Kind::Os(refusal.errno.raw_os_error()), format!("removing {place}: {}", reason_of(refusal)));
        Self { hint: refusal.cure.map(str::to_owned), ..error }
    }
}

/// The number of an error of the standard library.
pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// A refusal as a person reads it.
#[must_use]
pub fn reason_of(refusal: &Refusal) -> String {
    if refusal.place.is_empty() && refusal.reason.is_none() { text_of(refusal.errno) } else { refusal.to_string() }
}

/// The system's text the way Go programs print it (`no such file or directory`).
#[must_use]
pub fn text_of(errno: Errno) -> String {
    groot_core::error::os_text(&std::io::Error::from(errno))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

impl From<groot_core::Error> for Error {
    fn from(error: groot_core::Error) -> Self {
        let kind = match &error {
            groot_core::Error::Io { source, .. } => Kind::Os(source.raw_os_error().unwrap_or(libc::EIO)),
            groot_core::Error::Cancelled => Kind::Cancelled,
            _ => Kind::Layer,
        };
        Self::new(kind, error.to_string())
    }
}
