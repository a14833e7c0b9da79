//! The store: one directory tree on BTRFS, shared by every process that uses it.
//!
//! ```text
//! <store>/                        0700, owner (the host id of the images' root)
//!   images/<id>/                  0700
//!     image.json                  the image's configuration
//!     rootfs/                     the container's root file system: a snapshot, made last (its existence is the image's)
//!     snapshot/                   the same with --without-mount; rootfs/ is then an empty directory
//!     vol-<sha256 of the path>/   a subvolume for each volume the image declares
//!   volumes/<chain id>/           one subvolume a layer, holding all layers below it too
//!   volumes/<chain id>-incomplete-<nanos>-<random>/    being built
//!   volumes/gc.<name>/            to be destroyed
//!   meta/namespace.json           the store's id mappings
//!   meta/volume-<chain id>        {"Size": bytes of this layer's files, "TreeSize": bytes of all files one sees, ...}
//!   meta/listing-<chain id>       what the layer did, for `check --deep`
//!   meta/dependencies/image:<id>.json   chain ids of the image, bottom to top
//!   meta/sources/<sha256 of the image's name>.json     what `clean --ignore-image` looks up
//!   meta/proofs/<keyed hash>      who may pull what, for `create.image_verification: cached`
//!   locks/<key>.lock              flock; global-groot-lock, groot-gc-lock, one a chain id
//!   tmp/                          downloads (blob-<digest>), records before their rename
//! ```
//!
//! The layout is the original's last BTRFS one (contract, section 11.2); `meta/sources`, `meta/proofs`, `meta/listing-*` and
//! the key `TreeSize` are ours and do not disturb it.
//!
//! ```text
//! layout.rs     Store: opened once, held by a descriptor; names, ids, owner
//! folder.rs     a directory that is held: everything below it by one name and the `*at` calls
//! mappings.rs   id mappings, and whether root may trust those of somebody else's store
//! locks.rs      flock between processes
//! records.rs    the small files below meta/
//! proofs.rs     that a caller may pull
//! turns.rs      one question to a registry is asked once
//! volumes.rs    build and publish volumes
//! images.rs     reserve an id, commit, delete, list, usage
//! declared.rs   the volumes that an image declares
//! limits.rs     disk limits and the trees under them; drax.rs the helper for who is not root
//! sharing.rs    what layers share: where to look for it, and how many bytes there are
//! room.rs       how much room there is, also below a sparse file
//! clean.rs      remove what nobody uses
//! setup.rs      the folders of a new store, and taking a whole one apart
//! spec.rs       the partial runtime specification
//! ```
//!
//! The owner of a store may be hostile to whoever else works on it, root above all. So no function here hands the kernel a
//! path that the owner could have changed: the store's directory is opened once, what is below is resolved by `openat2`
//! beneath it, through no link and no mount, and what is locked is what is worked on.

pub mod clean;
pub mod declared;
mod drax;
pub mod error;
pub mod folder;
mod holder;
pub mod images;
pub mod layout;
pub mod limits;
pub mod locks;
pub mod mappings;
pub mod mounts;
pub mod proofs;
pub mod records;
pub mod room;
pub mod setup;
pub mod sharing;
pub mod spec;
pub mod turns;
pub mod volumes;

pub use error::{Error, Kind, Result};
pub use layout::Store;

use std::os::fd::BorrowedFd;

/// What is told about the work while it goes on: lines for the log, values for the metrics.
pub trait Observer: Sync {
    /// A line for the log.
    fn log(&self, level: Level, action: &str, data: &[(&str, &str)]);
    /// A value; times are in nanoseconds.
    fn measure(&self, name: &str, value: u64, unit: Unit);
}

/// Weight of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For developers.
    Debug,
    /// For operators.
    Info,
    /// Something failed.
    Error,
}

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds.
    Nanos,
    /// Bytes.
    Bytes,
}

/// An observer that looks away.
pub struct Nobody;

impl Observer for Nobody {
    fn log(&self, _: Level, _: &str, _: &[(&str, &str)]) {}
    fn measure(&self, _: &str, _: u64, _: Unit) {}
}

/// What an ordinary user who owns a store has done in a user namespace, where it is root over its subordinate ids: the kernel
/// refuses it outside if a tree's root directory belongs to one of them.
pub trait Helper: Send + Sync {
    /// As `groot_btrfs::subvolume::snapshot`.
    fn snapshot(
        &self,
        source: BorrowedFd<'_>,
        parent: BorrowedFd<'_>,
        name: &[u8],
        limit: Option<groot_btrfs::subvolume::Limit>,
    ) -> Result<()>;
    /// As `groot_core::directory::copy_inside`, without translation of ids.
    fn copy(&self, root: BorrowedFd<'_>, path: &[u8], target: BorrowedFd<'_>) -> Result<bool>;
    /// As `groot_btrfs::removal::remove_entry`.
    fn remove(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u64>>;
}
