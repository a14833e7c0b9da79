//! The part of `groot_fast` that moves bytes and talks to the kernel.
//!
//! ```text
//! source ─ blob ─ inflate ─┐ (a thread of its own)        unpack.rs joins the two
//!                          └─ tar ─ layer ── files below one directory
//! record: small files that survive a power cut
//! listing: what a layer did        verify: whether it is still so
//! ```
//!
//! Parsing is split from reading: `tar` sees bytes and gives events, `layer` turns events into files. Every path is
//! resolved by the kernel below a directory handle (`openat2`); `unsafe` lives in `sys` alone.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("groot-core needs 64-bit sizes");

pub mod blob;
pub mod directory;
pub mod error;
pub mod idmap;
pub mod idmount;
pub mod inflate;
pub mod layer;
pub mod limits;
pub mod listing;
pub mod process;
pub mod record;
mod resolve;
pub mod spool;
mod sys;
pub mod tar;
pub mod unpack;
pub mod verify;

pub use error::{Error, Result};
