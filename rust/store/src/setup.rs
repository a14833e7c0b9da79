//! The folders of a new store, and taking a whole one apart. File systems and mounts are the caller's business.

use crate::error::{Error, Kind, Result};
use crate::folder::Folder;
use crate::images::own_mount;
use crate::layout::{LIMITS_ATTRIBUTE, NAMESPACE, Options, Place, Store, TRUSTED_NAMESPACE, image_folder, read_namespace_file};
use crate::mappings::Mappings;
use crate::mounts;
use crate::volumes::DOOMED;
use groot_btrfs::removal::Obstacles;
use groot_core::idmount;
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

impl Store {
    /// Make the directory `path` a store: its folders, modes and owner, and the record of the mappings. What is there already is
    /// put right, never emptied; through a link or a mount in the place of a folder nothing is done. Raises Store, Os.
    pub fn initialise(path: &Path, mappings: Mappings, options: Options) -> Result<Self> {
        let fail = |errno| Error::os(format!("open {}", path.display()), errno);
        let top = Folder::open_path(path).map_err(fail)?;
        let refuse = |top: &Folder, name: &str, errno| {
            crate::layout::refuse_at(&path.join(name), || crate::layout::kind_of(top, name.as_bytes()), errno)
        };
        let owner = mappings.owner();
        if !top.has(b"meta") {
            top.make(b"meta", 0o755, owner).map_err(|errno| refuse(&top, "meta", errno))?;
        }
        let store = Self::held(path, top, mappings, options);
        store.settle_namespace()?;
        store.top().settle(0o700, owner).map_err(fail)?;
        for place in Place::ALL {
            let (parent, name) = place.path().rsplit_once('/').unwrap_or((".", place.path()));
            let attempt = || -> rustix::io::Result<()> {
                let parent = store.top().folder(parent.as_bytes())?;
                let folder = match parent.make(name.as_bytes(), 0o755, owner) {
                    Err(Errno::EXIST) => parent.folder(name.as_bytes()),
                    other => other,
                };
                let folder = folder?;
                folder.check_own(owner)?;
                folder.settle(0o755, owner)
            };
            attempt().map_err(|errno| refuse(store.top(), place.path(), errno))?;
        }
        store.sync()?;
        Ok(store)
    }

    /// Write the mappings, or compare them with those that are there. What root was given on its command line is what it
    /// trusts from now on (`TRUSTED_NAMESPACE`).
    fn settle_namespace(&self) -> Result<()> {
        let mappings = self.mappings();
        let differ = |kind: &str| Error::store(format!("provided {kind} mappings do not match those already configured in the store"));
        let compare = |stored: &Mappings| -> Result<()> {
            if !Mappings::are_same(&stored.uids, &mappings.uids) {
                return Err(differ("UID"));
            }
            if Mappings::are_same(&stored.gids, &mappings.gids) { Ok(()) } else { Err(differ("GID")) }
        };
        let meta = self.folder(Place::Meta)?;
        let fingerprint = mappings.fingerprint();
        let recorded = self.top().attribute(TRUSTED_NAMESPACE);
        if recorded.as_deref() != Some(fingerprint.as_bytes()) {
            if meta.has(NAMESPACE.as_bytes()) {
                compare(&read_namespace_file(self.top(), false)?)?;
            }
            if recorded.is_some() {
                return Err(Error::store("provided mappings do not match those that root gave the store"));
            }
        }
        // What is given is what root gave before, or what stands there.
        if !read_namespace_file(self.top(), true).is_ok_and(|written| written.fingerprint() == fingerprint) {
            // There is no folder for temporary files yet, and the record is root's.
            let fd = || meta.as_fd().try_clone_to_owned().map_err(|_| Error::os("dup", Errno::MFILE));
            let place = groot_core::record::Place {
                at: (fd()?, NAMESPACE.as_bytes().to_vec()),
                temporary: (fd()?, Self::temporary_name(NAMESPACE)),
                mode: 0o755,
                owner: None,
            };
            groot_core::record::write(&place, mappings.document().as_bytes())?;
        }
        self.top().set_attribute(TRUSTED_NAMESPACE, fingerprint.as_bytes())
    }

    /// Record whether limits that are set may be changed by root only. Needs root.
    pub fn keep_limits(&self, for_root: bool) -> Result<()> {
        if for_root {
            return self.top().set_attribute(LIMITS_ATTRIBUTE, b"root");
        }
        match rustix::fs::fremovexattr(self.top(), LIMITS_ATTRIBUTE) {
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(errno) => Err(Error::os(format!("removing {LIMITS_ATTRIBUTE} of {}", self.path().display()), errno)),
        }
    }

