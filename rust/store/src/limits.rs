//! Trees and the limits on them: volumes are subvolumes, images are snapshots, limits are quota groups (contract, section 13).

use crate::drax;
use crate::error::{Error, Kind, Result, text_of};
use crate::folder::Folder;
use crate::layout::{Place, Store};
use groot_btrfs::quota::{self, Accounting};
use groot_btrfs::removal::{self, Refusal};
use groot_btrfs::subvolume::{self, Limit};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

/// The largest limit that drax takes.
const UNLIMITED: u64 = i64::MAX as u64;
/// On the image's directory: the number of the group that root was about to make around the image's tree.
const GROUP_ATTRIBUTE: &str = "trusted.grootfs.group";
const QUOTA_OFF_HINT: &str = "`btrfs quota enable --simple <mount point>` turns accounting on (plain `enable` before Linux 6.7)";

/// A disk limit in bytes; `exclusive` leaves the image's own size out, else `image_size` counts too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimit {
    /// The limit.
    pub size: u64,
    /// What the container writes counts, and nothing else.
    pub exclusive: bool,
    /// Bytes of the image.
    pub image_size: u64,
}

impl ImageLimit {
    /// What of it is the container's alone.
    pub(crate) fn own(self) -> u64 {
        if self.exclusive { self.size } else { self.size.saturating_sub(self.image_size) }
    }
}

fn quota_error(errno: Errno) -> Error {
    Error::new(Kind::Quota, format!("unable to limit requested quota group: {}", text_of(errno)))
}

/// Counters of an image, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageUsage {
    /// All of it.
    pub total: u64,
    /// Its own.
    pub exclusive: u64,
}

impl Store {
    /// How the file system counts. Raises Os, also if that cannot be told.
    pub fn accounting(&self) -> Result<Accounting> {
        self.groups()?.accounting().map_err(|errno| {
            Error::os(format!("how {} counts cannot be told: /sys/fs/btrfs does not show it", self.path().display()), errno)
        })
    }

    /// Snapshot a tree, as its owner in a namespace if need be.
    pub(crate) fn snapshot(&self, source: impl AsFd, parent: &Folder, name: &[u8], limit: Option<Limit>) -> Result<()> {
        match subvolume::snapshot(&source, parent, name, limit) {
            Ok(()) => Ok(()),
            Err(errno @ (Errno::PERM | Errno::ACCESS)) if self.is_foreign_to_us(&source) => match &self.options.helper {
                Some(helper) => helper.snapshot(source.as_fd(), parent.as_fd(), name, limit),
                None => Err(needs_helper(errno)),
            },
            Err(errno) => Err(Error::os(format!("snapshot {}", parent.path_of(name).display()), errno)),
        }
    }

    /// Whether a tree's root directory belongs to one of our subordinate ids.
    fn is_foreign_to_us(&self, tree: impl AsFd) -> bool {
        let me = rustix::process::geteuid();
        !me.is_root() && !self.mappings().is_empty() && rustix::fs::fstat(tree).is_ok_and(|stat| stat.st_uid != me.as_raw())
    }

    /// A writable copy of `volume` as `name` in an image's directory, under a limit, durable when this returns. Raises Quota
    /// if the limit cannot be set; then nothing is left.
    pub(crate) fn make_tree(&self, volume: impl AsFd, image: &Folder, name: &[u8], limit: Option<ImageLimit>) -> Result<()> {
        let Some(limit) = limit else { return self.snapshot(volume, image, name, None) };
        let accounting = self.accounting()?;
        if accounting == Accounting::Off {
            let text = "unable to limit requested quota group: quota not enabled";
            return Err(Error::new(Kind::Quota, text).hint(QUOTA_OFF_HINT));
        }
        if accounting == Accounting::Full {
            return self.limit_afterwards(volume, image, name, Limit { bytes: limit.size, exclusive: limit.exclusive });
        }
        // Simple accounting charges a snapshot for what it writes itself; what the image holds comes off the limit.
        let own = Limit { bytes: limit.own(), exclusive: limit.exclusive };
        match self.snapshot(&volume, image, name, Some(own)) {
            // That a limit may come with the snapshot is a missing check of the kernel rather than a promise.
            Err(error) if error.errno() == Some(Errno::PERM) => self.limit_afterwards(volume, image, name, own),
            Err(error) => Err(error),
            Ok(()) => self.enclose(image, name, own),
        }
    }

    /// The name appears when the limit is set, and the commit after it makes both durable.
    fn limit_afterwards(&self, volume: impl AsFd, image: &Folder, name: &[u8], limit: Limit) -> Result<()> {
        let unlimited = [name, b".unlimited"].concat();
        self.destroy(image, &unlimited)?;
        self.snapshot(volume, image, &unlimited, None)?;
        let attempt = || -> Result<()> {
            let tree = open_tree(image, &unlimited)?;
            let id = subvolume::id_of(&tree).map_err(quota_error)?;
            match quota::limit_group(image, id, limit) {
                Err(Errno::PERM | Errno::ACCESS) => self.drax_limit(image, &unlimited, limit)?,
                other => other.map_err(quota_error)?,
            }
            image.rename(&unlimited, name)?;
            groot_btrfs::sync(image).map_err(quota_error)
        };
        attempt().inspect_err(|_| {
            let _ = self.destroy(image, &unlimited);
            let _ = self.destroy(image, name);
        })
    }

