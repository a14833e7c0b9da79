//! `groot_fast._core`: thin bindings. What is promised to Python stands in `python/groot_fast/_core.pyi`.
//!
//! ```text
//! calls.rs       argv, configuration and settings; the commands that need no Python
//! telemetry.rs   log and metrics
//! errors.rs      core errors -> Python exceptions, the one conversion
//! layers.rs      unpack, copy_directory, verify, fingerprint, Spool, Cancel
//! process.rs     the process itself: user namespace, arguments
//! store.rs       Store, Volume, Lock, Listing
//! documents.rs   JSON and YAML, bounded
//! ```

// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod calls;
mod documents;
mod errors;
mod layers;
mod process;
mod store;
mod telemetry;

use pyo3::prelude::*;

/// The Rust core of `groot_fast`.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::calls::{Answer, Call, check_settings, configuration_keys, read_call, read_configuration};
    #[pymodule_export]
    use super::documents::{format_json, parse_json, parse_yaml, sha256};
    #[pymodule_export]
    use super::layers::{Cancel, Spool, copy_directory, fingerprint, unpack, verify};
    #[pymodule_export]
    use super::process::{become_namespace_root, enter_user_namespace};
    #[pymodule_export]
    use super::telemetry::{Logger, Metrics, Sink, commits_of, open_metrics, open_sink};
    #[pymodule_export]
    use super::store::{
        Listing, Lock, Store, Volume, accounting, check_compressed, describe_image, disable_quota, enable_quota, image_id_of, mounts,
        parse_mappings, read_ranges, remove_entry, snapshot, uuid,
    };
    #[pymodule_export]
    use pyo3::panic::PanicException;

    /// A panic becomes an exception; nothing is written besides.
    #[pymodule_init]
    fn init(_module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        groot_cli::failure::catch_panics();
        Ok(())
    }
}
