//! `groot_fast._core`: thin bindings. What is promised to Python stands in `python/groot_fast/_core.pyi`.
//!
//! ```text
//! calls.rs       argv, configuration and settings; the commands that need no Python
//! telemetry.rs   log and metrics
//! errors.rs      errors -> Python exceptions, the one conversion
//! image.rs       what images are: references, documents, layers
//! layers.rs      unpack, copy_directory, verify, fingerprint, Spool, Cancel
//! process.rs     the process itself: user namespace, arguments
//! store.rs       Store, Volume, Lock, Listing
//! documents.rs   JSON and YAML, bounded
//! registry.rs    names, trust, credentials and challenges of registries
//! ```

// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod calls;
mod documents;
mod errors;
mod image;
mod layers;
mod process;
mod registry;
mod store;
mod telemetry;

use pyo3::prelude::*;

/// The Rust core of `groot_fast`.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::calls::{
        Answer, Call, Rules, check_settings, configuration_keys, read_call, read_configuration, say, start_clean, unknown_keys,
    };
    #[pymodule_export]
    use super::documents::{format_json, parse_json, parse_yaml, sha256};
    #[pymodule_export]
    use super::image::{
        Blob, Image, Index, Layer, Manifest, OciReference, archive_path, chain_ids, parse_digest, parse_document, parse_platform,
        read_document, resolve_archive,
    };
    #[pymodule_export]
    const BACKING: &str = groot_store::mounts::BACKING;
    #[pymodule_export]
    const DOOMED: &str = groot_store::volumes::DOOMED;
    #[pymodule_export]
    const INCOMPLETE: &str = groot_store::volumes::INCOMPLETE;
    #[pymodule_export]
    const GARBAGE_LOCK: &str = groot_store::locks::GARBAGE;
    #[pymodule_export]
    const GLOBAL_LOCK: &str = groot_store::locks::GLOBAL;
    #[pymodule_export]
    const GLOBAL_DEADLINE: f64 = groot_store::locks::GLOBAL_DEADLINE.as_secs_f64();
    #[pymodule_export]
    const KEEP_DOWNLOADS: f64 = groot_store::clean::KEEP_DOWNLOADS.as_secs_f64();
    #[pymodule_export]
    const FOREIGN_AGE: f64 = groot_store::clean::FOREIGN_AGE.as_secs_f64();
    #[pymodule_export]
    const IDMAPPED_ATTRIBUTE: &str = groot_store::images::IDMAPPED_ATTRIBUTE;
    #[pymodule_export]
    const LIMIT_ATTRIBUTE: &str = groot_store::images::LIMIT_ATTRIBUTE;
    #[pymodule_export]
    const SIZE_ATTRIBUTE: &str = groot_store::images::SIZE_ATTRIBUTE;
    #[pymodule_export]
    const EXCLUSIVE_ATTRIBUTE: &str = groot_store::images::EXCLUSIVE_ATTRIBUTE;
    #[pymodule_export]
    const UNVALIDATED_ATTRIBUTE: &str = groot_store::images::UNVALIDATED_ATTRIBUTE;
    #[pymodule_export]
    const UNCOUNTED_ATTRIBUTE: &str = groot_store::images::UNCOUNTED_ATTRIBUTE;
    #[pymodule_export]
    const MAX_CONFIG: u64 = super::image::CONFIG_LIMIT;
    #[pymodule_export]
    const MAX_INDEX_DEPTH: usize = super::image::INDEX_DEPTH;
    #[pymodule_export]
    const MAX_MANIFEST: u64 = super::image::MANIFEST_LIMIT;
    #[pymodule_export]
    use super::layers::{Cancel, Spool, copy_directory, fingerprint, unpack, verify};
    #[pymodule_export]
    const MANIFEST_TYPES: &str = groot_registry::client::ACCEPT;
    #[pymodule_export]
    use super::process::{become_namespace_root, enter_user_namespace};
    #[pymodule_export]
    use super::registry::{
        Question, RegistryHost, canonical_host, certificates_directory, choose_challenge, credential_files, credential_places,
        is_disguised, is_listed_host, list_certificates, named_scope, parse_challenges, parse_reference, reach, registry_hosts,
    };
    #[pymodule_export]
    use super::store::{
        Listing, Lock, Neighbours, Recent, Store, Turn, Volume, accounting, check_compressed, copy_inside, describe_image, disable_quota,
        enable_quota, image_id_of, mounts, parse_mappings, read_ranges, remove_entry, resize, snapshot, uuid,
    };
    #[pymodule_export]
    use super::telemetry::{Logger, Metrics, Sink, commits_of, open_metrics, open_sink, wants_traces};
    #[pymodule_export]
    use pyo3::panic::PanicException;

    /// A panic becomes an exception; nothing is written besides.
    #[pymodule_init]
    #[allow(clippy::unnecessary_wraps)] // the form that PyO3 wants
    fn init(_module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        groot_cli::failure::catch_panics();
        Ok(())
    }
}