    /// Charge subvolumes that are made inside, too. Without privilege and helper the limit holds for all else.
    fn enclose(&self, image: &Folder, name: &[u8], own: Limit) -> Result<()> {
        let attempt = || -> std::result::Result<(), Errno> {
            let id = subvolume::id_of(groot_btrfs::open_below(image, name)?)?;
            if self.groups().is_ok_and(|groups| groups.has_enclosure(id)) {
                return Err(Errno::EXIST);
            }
            // A kill may come between the making of the group and the mark on it. Only root can write this, and only root makes
            // groups without `drax`.
            let _ = rustix::fs::fsetxattr(image, GROUP_ATTRIBUTE, id.to_string().as_bytes(), XattrFlags::empty());
            quota::enclose(image, id, own)
        };
        match attempt() {
            // The number is an administrator's: not ours to change.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(Errno::PERM | Errno::ACCESS) => {
                let _ = self.drax_limit(image, name, own);
                Ok(())
            }
            Err(errno) => {
                self.destroy(image, name)?;
                Err(quota_error(errno))
            }
        }
    }

    fn drax_limit(&self, image: &Folder, name: &[u8], limit: Limit) -> Result<()> {
        let path = image.path_of(name);
        let bytes = limit.bytes.to_string();
        let mut arguments: Vec<&OsStr> =
            vec!["limit".as_ref(), "--volume-path".as_ref(), path.as_os_str(), "--disk-limit-bytes".as_ref(), bytes.as_ref()];
        if limit.exclusive {
            arguments.push("--exclude-image-from-quota".as_ref());
        }
        drax::run(&self.options.drax, &arguments)
    }

    /// Remove a tree in `folder` with whatever was made inside. Missing is fine. Gives the numbers of the subvolumes that went.
    ///
    /// The group that was made for it goes last, and what limits it is as it was if the tree cannot be removed.
    pub(crate) fn destroy(&self, folder: &Folder, name: &[u8]) -> Result<Vec<u64>> {
        let tree = match groot_btrfs::open_below(folder, name) {
            Ok(tree) => Some(tree),
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(_) => None,
        };
        let id = tree.and_then(|tree| subvolume::id_of(tree).ok());
        let guard = match id {
            Some(id) => Some(self.unbind(folder, name, id)?),
            None => None,
        };
        let result = match self.remove(folder, name) {
            // Removing a nested subvolume changes its parent, and the container has used up its limit.
            Err(error) if error.errno() == Some(Errno::DQUOT) => {
                if let Some(id) = id {
                    self.lift_limits(folder, name, id);
                }
                self.remove(folder, name)
            }
            other => other,
        };
        if let (Some(guard), Some(id)) = (guard, id) {
            if result.is_ok() {
                // An empty group costs nothing; `check` knows it.
                let _ = quota::disband(folder, id);
            } else {
                self.bind_again(folder, name, id, &guard);
            }
        }
        result
    }

    /// Remove something in `folder`, whatever it is, as its owner in a namespace if need be.
    pub(crate) fn remove(&self, folder: &Folder, name: &[u8]) -> Result<Vec<u64>> {
        match removal::remove_entry(folder, name) {
            Ok(ids) => Ok(ids),
            Err(Refusal { errno: Errno::PERM | Errno::ACCESS, .. })
                if !rustix::process::geteuid().is_root() && !self.mappings().is_empty() =>
            {
                match &self.options.helper {
                    Some(helper) => helper.remove(folder.as_fd(), name),
                    None => Err(needs_helper(Errno::PERM)),
                }
            }
            Err(refusal) => Err(Error::refusal(folder.path_of(name).display(), &refusal)),
        }
    }

    /// Before a tree is removed: note what limits it; and if only `drax` may, take its group away, which it does for a tree
    /// that is there.
    fn unbind(&self, folder: &Folder, name: &[u8], id: u64) -> Result<Bonds> {
        let groups = self.groups()?;
        if groups.has_enclosure(id) && folder.number(GROUP_ATTRIBUTE) == Some(id) {
            let _ = quota::adopt(folder, id);
        }
        let bonds = Bonds { own: groups.limits(0, id), around: groups.has_enclosure(id).then(|| groups.limits(1, id)) };
        if bonds.around.is_some() && !rustix::process::geteuid().is_root() {
            let path = folder.path_of(name);
            // A missing helper never blocks a delete (contract, section 13).
            let _ = drax::run(&self.options.drax, &["destroy".as_ref(), "--volume-path".as_ref(), path.as_os_str()]);
        }
        Ok(bonds)
    }

    /// After a tree could not be removed: what limited it limits it again.
    fn bind_again(&self, folder: &Folder, name: &[u8], id: u64, bonds: &Bonds) {
        let limit = |(referenced, exclusive): (Option<u64>, Option<u64>)| match (referenced, exclusive) {
            (Some(bytes), _) => Some(Limit { bytes, exclusive: false }),
            (None, Some(bytes)) => Some(Limit { bytes, exclusive: true }),
            (None, None) => None,
        };
        if let Some(own) = limit(bonds.own)
            && quota::limit_group(folder, id, own).is_err()
        {
            let _ = self.drax_limit(folder, name, own);
        }
        if let Some(around) = bonds.around.and_then(limit)
            && quota::enclose(folder, id, around).is_err()
        {
            let _ = self.drax_limit(folder, name, around);
        }
    }

    fn lift_limits(&self, folder: &Folder, name: &[u8], id: u64) {
        for group in [id, quota::enclosure(id)] {
            if quota::lift_limits(folder, group).is_err() {
                for exclusive in [false, true] {
                    let _ = self.drax_limit(folder, name, Limit { bytes: UNLIMITED, exclusive });
                }
                return;
            }
        }
    }

    /// Counters of the tree `name` of an image as counted last; `image_size` is what its volume holds, `uncounted` what was its
    /// own before the counting began. Simple accounting knows what was written since it began, full accounting everything.
    pub(crate) fn usage_of(&self, image: &Folder, name: &[u8], image_size: u64, uncounted: u64) -> Result<ImageUsage> {
        let groups = self.groups()?;
        let id = subvolume::id_of(open_tree(image, name)?).map_err(|errno| Error::os("subvolume id", errno))?;
        let Some(mut counted) = groups.usage(id) else {
            let text = "qgroup usage: can't list qgroups: quotas not enabled";
            return Err(Error::new(Kind::Quota, text).hint(QUOTA_OFF_HINT));
        };
        for volume in Self::declared_in(image)? {
            let id_of = |name| subvolume::id_of(open_tree(image, name)?).map_err(|errno| Error::os("subvolume id", errno));
            // A group around all of it counts them too.
            if let Some(own) = groups.usage(id_of(&volume)?).filter(|_| !groups.has_enclosure(id)) {
                counted.referenced += own.referenced;
                counted.exclusive += own.exclusive;
            }
        }
        if self.accounting()? == Accounting::Simple {
            let own = uncounted.saturating_add(counted.exclusive);
            return Ok(ImageUsage { total: image_size.saturating_add(own), exclusive: own });
        }
        Ok(ImageUsage { total: counted.referenced, exclusive: counted.exclusive })
    }

    /// Remove the quota groups of subvolumes that are gone: those of level 0, which the kernel leaves for a base that had
    /// snapshots, and those around an image that `make_tree` made. Gives how many went.
    pub fn remove_stale_groups(&self) -> Result<u64> {
        let fail = |errno| Error::os("looking for quota groups without a subvolume", errno);
        let volumes = self.folder(Place::Volumes)?;
        let mut removed = 0;
        for (level, id) in self.groups()?.stale(volumes).map_err(fail)? {
            // A subvolume that the kernel still works on keeps its group; the next call takes it.
            let done = match level {
                0 => quota::remove_group(volumes, id),
                _ => quota::disband(volumes, id),
            };
            removed += u64::from(done.is_ok());
        }
        Ok(removed)
    }
}

