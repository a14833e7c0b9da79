//! `groot_fast._core`: thin bindings. What is promised to Python stands in `python/groot_fast/_core.pyi`.
//!
//! ```text
//! calls.rs       argv, configuration and settings; the commands that need no Python
//! telemetry.rs   log and metrics
//! errors.rs      core errors -> Python exceptions, the one conversion
//! layers.rs      unpack, copy_directory, verify, fingerprint, Spool, Cancel
//! process.rs     the process itself: user namespace, arguments
//! volumes.rs     BTRFS subvolumes and quotas
//! documents.rs   JSON and YAML, bounded; records on disk
//! ```

// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod calls;
mod documents;
mod errors;
mod layers;
mod process;
mod telemetry;
mod volumes;

use pyo3::prelude::*;

/// The Rust core of `groot_fast`.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::calls::{Answer, Call, check_settings, configuration_keys, name_of_command, read_call, read_configuration};
    #[pymodule_export]
    use super::documents::{format_json, parse_json, parse_yaml, rename_new, sha256, write_record};
    #[pymodule_export]
    use super::layers::{Cancel, Spool, copy_directory, fingerprint, mount_idmapped, unmount, unpack, verify};
    #[pymodule_export]
    use super::process::{become_namespace_root, enter_user_namespace};
    #[pymodule_export]
    use super::telemetry::{Logger, Metrics, Sink, commits_of, open_metrics, open_sink};
    #[pymodule_export]
    use super::volumes::{
        accounting, create_subvolume, delete_subvolume, disable_quota, disband_group, enable_quota, enclose, has_group, is_inconsistent,
        is_subvolume, lift_limits, limits, list_subvolumes, remove_stale_groups, set_limit, snapshot, stale_groups, start_sync,
        subvolume_exists, subvolume_id, subvolume_ids, sync, usage, uuid,
    };
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
