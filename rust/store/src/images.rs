//! Images: reserve an id, commit, delete, list, usage.
//!
//! An image exists when its tree does (`rootfs` or `snapshot` is a subvolume); that snapshot is the last step of a create
//! and the first thing a delete removes. A directory without it is unfinished: somebody is at work on it, and holds a lock
//! on the directory, or died. Create replaces what the dead left, clean removes it.

use crate::declared::{Origin, PREFIX};
use crate::error::{Error, Kind, Result};
use crate::folder::Folder;
use crate::layout::{Place, Store, check_new_id, image_folder, is_image_id, no_image};
use crate::limits::{ImageLimit, ImageUsage, removal_failed, shown};
use crate::locks::{flock, is_at, wait};
use crate::mappings::Mappings;
use crate::mounts;
use crate::records::Image;
use crate::volumes::Volume;
use crate::{Level, Observer, Unit};
use groot_btrfs::quota::Accounting;
use groot_btrfs::removal::Obstacles;
use groot_core::{idmount, record};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Names that an image's tree can have.
pub const TREES: [&[u8]; 2] = [b"rootfs", b"snapshot"];
/// What a tree is called until its limit is set (full accounting) and the volumes that the image declares are made.
pub const UNLIMITED: [&[u8]; 2] = [b"rootfs.unlimited", b"snapshot.unlimited"];

/// On the image's directory: bytes of the image. An attribute is durable with the snapshot and read without parsing.
pub const SIZE_ATTRIBUTE: &str = "user.grootfs.image-size";
/// On the image's directory: its disk limit, if it has one.
pub const LIMIT_ATTRIBUTE: &str = "user.grootfs.limit";
/// On the image's directory: its disk limit leaves the image's own size out.
pub const EXCLUSIVE_ATTRIBUTE: &str = "user.grootfs.limit-excludes-image";
/// On the image's directory: nobody compared its layers with their digests.
pub const UNVALIDATED_ATTRIBUTE: &str = "user.grootfs.unvalidated";
/// On the image's directory: bytes that a container had written when simple accounting was turned on (`migrate`). The kernel
/// counts them for nobody.
pub const UNCOUNTED_ATTRIBUTE: &str = "user.grootfs.uncounted";
/// On the directory of an image whose `rootfs` we mounted.
pub const IDMAPPED_ATTRIBUTE: &str = "user.grootfs.idmapped";

const DELETE_DEADLINE: Duration = Duration::from_secs(30);
const CLAIM_DEADLINE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);
/// How often to make a directory that others take away.
const ATTEMPTS: usize = 10;

/// How an image is wanted.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Disk limit in bytes; 0 for none.
    pub limit: u64,
    /// The limit leaves the image's own size out.
    pub exclude_image: bool,
    /// Leave `rootfs` empty: the caller binds `snapshot` there.
    pub without_mount: bool,
    /// Show the tree at `rootfs` with owners translated by these (an idmapped mount).
    pub idmapped: Option<Mappings>,
    /// Make no directories for the volumes that the image declares.
    pub without_volumes: bool,
}

/// Refuse a limit that the blobs of an image alone exceed, before anything is fetched. Raises Quota.
pub fn check_compressed(image: &Image, wishes: &Wishes) -> Result<()> {
    let (total, limit) = (image.compressed, wishes.limit);
    if limit > 0 && !wishes.exclude_image && total > limit {
        return Err(Error::new(Kind::Quota, format!("pulling the image: layers exceed disk quota {total}/{limit} bytes"))
            .hint("raise --disk-limit-size-bytes, or use --exclude-image-from-quota"));
    }
    Ok(())
}