/// What limits a tree: the limits of its own group, and those of the group around it.
struct Bonds {
    own: (Option<u64>, Option<u64>),
    around: Option<(Option<u64>, Option<u64>)>,
}

fn open_tree(image: &Folder, name: &[u8]) -> Result<std::os::fd::OwnedFd> {
    groot_btrfs::open_below(image, name).map_err(|errno| Error::os(format!("open {}", image.path_of(name).display()), errno))
}

fn needs_helper(errno: Errno) -> Error {
    Error::new(Kind::NeedsHelper, text_of(errno))
}

/// Say of an image or volume that it could not be removed, in the original's words.
pub(crate) fn removal_failed(what: &str, path: impl std::fmt::Display, error: Error) -> Error {
    if matches!(error.kind, Kind::NeedsHelper | Kind::Cancelled) {
        return error;
    }
    let may_not = matches!(error.errno(), Some(Errno::PERM | Errno::ACCESS)) && !rustix::process::geteuid().is_root();
    let hint = error.hint.or_else(|| may_not.then(|| "the store's file system must be mounted with `user_subvol_rm_allowed`".to_owned()));
    Error { hint, ..Error::store(format!("deleting {what} path '{path}' failed: {}", error.text)) }
}

/// Path bytes as messages show them.
#[must_use]
pub fn shown(name: &[u8]) -> String {
    OsStr::from_bytes(name).to_string_lossy().into_owned()
}
