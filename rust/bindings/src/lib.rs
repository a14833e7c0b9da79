//! `groot_fast._core`: thin bindings. What is promised to Python stands in `python/groot_fast/_core.pyi`.
//!
//! ```text
//! errors.rs      core errors -> Python exceptions, the one conversion
//! layers.rs      unpack, copy_directory, verify, fingerprint, Spool, Cancel
//! process.rs     the process itself: user namespace, arguments
//! volumes.rs     BTRFS subvolumes and quotas
//! documents.rs   JSON and YAML, bounded; records on disk
//! registry.rs    names, trust, credentials and challenges of registries
//! ```

// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod documents;
mod errors;
mod layers;
mod process;
mod registry;
mod volumes;

use pyo3::prelude::*;

/// The Rust core of `groot_fast`.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::documents::{format_json, parse_json, parse_yaml, rename_new, sha256, write_record};
    #[pymodule_export]
    use super::layers::{Cancel, Spool, copy_directory, fingerprint, mount_idmapped, unmount, unpack, verify};
    #[pymodule_export]
    use super::process::{become_namespace_root, enter_user_namespace, hide_in_arguments};
    #[pymodule_export]
    use super::registry::{
        canonical_host, certificates_directory, choose_challenge, credential_places, is_disguised, is_listed_host, list_certificates,
        named_scope, parse_challenges, parse_mirror, parse_reference, reach,
    };
    #[pymodule_export]
    use super::volumes::{
        accounting, create_subvolume, delete_subvolume, disable_quota, disband_group, enable_quota, enclose, has_group, is_inconsistent,
        is_subvolume, lift_limits, limits, list_subvolumes, remove_stale_groups, set_limit, snapshot, stale_groups, start_sync,
        subvolume_exists, subvolume_id, subvolume_ids, sync, usage, uuid,
    };
}
