//! From entries to files below one directory.
//!
//! ```text
//! extract.rs   one entry after the other
//! filler.rs    content of files, and the order of calls that keeps their metadata
//! known.rs     files that other volumes hold already
//! twin.rs      sharing the content of one of them
//! dirs.rs      directories by descriptor: every name resolved by the kernel below the root
//! whiteout.rs  which names are markers, and what they take away
//! remove.rs    removing trees
//! xattr.rs     which extended attributes are kept, and a hash over them
//! ```

mod dirs;
mod extract;
mod filler;
mod known;
mod remove;
mod twin;
mod whiteout;
pub(crate) mod xattr;

pub use extract::{Extractor, Options, Stats};
pub use known::Neighbours;
pub use remove::content;