    /// Refuse what would keep the store from being removed whole: a mount of somebody else's in it, a swap file, the default
    /// subvolume. Raises Store.
    pub fn check_removable(&self) -> Result<()> {
        let io = |error: std::io::Error| Error::io("reading /proc/self/mountinfo", &error);
        let place = mounts::place_of(self.top()).map_err(io)?;
        let mut own = vec![place];
        let folders = || [Place::Images, Place::Volumes].into_iter().filter_map(|place| self.folder(place).ok());
        let obstacles = Obstacles::on(self.top());
        let check = |folder: &Folder, name: &[u8]| {
            let refused = |refusal| Error { kind: Kind::Store, ..Error::refusal(folder.path_of(name).display(), &refusal) };
            obstacles.check(folder, name).map_err(refused)
        };
        for folder in folders() {
            for name in folder.names()? {
                check(folder, &name)?;
                if folder.path().ends_with("images")
                    && let Ok(Some(image)) = image_folder(self, &name)
                {
                    for inside in image.names()? {
                        check(&image, &inside)?;
                    }
                    if own_mount(&image)?.is_some() {
                        own.push(mounts::place_of(&image).map_err(io)?.join("rootfs"));
                    }
                }
            }
        }
        match mounts::below(self.top()).map_err(io)?.into_iter().find(|point| !own.contains(point)) {
            Some(point) => Err(Error::store(format!("{} is a mount point", point.display())).hint(format!("umount {}", point.display()))),
            None => Ok(()),
        }
    }

    /// Unmount the images that were mounted with owners translated.
    pub fn unmount_images(&self) -> Result<()> {
        for id in self.folder(Place::Images)?.names()? {
            if let Ok(Some(image)) = image_folder(self, &id)
                && let Some(root) = own_mount(&image)?
            {
                idmount::unmount(root.as_fd())?;
            }
        }
        Ok(())
    }

    /// Remove all images, volumes and records; what stays is at most the folder with the mappings. Gives what could not be
    /// removed, and why; everything else is gone then. Raises Store for a link or a mount in the place of a folder, before
    /// anything is removed.
    pub fn take_apart(&self, cancel: &AtomicBool) -> Result<Vec<(PathBuf, Error)>> {
        let places = [Place::Images, Place::Volumes, Place::Meta, Place::Locks, Place::Temporary];
        for place in places {
            match self.folder(place) {
                Err(error) if error.errno() != Some(Errno::NOENT) => return Err(error),
                _ => {}
            }
        }
        let mut left = Vec::new();
        let mut note = |path: PathBuf, result: Result<()>| match result {
            Err(error) if matches!(error.kind, Kind::Cancelled | Kind::NeedsHelper) => Err(error),
            Err(error) if error.kind == Kind::ImageNotFound => Ok(()),
            Err(error) => {
                left.push((path, error));
                Ok(())
            }
            Ok(()) => Ok(()),
        };
        if let Ok(images) = self.folder(Place::Images) {
            for id in images.names()? {
                crate::locks::check(cancel)?;
                let result = if images.has_directory(&id) { self.delete_image(&id, cancel) } else { self.remove(images, &id).map(drop) };
                note(self.image_path(&id), result)?;
            }
        }
        if let Ok(volumes) = self.folder(Place::Volumes) {
            for name in volumes.names()? {
                crate::locks::check(cancel)?;
                let attempt = || -> Result<()> {
                    if !volumes.has_subvolume(&name)? {
                        return self.remove(volumes, &name).map(drop);
                    }
                    // As for a clean: what is half destroyed has no valid name.
                    let doomed = if name.starts_with(DOOMED.as_bytes()) { name.clone() } else { [DOOMED.as_bytes(), &name].concat() };
                    volumes.rename(&name, &doomed)?;
                    self.destroy(volumes, &doomed).map(drop)
                };
                note(volumes.path_of(&name), attempt())?;
            }
        }
        if let Ok(meta) = self.folder(Place::Meta) {
            for name in meta.names()?.into_iter().filter(|name| name != NAMESPACE.as_bytes()) {
                note(meta.path_of(&name), self.remove(meta, &name).map(drop))?;
            }
        }
        for name in ["volumes", "tmp", "locks", "images"] {
            if left.is_empty() || !matches!(name, "volumes" | "images") {
                let removed = self.remove(self.top(), name.as_bytes()).map(drop);
                if let Err(error) = removed {
                    left.push((self.path().join(name), error));
                }
            }
        }
        Ok(left)
    }

    /// Remove the folder with the mappings: the last of a store.
    pub fn forget_mappings(&self) -> Result<()> {
        self.remove(self.top(), b"meta").map(drop)
    }
}
