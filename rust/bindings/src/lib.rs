//! `groot_fast._core`: thin bindings. What is promised to Python stands in `python/groot_fast/_core.pyi`.
//!
//! ```text
//! errors.rs      errors -> Python exceptions, the one conversion
//! image.rs       what images are: references, documents, layers
//! layers.rs      unpack, copy_directory, verify, fingerprint, Spool, Cancel
//! process.rs     the process itself: user namespace, arguments
//! volumes.rs     BTRFS subvolumes and quotas
//! documents.rs   JSON and YAML, bounded; records on disk
//! ```

// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod documents;
mod errors;
mod image;
mod layers;
mod process;
mod volumes;

use pyo3::prelude::*;

/// The Rust core of `groot_fast`.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::documents::{format_json, parse_json, parse_yaml, rename_new, sha256, write_record};
    #[pymodule_export]
    use super::image::{
        Blob, Image, Index, Layer, Manifest, OciReference, archive_path, chain_ids, parse_digest, parse_document, parse_platform,
        read_document, resolve_archive,
    };
    #[pymodule_export]
    const MAX_CONFIG: u64 = super::image::CONFIG_LIMIT;
    #[pymodule_export]
    const MAX_INDEX_DEPTH: usize = super::image::INDEX_DEPTH;
    #[pymodule_export]
    const MAX_MANIFEST: u64 = super::image::MANIFEST_LIMIT;
    #[pymodule_export]
    use super::layers::{Cancel, Spool, copy_directory, fingerprint, mount_idmapped, unmount, unpack, verify};
    #[pymodule_export]
    use super::process::{become_namespace_root, enter_user_namespace, hide_in_arguments};
    #[pymodule_export]
    use super::volumes::{
        accounting, create_subvolume, delete_subvolume, disable_quota, disband_group, enable_quota, enclose, has_group, is_inconsistent,
        is_subvolume, lift_limits, limits, list_subvolumes, remove_stale_groups, set_limit, snapshot, stale_groups, start_sync,
        subvolume_exists, subvolume_id, subvolume_ids, sync, usage, uuid,
    };
}