fn limit_of(wishes: &Wishes, image_size: u64) -> Result<Option<ImageLimit>> {
    let size = wishes.limit;
    if size == 0 {
        return Ok(None);
    }
    if !wishes.exclude_image && size <= image_size {
        return Err(Error::new(
            Kind::Quota,
            format!(
                "making image: creating image: applying disk limits: disk limit is smaller than volume size: \
                 the image has {image_size} bytes, the limit is {size} bytes"
            ),
        )
        .hint(format!("raise --disk-limit-size-bytes above {image_size}, or use --exclude-image-from-quota")));
    }
    Ok(Some(ImageLimit { size, exclusive: wishes.exclude_image, image_size }))
}

/// The tree of an image: its name in the image's directory.
fn tree_in(image: &Folder) -> Result<Option<&'static [u8]>> {
    for name in TREES {
        if image.has_subvolume(name)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Whether an image's directory has a plain directory with something in it in the place of its tree. No command of ours makes
/// that: `cp`, `rsync` and `tar` do, which make directories of subvolumes.
fn holds_copy(image: &Folder) -> Result<bool> {
    for name in TREES {
        let is_plain =
            image.has_directory(name) && !image.has_subvolume(name)? && !matches!(groot_btrfs::subvolume::is_mount(image, name), Ok(true));
        // One that may not be looked into may hold something.
        if is_plain && image.folder(name).map(|tree| tree.names()).ok().and_then(Result::ok).is_none_or(|names| !names.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn copied(path: impl std::fmt::Display) -> Error {
    Error::store(format!("{path} is a copy of an image: its root file system is a directory, and no subvolume"))
        .hint("cp, rsync and tar make directories of subvolumes; move away what is worth keeping, then `grootfs delete` it")
}

impl Store {
    /// Whether the directory of an image holds a copy that was made file by file, which no command takes for an image or throws
    /// away unless it is told to.
    pub fn image_is_copy(&self, id: &[u8]) -> Result<bool> {
        match image_folder(self, id)? {
            Some(image) => Ok(tree_in(&image)?.is_none() && holds_copy(&image)?),
            None => Ok(false),
        }
    }

    /// Name of the tree of an image in its directory, and the directory; None if the image does not exist or is unfinished.
    pub fn image_tree(&self, id: &[u8]) -> Result<Option<(Folder, &'static [u8])>> {
        if !is_image_id(id) {
            return Ok(None);
        }
        let Some(image) = image_folder(self, id)? else { return Ok(None) };
        Ok(tree_in(&image)?.map(|name| (image, name)))
    }

    /// Whether there is a finished image of this id.
    pub fn has_image(&self, id: &[u8]) -> Result<bool> {
        Ok(self.image_tree(id)?.is_some())
    }

    /// Refuse an id that a new image cannot have. Raises Store, `ImageExists`.
    pub fn check_new_image(&self, id: &[u8]) -> Result<()> {
        check_new_id(id)?;
        if self.has_image(id)? { Err(exists(id)) } else { Ok(()) }
    }

    /// Ids of all finished images, sorted.
    pub fn images(&self) -> Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        for id in self.folder(Place::Images)?.names()? {
            // What cannot be looked at is not known to be an image, and never stops the others from being listed.
            if matches!(self.has_image(&id), Ok(true)) {
                found.push(id);
            }
        }
        Ok(found)
    }

    /// Make the image `id` from the volume with all its layers, and give the volume its name. The caller's locks on the volume
    /// and those below it are let go when this returns. `source` is the name that was asked for, to be remembered.
    ///
    /// Raises `ImageExists`, Quota, Store; then nothing of the image stays, and the volume does.
    #[allow(clippy::too_many_arguments)] // an image is made of as much
    pub fn create_image(
        &self,
        mut volume: Volume,
        id: &[u8],
        image: &Image,
        wishes: &Wishes,
        source: &str,
        observer: &dyn Observer,
        cancel: &AtomicBool,
    ) -> Result<PathBuf> {
        let is_new = !volume.is_published();
        if let Err(error) = self.make_image(&volume, id, image, wishes, observer, cancel) {
            volume.publish(self, false)?;
            return Err(error);
        }
        let mut remember = || -> Result<()> {
            volume.publish(self, true)?;
            self.write_source(source, image)?;
            if is_new {
                // No snapshot follows that would take the name to the disk.
                let volumes = self.folder(Place::Volumes)?;
                rustix::fs::fsync(volumes).map_err(|errno| Error::os(format!("fsync {}", volumes.path().display()), errno))?;
            }
            Ok(())
        };
        if let Err(error) = remember() {
            // The image is made. What is missing is made again when it is needed.
            observer.log(Level::Error, "caching-failed", &[("error", &error.text)]);
        }
        Ok(self.image_path(id))
    }

    fn make_image(
        &self,
        volume: &Volume,
        id: &[u8],
        image: &Image,
        wishes: &Wishes,
        observer: &dyn Observer,
        cancel: &AtomicBool,
    ) -> Result<()> {
        let size = self.tree_size(&image.chain_ids);
        let limit = limit_of(wishes, size)?;
        if !wishes.without_volumes {
            self.check_declared(&image.volumes)?;
        }
        let reservation = Reservation::take(self, id, cancel)?;
        let begun = Instant::now();
        let done = reservation.commit(image, volume, limit, size, wishes, cancel);
        observer.measure("ImageCommitTime", begun.elapsed().as_nanos() as u64, Unit::Nanos);
        match done {
            Ok(()) => {
                reservation.keep();
                Ok(())
            }
            Err(error) => {
                reservation.take_back()?;
                Err(explain(error, wishes))
            }
        }
    }

    /// Usage of an image, as of now. Raises `ImageNotFound`, Quota, Os.
    pub fn image_usage(&self, id: &[u8]) -> Result<ImageUsage> {
        if !self.has_image(id)? {
            return Err(no_image(id, ""));
        }
        // Counters move at commits only, so this makes one (cheap if nothing is dirty).
        self.sync()?;
        self.counted_usage(id)
    }

    /// The same as of the last commit.
    pub fn counted_usage(&self, id: &[u8]) -> Result<ImageUsage> {
        let Some((image, tree)) = self.image_tree(id)? else { return Err(no_image(id, "")) };
        let uncounted = image.number(UNCOUNTED_ATTRIBUTE).unwrap_or(0);
        self.usage_of(&image, tree, self.size_of(&image, id), uncounted)
    }

    fn size_of(&self, image: &Folder, id: &[u8]) -> u64 {
        // The original's images have none on record.
        image.number(SIZE_ATTRIBUTE).unwrap_or_else(|| self.tree_size(&self.read_dependencies(id).unwrap_or_default()))
    }

    /// Bytes of an image as it was created.
    pub fn image_size(&self, id: &[u8]) -> Result<u64> {
        let image = image_folder(self, id)?.ok_or_else(|| no_image(id, ""))?;
        Ok(self.size_of(&image, id))
    }

    /// The disk limit of an image; if the original set it, what the kernel has of it.
    pub fn image_limit(&self, id: &[u8]) -> Result<Option<u64>> {
        let Some((image, tree)) = self.image_tree(id)? else { return Ok(None) };
        if let Some(limit) = image.number(LIMIT_ATTRIBUTE) {
            return Ok(Some(limit));
        }
        let (referenced, exclusive) = self.limits_of(&image, tree)?;
        Ok(referenced.or(exclusive))
    }

    /// Limits that the kernel has for the tree of an image: on all it refers to, and on what is its own.
    pub fn limits_of(&self, image: &Folder, tree: &[u8]) -> Result<(Option<u64>, Option<u64>)> {
        let path = image.path_of(tree);
        let fail = |errno| Error::os(format!("open {}", path.display()), errno);
        let id = groot_btrfs::open_below(image, tree).and_then(groot_btrfs::subvolume::id_of).map_err(fail)?;
        Ok(self.groups()?.limits(0, id))
    }

    /// Sum of the disk limits of all images. Images of the original have none on record.
    pub fn committed_limits(&self) -> Result<u64> {
        let mut total = 0u64;
        for id in self.folder(Place::Images)?.names()? {
            if let Ok(Some(image)) = image_folder(self, &id) {
                total = image.number(LIMIT_ATTRIBUTE).unwrap_or(0).saturating_add(total);
            }
        }
        Ok(total)
    }

    /// Bytes that an image may still write, as it was created: a limit that counts the image's own size counts less that. 0 without a
    /// limit. Raises `ImageNotFound`.
    pub fn committed_to(&self, id: &[u8]) -> Result<u64> {
        let image = image_folder(self, id)?.ok_or_else(|| no_image(id, ""))?;
        let own = |size, exclusive| ImageLimit { size, exclusive, image_size: self.size_of(&image, id) }.own();
        if let Some(limit) = image.number(LIMIT_ATTRIBUTE) {
            return Ok(own(limit, image.attribute(EXCLUSIVE_ATTRIBUTE).is_some()));
        }
        // Images of the original.
        let Some((folder, tree)) = self.image_tree(id)? else { return Ok(0) };
        Ok(match self.limits_of(&folder, tree)? {
            (_, Some(exclusive)) => exclusive,
            (Some(referenced), None) => own(referenced, self.accounting()? == Accounting::Simple),
            (None, None) => 0,
        })
    }

    /// The sum of that over all images.
    pub fn committed_bytes(&self) -> Result<u64> {
        let mut total: u64 = 0;
        for id in self.folder(Place::Images)?.names()? {
            // What is no image, or is gone meanwhile, has nothing committed to it.
            total = total.saturating_add(self.committed_to(&id).unwrap_or(0));
        }
        Ok(total)
    }

    /// Remove an image, or what is left of an unfinished one. Raises `ImageNotFound`, Store.
    ///
    /// The volumes that it declares go first, then the tree, and the record of its layers last, so that a kill in between leaves
    /// something that the next delete finishes, or, without the tree, a create or clean.
    pub fn delete_image(&self, id: &[u8], cancel: &AtomicBool) -> Result<()> {
        let images = self.folder(Place::Images)?;
        let missing = || no_image(id, " Skipping delete.");
        if !is_image_id(id) || !images.has_directory(id) {
            return Err(missing());
        }
        let path = self.image_path(id);
        let failed = |error| removal_failed("image", path.display(), error);
        let image = self.wait_for_image(id, cancel)?.ok_or_else(missing)?;
        let io = |error: std::io::Error| Error::io("reading /proc/self/mountinfo", &error);
        let own = if own_mount(&image)?.is_some() { Some(mounts::place_of(&image).map_err(io)?.join("rootfs")) } else { None };
        if let Some(point) = mounts::below(&image).map_err(io)?.into_iter().find(|point| Some(point) != own.as_ref()) {
            let text = format!("deleting image path '{}' failed: {} is a mount point", path.display(), point.display());
            return Err(Error::store(text).hint(format!("umount {} and try again", point.display())));
        }
        self.remove_image(id, &image).map_err(failed)
    }

    /// The directory of an image, locked; waits for a create or another delete. None when it is gone.
    fn wait_for_image(&self, id: &[u8], cancel: &AtomicBool) -> Result<Option<Folder>> {
        let end = Instant::now() + DELETE_DEADLINE;
        while self.folder(Place::Images)?.has_directory(id) {
            if let Some(image) = self.lock_image(id)? {
                return Ok(Some(image));
            }
            if Instant::now() > end {
                let path = self.image_path(id);
                return Err(Error::store(format!(
                    "deleting image path '{}' failed: it is in use by another grootfs process",
                    path.display()
                )));
            }
            wait(PAUSE, cancel)?;
        }
        Ok(None)
    }

    /// The directory of an image, exclusively locked as long as it is open; None if somebody else holds it or it is gone.
    pub fn lock_image(&self, id: &[u8]) -> Result<Option<Folder>> {
        lock_folder(self.folder(Place::Images)?, id)
    }

    /// Remove the directories of images that were never finished and that nobody works on. Gives what was left, and why.
    pub fn remove_unfinished(&self) -> Result<Vec<(PathBuf, Error)>> {
        let mut left = Vec::new();
        for id in self.folder(Place::Images)?.names()? {
            let attempt = || -> Result<()> {
                // What is no directory is not ours.
                if !self.folder(Place::Images)?.has_directory(&id) || self.has_image(&id)? {
                    return Ok(());
                }
                let Some(image) = self.lock_image(&id)? else { return Ok(()) };
                if tree_in(&image)?.is_some() {
                    return Ok(());
                }
                if holds_copy(&image)? { Err(copied(self.image_path(&id).display())) } else { self.remove_image(&id, &image) }
            };
            match attempt() {
                Err(error) if matches!(error.kind, Kind::NeedsHelper | Kind::Cancelled) => return Err(error),
                Err(error) => left.push((self.image_path(&id), error)),
                Ok(()) => {}
            }
        }
        Ok(left)
    }

    /// Remove the image whose directory is held locked.
    fn remove_image(&self, id: &[u8], image: &Folder) -> Result<()> {
        let mut names = image.names()?;
        // Before anything of it goes: what cannot go keeps the image whole, and its limit.
        let obstacles = Obstacles::on(image);
        for name in &names {
            obstacles.check(image, name).map_err(|refusal| Error::refusal(image.path_of(name).display(), &refusal))?;
        }
        if let Some(root) = own_mount(image)? {
            idmount::unmount(root.as_fd())?;
        }
        // What a failure leaves of them is still limited, as long as the tree is there.
        names.sort_by_key(|name| match TREES.contains(&&name[..]) {
            true => 1,
            false if name.starts_with(PREFIX) && matches!(image.has_subvolume(name), Ok(true)) => 0,
            false => 2,
        });
        for name in names {
            if image.has_subvolume(&name)? {
                self.destroy(image, &name)?;
            } else {
                // A volume of an older release, or the mount point of `--without-mount`: a container may have filled it.
                self.remove(image, &name)?;
            }
        }
        // While the directory stands and is locked, the id is ours, and so is the record.
        self.remove_dependencies(id)?;
        let images = self.folder(Place::Images)?;
        images.rmdir(id).map_err(|errno| Error::os(format!("rmdir {}", images.path_of(id).display()), errno))
    }
}

fn exists(id: &[u8]) -> Error {
    Error::new(Kind::ImageExists, format!("image for id `{}` already exists", shown(id)))
}

fn explain(error: Error, wishes: &Wishes) -> Error {
    let text = format!("making image: creating image: {}", error.text);
    match error.kind {
        Kind::Quota => Error { text, ..error },
        Kind::Os(_) => {
            let hint = wishes.idmapped.is_some().then(|| "idmapped mounts of BTRFS need Linux 5.15".to_owned());
            Error { kind: Kind::Store, text, hint: error.hint.or(hint), full: error.full }
        }
        _ => error,
    }
}

/// The root of the mount at `rootfs`, if it shows this image's own `snapshot`: only such a one did we make. What the image's
/// attribute says does not count, because the store's owner can set it; nor does what else is mounted there.
pub(crate) fn own_mount(image: &Folder) -> Result<Option<std::os::fd::OwnedFd>> {
    if image.attribute(IDMAPPED_ATTRIBUTE).as_deref() != Some(b"1") {
        return Ok(None);
    }
    let attempt = || -> rustix::io::Result<Option<std::os::fd::OwnedFd>> {
        if !groot_btrfs::subvolume::is_mount(image, b"rootfs")? {
            return Ok(None);
        }
        let root = image.mounted(b"rootfs")?;
        let snapshot = groot_btrfs::open_below(image, b"snapshot")?;
        let (seen, own) = (rustix::fs::fstat(&root)?, rustix::fs::fstat(&snapshot)?);
        Ok(((seen.st_dev, seen.st_ino) == (own.st_dev, own.st_ino)).then_some(root))
    };
    match attempt() {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        other => other.map_err(|errno| Error::os(format!("looking at {}", image.path_of(b"rootfs").display()), errno)),
    }
}

/// The directory `name`, exclusively locked; None if somebody else holds it or it is gone.
pub(crate) fn lock_folder(parent: &Folder, name: &[u8]) -> Result<Option<Folder>> {
    let folder = match parent.folder(name) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(Error::os(format!("open {}", parent.path_of(name).display()), errno)),
    };
    let held = flock(&folder, false).map_err(|errno| Error::os(format!("locking {}", parent.path_of(name).display()), errno))?;
    Ok((held && is_at(&folder, parent, name)).then_some(folder))
}

/// An image directory that this process made and holds, until the image is in it or everything is taken back.
struct Reservation<'a> {
    store: &'a Store,
    id: Vec<u8>,
    image: Folder,
    done: bool,
}

impl<'a> Reservation<'a> {
    /// Take the id. Raises `ImageExists` if somebody else has it or is about to.
    ///
    /// The directory is made and locked under another name first, so that under its own it is never seen unlocked: an
    /// unlocked directory without a tree is what the dead leave, and anybody may remove it.
    fn take(store: &'a Store, id: &[u8], cancel: &AtomicBool) -> Result<Self> {
        let (fresh, image) = make_locked(store)?;
        match claim(store, id, &fresh, cancel) {
            Ok(()) => {
                // Messages and helpers are to know it by its own name.
                let image = image.renamed(store.folder(Place::Images)?.path_of(id));
                Ok(Self { store, id: id.to_vec(), image, done: false })
            }
            Err(error) => {
                let _ = store.folder(Place::Temporary)?.rmdir(&fresh);
                Err(error)
            }
        }
    }

    /// Write all that belongs to the image, then make its tree: the commit point.
    ///
    /// The order matters: whatever is written before the snapshot is durable with it, whatever comes after is not.
    fn commit(
        &self,
        image: &Image,
        volume: &Volume,
        limit: Option<ImageLimit>,
        size: u64,
        wishes: &Wishes,
        cancel: &AtomicBool,
    ) -> Result<()> {
        let (store, folder) = (self.store, &self.image);
        // Not before the directory is ours: the record of another image must not be touched.
        store.write_dependencies(&self.id, &image.chain_ids)?;
        record::write(&store.place_record_in(folder, b"image.json", 0o644)?, &image.config)?;
        folder.set_attribute(SIZE_ATTRIBUTE, size.to_string().as_bytes())?;
        if store.read_size(&volume.chain_id).is_some_and(|size| size.unvalidated) {
            folder.set_attribute(UNVALIDATED_ATTRIBUTE, b"1")?;
        }
        if let Some(limit) = limit {
            folder.set_attribute(LIMIT_ATTRIBUTE, limit.size.to_string().as_bytes())?;
            if limit.exclusive {
                folder.set_attribute(EXCLUSIVE_ATTRIBUTE, b"1")?;
            }
        }
        let declared: &[String] = if wishes.without_volumes { &[] } else { &image.volumes };
        let make_tree = |name: &[u8]| -> Result<()> {
            if declared.is_empty() {
                return store.make_tree(&volume.dir, folder, name, limit);
            }
            // Made inside the tree, and the image has to be whole when its tree has its name.
            let early = [name, b".unlimited"].concat();
            store.make_tree(&volume.dir, folder, &early, limit)?;
            let ids = wishes.idmapped.as_ref().map(Mappings::id_maps);
            store.make_declared(&Origin { image: folder, tree: &early, limit, ids }, declared, cancel)?;
            folder.rename(&early, name)?;
            groot_btrfs::sync(folder).map_err(|errno| Error::os(format!("sync {}", folder.path().display()), errno))
        };
        let Some(mappings) = &wishes.idmapped else {
            if wishes.without_mount {
                self.make(b"rootfs")?;
                return make_tree(b"snapshot");
            }
            return make_tree(b"rootfs");
        };
        self.make(b"rootfs")?;
        folder.set_attribute(IDMAPPED_ATTRIBUTE, b"1")?;
        make_tree(b"snapshot")?;
        let open = |name: &[u8]| groot_btrfs::open_below(folder, name).map_err(|errno| Error::os("open the image's tree", errno));
        Ok(idmount::mount(open(b"snapshot")?.as_fd(), open(b"rootfs")?.as_fd(), &mappings.id_maps())?)
    }

    fn make(&self, name: &[u8]) -> Result<()> {
        let made = self.image.make(name, 0o755, self.store.owner());
        made.map(drop).map_err(|errno| Error::os(format!("mkdir {}", self.image.path_of(name).display()), errno))
    }

    fn keep(mut self) {
        self.done = true;
    }

    fn take_back(mut self) -> Result<()> {
        self.done = true;
        self.store.remove_image(&self.id, &self.image)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.store.remove_image(&self.id, &self.image);
        }
    }
}

