//! What a `docker://` name means now, for this caller: the rules, and one small client that asks.
//!
//! ```text
//! reference     docker://host/name:tag
//! hosts         hosts.toml: which hosts serve a registry's images
//! trust         hosts as users spell them; certs.d, insecure registries, mirrors
//! credentials   docker's config.json and podman's auth.json
//! challenge     WWW-Authenticate, and what to ask a token server for
//! address       who can reach an address, and which spellings are refused
//! client        the question, asked of mirrors and of the registry     exchange   one request and its reply
//! ```
//!
//! Python applies the same rules to what it pulls, through the bindings. Rules read files they are told to read and
//! nothing else: no environment, and no network but in the client.

pub mod address;
pub mod challenge;
pub mod client;
pub mod credentials;
pub mod error;
mod exchange;
pub mod hosts;
pub mod reference;
pub mod trust;

pub use error::{Error, Kind, Result};
