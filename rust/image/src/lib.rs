//! What an image is, wherever its bytes come from. Every source reads and checks its documents here, so that all of them
//! accept the same images and give them the same names.
//!
//! ```text
//! document    JSON from strangers, bounded       digest     the one spelling that is accepted
//! descriptor  a reference to a blob              platform   operating system, processor, and which variant is best
//! index       which manifest is for whom         manifest   layers and configuration, OCI and Docker schema 2
//! config      what image.json holds              chain      names of volumes
//! image       all of it joined                   layout     `oci://`, a directory with blobs in it
//! archive     what `docker save` and its like write: an image in a tar file
//! ```

pub mod archive;
pub mod chain;
pub mod config;
pub mod descriptor;
pub mod digest;
pub mod document;
pub mod error;
pub mod image;
pub mod index;
pub mod layout;
pub mod manifest;
pub mod platform;

pub use digest::Digest;
pub use error::{Error, Kind, Result};
pub use image::{Image, Layer, Origin};
pub use layout::{Reference, resolve};
pub use platform::{Platform, Wanted};