/// Make a directory under a temporary name, and lock it. Before it is locked a clean may take it away, and a check may look
/// whether somebody holds it by holding it; then another one is made.
fn make_locked(store: &Store) -> Result<(Vec<u8>, Folder)> {
    let folder = store.folder(Place::Temporary)?;
    for _ in 0..ATTEMPTS {
        let name = Store::temporary_name("image");
        let fail = |errno| Error::os(format!("mkdir {}", folder.path_of(&name).display()), errno);
        match folder.make(&name, 0o700, store.owner()) {
            Ok(image) => match flock(&image, false) {
                Ok(true) if is_at(&image, folder, &name) => return Ok((name, image)),
                held => {
                    let _ = folder.rmdir(&name);
                    held.map_err(fail)?;
                }
            },
            Err(Errno::NOENT) => {}
            Err(errno) => {
                let _ = folder.rmdir(&name);
                return Err(fail(errno));
            }
        }
    }
    Err(Error::store("the directory of the image was removed again and again before it could be locked"))
}

/// Give the directory `fresh` the name of the image.
fn claim(store: &Store, id: &[u8], fresh: &[u8], cancel: &AtomicBool) -> Result<()> {
    let (images, temporary) = (store.folder(Place::Images)?, store.folder(Place::Temporary)?);
    let end = Instant::now() + CLAIM_DEADLINE;
    loop {
        match record::rename_new((temporary, fresh), (images, id)) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::os(format!("rename {}", images.path_of(id).display()), errno)),
        }
        let left = store.lock_image(id)?;
        if store.has_image(id)? {
            return Err(exists(id));
        }
        if let Some(left) = left {
            if holds_copy(&left)? {
                return Err(copied(store.image_path(id).display()));
            }
            if let Err(error) = store.remove_image(id, &left) {
                // Whatever keeps it there, the id is free: clean goes on trying, and says why it cannot.
                if matches!(error.kind, Kind::NeedsHelper | Kind::Cancelled) {
                    return Err(error);
                }
                images.rename(id, &Store::temporary_name("left"))?;
            }
            continue;
        }
        // Held by another create, which will have the image in a moment, or by a clean, which removes it.
        if Instant::now() > end {
            return Err(exists(id));
        }
        wait(PAUSE, cancel)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_one_whatever_the_failure_is_called() {
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            let error = explain(Error::os("mkdir", errno), &Wishes::default());
            assert!(error.kind == Kind::Store && error.full);
        }
        assert!(!explain(Error::os("mkdir", Errno::ACCESS), &Wishes::default()).full);
    }
}
