//! Results on stdout, written so that none is lost silently.

use groot_core::error::os_text;
use rustix::io::{Errno, write};
use rustix::termios::isatty;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

/// Write all of a text as bytes: names on disk need not be text.
fn put(text: &OsStr) -> Result<(), Errno> {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match write(rustix::stdio::stdout(), rest) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Write a text; gives the exit code. Names in it may be a hostile user's, and a terminal obeys: there they are escaped. If stdout is full or closed that is 1, with a line on stderr, unless it is the reader that
/// went away, who needs no line.
#[must_use]
pub fn say(text: &OsStr, code: u8) -> u8 {
    let escaped;
    let text = if isatty(rustix::stdio::stdout()) {
        escaped = OsString::from(groot_core::error::escaped(text.as_bytes(), &['\n', '\t']));
        &escaped
    } else {
        text
    };
    match put(text) {
        Ok(()) => code,
        Err(Errno::PIPE) => 1,
        Err(error) => {
            complain(format!("standard output: {}\n", os_text(&io::Error::from(error))).as_ref());
            1
        }
    }
}

/// Write to stderr, which may be closed too.
pub fn complain(text: &OsStr) {
    let _ = write(rustix::stdio::stderr(), text.as_bytes());
}
