//! JSON and YAML with bounds: documents come from registries, from stores of others and from strangers.
//!
//! Both are read into serde's [`Value`]; objects keep the order of their keys. [`parse_json`] and [`parse_yaml`] refuse what
//! readers understand differently (duplicate keys) and what costs more than it says (nesting, aliases); [`format_json`] writes
//! compact JSON, escaped as Go's `encoding/json` escapes it, because callers of the original compare texts.

mod json;
mod yaml;

pub use json::{format_json, parse_json};
pub use serde_json::{Map, Number, Value, json};
pub use yaml::parse_yaml;

use std::fmt;

/// Levels of nesting in YAML, and in what is written; JSON that is read has serde's own bound of 128.
pub const MAX_DEPTH: usize = 64;

/// Why a document is refused: one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(String);

impl Refused {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}
