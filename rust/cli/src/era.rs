//! THE table of eras: what callers of one release of the original see and those of another do not.
//!
//! `--compatibility`, `GROOTFS_COMPATIBILITY` or `compatibility` in a file chooses one. Where the releases agree there is no row here.
//! Sections are those of the contract; rows C1 to C27 are those of `docs/newest.md`.

use crate::failure::{Failure, Kind, message};
use groot_telemetry::Format;
use std::ffi::OsStr;

/// Whose callers are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// Nobody's in particular: people, and callers that say what they want.
    None,
    /// The release of the blog post (v0.13.0), which Garden of March 2017 calls.
    Blog,
    /// The last release with BTRFS (February 2018).
    Btrfs,
    /// The newest (2026), which today's cells run.
    Newest,
}

/// What is so in one era.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // a table of yes and no
pub struct Rules {
    /// The setting's word.
    pub word: &'static str,
    /// What `--version` prints (section 2; C24).
    pub version: &'static str,
    /// Whether `create` prints JSON unless told otherwise (section 7.3; C1, C2).
    pub json: bool,
    /// The log's format unless told otherwise (section 18.3; C8).
    pub log_time_format: Format,
    /// Whether each command logs its beginning and end at `info` (section 18.3).
    pub tells_commands: bool,
    /// Whether an image's volumes are directories beside it, listed as mounts (section 7.3; C3).
    pub has_volumes: bool,
    /// Whether the JSON of `create` has `args` (section 7.3; C25).
    pub has_args: bool,
    /// Whether a threshold is compared with layers and committed limits, or with layers alone (section 16; C4).
    pub counts_limits: bool,
    /// Whether a threshold that is just reached keeps `clean` from starting (section 16).
    pub spares_equal: bool,
    /// Whether the clean after a `create` is a process of its own, which cannot fail it (section 16; C5).
    pub cleans_apart: bool,
    /// Whether the loop device writes past the page cache unless told otherwise (section 8.5; C7).
    pub direct_io: bool,
    /// Whether `stats` has the limit and what is committed (section 8.2; C9).
    pub shows_limits: bool,
    /// Whether `DownloadedLayersSizeInBytes` is a gauge of the whole store (section 18.2; C12).
    pub gauges_layers: bool,
    /// Whether `UsedLayersSize`, `UsedBackingStoreInBytes` and applied limits are sent (section 18.2; C10, C11, C13).
    pub measures_newly: bool,
    /// Whether messages come with their hints; without, hints are in the log only (C15).
    pub hints: bool,
    /// Whether an error before the command starts comes with the whole help (section 2; C14).
    pub early_help: bool,
    /// Whether it is said once more on stderr.
    pub early_twice: bool,
    /// Whether a file's key `driver` means something (section 3; C26).
    pub knows_driver: bool,
    /// Whether a directory can be an image (section 7.4; C21).
    pub takes_directories: bool,
    /// Whether the size of a layer is said to be different, with both numbers (section 7.4; C16).
    pub tells_sizes: bool,
    /// Whether unpacking stops where the limit is exceeded (section 7.4; C17).
    pub stops_at_limit: bool,
    /// Whether a refusal of a registry is told in the registry's words (section 7.4; C18).
    pub quotes_refusals: bool,
    /// Whether `delete-store` of an empty directory is an error (section 8.6; C20).
    pub keeps_empty_store: bool,
    /// What `delete` says of an image that is not there, around its id (section 8.1).
    pub not_deleted: [&'static str; 2],
    /// The same of `stats`; nothing: as the store says it (section 8.2; C23).
    pub not_measured: Option<[&'static str; 2]>,
    /// What `delete` adds to the text about a path outside of the store (section 8.1; C22).
    pub outside: &'static str,
}

const NONE: Rules = Rules {
    word: "none",
    version: crate::VERSION,
    json: false,
    log_time_format: Format::UnixEpoch,
    tells_commands: true,
    has_volumes: true,
    has_args: true,
    counts_limits: false,
    spares_equal: false,
    cleans_apart: false,
    direct_io: true,
    shows_limits: false,
    gauges_layers: false,
    measures_newly: false,
    hints: true,
    early_help: false,
    early_twice: true,
    knows_driver: true,
    takes_directories: true,
    tells_sizes: false,
    stops_at_limit: false,
    quotes_refusals: false,
    keeps_empty_store: false,
    not_deleted: ["Image `", "` not found. Skipping delete."],
    not_measured: None,
    outside: "",
};

const BLOG: Rules = Rules {
    word: "blog",
    version: "0.0.0",
    spares_equal: true,
    hints: false,
    early_help: true,
    takes_directories: false,
    not_deleted: ["image `", "` was not found"],
    not_measured: Some(["image `", "` was not found"]),
    ..NONE
};

const BTRFS: Rules = Rules {
    word: "btrfs",
    version: "0.30.1",
    json: true,
    gauges_layers: true,
    hints: false,
    early_help: true,
    takes_directories: false,
    keeps_empty_store: true,
    not_measured: Some(["Image `", "` not found. Skipping delete."]),
    ..NONE
};

const NEWEST: Rules = Rules {
    word: "newest",
    log_time_format: Format::Rfc3339,
    tells_commands: false,
    has_volumes: false,
    has_args: false,
    counts_limits: true,
    cleans_apart: true,
    direct_io: false,
    shows_limits: true,
    measures_newly: true,
    early_help: false,
    early_twice: false,
    knows_driver: false,
    tells_sizes: true,
    stops_at_limit: true,
    quotes_refusals: true,
    not_measured: Some(["Image `", "` not found."]),
    outside: " Skipping delete.",
    ..BTRFS
};

impl Era {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::None, Self::Blog, Self::Btrfs, Self::Newest];

    /// What is so in it.
    #[must_use]
    pub fn rules(self) -> &'static Rules {
        match self {
            Self::None => &NONE,
            Self::Blog => &BLOG,
            Self::Btrfs => &BTRFS,
            Self::Newest => &NEWEST,
        }
    }

    /// The era of a word; nothing is `None`. Fails with a `ConfigError`.
    pub fn of(word: &OsStr) -> Result<Self, Failure> {
        if word.is_empty() {
            return Ok(Self::None);
        }
        Self::ALL.into_iter().find(|era| era.rules().word == word).ok_or_else(|| {
            let parts = ["invalid argument: compatibility `".as_ref(), word, "` is none of none, blog, btrfs, newest".as_ref()];
            Failure::new(Kind::ConfigError, message(parts))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for era in Era::ALL {
            assert_eq!(Era::of(era.rules().word.as_ref()), Ok(era));
        }
        assert_eq!(Era::of("".as_ref()), Ok(Era::None));
        let text = Era::of("v1".as_ref()).unwrap_err().message;
        assert_eq!(text, "invalid argument: compatibility `v1` is none of none, blog, btrfs, newest");
    }
}
