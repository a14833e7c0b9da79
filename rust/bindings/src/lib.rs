//! `groot_fast._core`: thin bindings. What is promised to Python stands in `python/groot_fast/_core.pyi`.
//!
//! ```text
//! errors.rs      core errors -> Python exceptions, the one conversion
//! layers.rs      unpack, copy_directory, verify, fingerprint, Spool, Cancel
//! process.rs     the process itself: user namespace, arguments
//! store.rs       Store, Volume, Lock, Listing
//! documents.rs   JSON and YAML, bounded
//! ```

// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod documents;
mod errors;
mod layers;
mod process;
mod store;

use pyo3::prelude::*;

/// The Rust core of `groot_fast`.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::documents::{format_json, parse_json, parse_yaml, sha256};
    #[pymodule_export]
    use super::layers::{Cancel, Spool, copy_directory, fingerprint, unpack, verify};
    #[pymodule_export]
    use super::process::{become_namespace_root, enter_user_namespace, hide_in_arguments};
    #[pymodule_export]
    use super::store::{
        Listing, Lock, Store, Volume, accounting, check_compressed, describe_image, disable_quota, enable_quota, image_id_of, mounts,
        parse_mappings, read_ranges, remove_entry, snapshot, uuid,
    };
}
