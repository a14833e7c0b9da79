//! The volumes that an image declares: a directory beside its tree for each, which a runtime binds there.
//!
//! Each is a subvolume of its own that was made inside the image's tree and moved out of it: so it is in the quota group around the
//! tree (`quota::enclose`), without any privilege, and what is written there counts with the image. Where there is no such group, each
//! has the image's limit of its own. A new one holds what the image has at that path, with its owner and mode.

use crate::error::{Error, Kind, Result};
use crate::folder::Folder;
use crate::layout::Store;
use crate::limits::ImageLimit;
use crate::spec::volume_name;
use groot_btrfs::quota::{self, Accounting};
use groot_btrfs::subvolume::{self, Limit};
use groot_core::directory;
use groot_core::idmap::IdMaps;
use rustix::fs::{AtFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;

/// On the directory of an image that has some: nobody else has to look for them.
const ATTRIBUTE: &str = "user.grootfs.volumes";
/// How the names of these directories begin.
pub const PREFIX: &[u8] = b"vol-";

/// What volumes are made from.
pub(crate) struct Origin<'a> {
    /// The image's directory.
    pub image: &'a Folder,
    /// The image's tree in it, under the name that it has before the image exists.
    pub tree: &'a [u8],
    /// The image's limit.
    pub limit: Option<ImageLimit>,
    /// How owners are translated for a runtime that sees the tree through an idmapped mount.
    pub ids: Option<IdMaps>,
}

impl Store {
    /// Make the directories of all `declared` volumes. Raises Quota if what the image has there exceeds its limit.
    pub(crate) fn make_declared(&self, origin: &Origin<'_>, declared: &[String], cancel: &AtomicBool) -> Result<()> {
        let Origin { image, tree, .. } = origin;
        let fail = |errno| Error::os(format!("open {}", image.path_of(tree).display()), errno);
        let root = groot_btrfs::open_below(image, tree).map_err(fail)?;
        let before = rustix::fs::fstat(&root).map_err(fail)?;
        image.set_attribute(ATTRIBUTE, declared.len().to_string().as_bytes())?;
        for path in declared {
            crate::locks::check(cancel)?;
            let place = self.make_place(origin, &root, volume_name(path).as_bytes())?;
            self.fill_place(origin, &root, path, &place, cancel).map_err(|error| match error.errno() {
                Some(Errno::DQUOT) => Error::new(Kind::Quota, format!("the image's volume `{path}` does not fit into the disk limit"))
                    .hint("raise --disk-limit-size-bytes"),
                _ => error,
            })?;
        }
        // They were in it for a moment.
        let times = Timestamps {
            last_access: Timespec { tv_sec: before.st_atime, tv_nsec: before.st_atime_nsec.cast_signed() },
            last_modification: Timespec { tv_sec: before.st_mtime, tv_nsec: before.st_mtime_nsec.cast_signed() },
        };
        match rustix::fs::utimensat(&root, c".", &times, AtFlags::empty()) {
            // Of another id, so it was not written to.
            Err(Errno::PERM | Errno::ACCESS) => Ok(()),
            other => other.map_err(fail),
        }
    }

    /// An empty subvolume `name` in the image's directory, charged to the image.
    fn make_place(&self, origin: &Origin<'_>, root: &OwnedFd, name: &[u8]) -> Result<Folder> {
        let image = origin.image;
        let fail = |errno| Error::os(format!("creating subvolume {}", image.path_of(name).display()), errno);
        let id = subvolume::id_of(root).map_err(fail)?;
        if self.groups()?.has_enclosure(id) {
            let inside = Self::temporary_name(".volume");
            let made = subvolume::create(root, &inside, None);
            if made.is_ok() {
                rustix::fs::renameat(root, &inside[..], image, name).map_err(fail)?;
                return image.folder(name).map_err(fail);
            }
            if !matches!(made, Err(Errno::PERM | Errno::ACCESS)) {
                made.map_err(fail)?;
            }
            // The tree's root belongs to another id of ours.
        }
        subvolume::create(image, name, self.own_limit(origin.limit)?).map_err(fail)?;
        image.folder(name).map_err(fail)
    }

    fn own_limit(&self, limit: Option<ImageLimit>) -> Result<Option<Limit>> {
        let Some(limit) = limit else { return Ok(None) };
        Ok(match self.accounting()? {
            Accounting::Off => None,
            Accounting::Full => Some(Limit { bytes: limit.size, exclusive: limit.exclusive }),
            Accounting::Simple => Some(Limit { bytes: limit.own(), exclusive: limit.exclusive }),
        })
    }

    /// Give a new volume what the tree has at that path.
    fn fill_place(&self, origin: &Origin<'_>, root: &OwnedFd, path: &str, place: &Folder, cancel: &AtomicBool) -> Result<()> {
        let filled = match &self.options.helper {
            Some(helper) if self.needs_namespace() => helper.copy(root.as_fd(), path.as_bytes(), place.as_fd())?,
            _ => {
                let target = place.as_fd().try_clone_to_owned().map_err(|error| Error::io("dup", &error))?;
                directory::copy_inside(root, path.as_bytes(), target, origin.ids.clone().unwrap_or_default(), cancel)?
            }
        };
        if filled {
            return Ok(());
        }
        let owner = match &origin.ids {
            Some(ids) => ids.uid.translate(0).zip(ids.gid.translate(0)),
            None => self.owner(),
        };
        place.settle(0o755, owner).map_err(|errno| Error::os(format!("chmod {}", place.path().display()), errno))
    }

    /// Whether files of the store belong to ids that this process may not act for.
    pub(crate) fn needs_namespace(&self) -> bool {
        !rustix::process::geteuid().is_root() && !self.mappings().is_empty()
    }

    /// Refuse to make volumes without the helper that it takes, before anything is made. Raises `NeedsHelper`.
    pub(crate) fn check_declared(&self, declared: &[String]) -> Result<()> {
        if !declared.is_empty() && self.needs_namespace() && self.options.helper.is_none() {
            return Err(Error::new(Kind::NeedsHelper, "volumes of the image"));
        }
        Ok(())
    }

    /// Put the volumes of an image into the group around its tree, subvolume `id`. Needs root.
    pub fn enclose_declared(&self, image: &Folder, id: u64) -> rustix::io::Result<()> {
        for name in Self::declared_in(image).unwrap_or_default() {
            let volume = subvolume::id_of(groot_btrfs::open_below(image, &name)?)?;
            match quota::assign(image, volume, quota::enclosure(id), true) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// The volumes of an image that are subvolumes, by name.
    pub fn declared_in(image: &Folder) -> Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        if image.number(ATTRIBUTE).is_none() {
            return Ok(found);
        }
        for name in image.names()? {
            if name.starts_with(PREFIX) && image.has_subvolume(&name)? {
                found.push(name);
            }
        }
        Ok(found)
    }
}
