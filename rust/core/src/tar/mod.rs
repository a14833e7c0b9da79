//! Tar without I/O: bytes in, events out.
//!
//! Reads what layers are made of: ustar, PAX (POSIX.1-2001), GNU long names and sparse files, v7. Malformed input is
//! refused, never skipped: every reader that guesses guesses differently, and that difference is the attack
//! (CVE-2025-62518). Each refusal has its own text.

mod entry;
mod foreign;
mod number;
mod pax;
mod reader;
mod sparse;

pub use entry::{Entry, Kind, Region, Time};
pub use reader::{Event, TarReader};

/// The unit of the format.
pub const BLOCK: usize = 512;
