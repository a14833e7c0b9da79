//! A store that is open: its directory held, its folders below it, its owner.

use crate::error::{Error, Kind, Result, errno_of, text_of};
use crate::folder::Folder;
use crate::mappings::{Mappings, group_name, user_name};
use crate::{Helper, records};
use groot_btrfs::quota::Groups;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// The folders of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Images.
    Images,
    /// Volumes.
    Volumes,
    /// Records.
    Meta,
    /// Lock files.
    Locks,
    /// Temporary files.
    Temporary,
    /// Records of images.
    Dependencies,
    /// Records of names of images.
    Sources,
    /// Proofs that callers may pull.
    Proofs,
}

impl Place {
    /// What makes a directory a store, in the order of making.
    pub const ALL: [Self; 6] = [Self::Images, Self::Volumes, Self::Meta, Self::Locks, Self::Temporary, Self::Dependencies];

    /// Its path in the store.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Volumes => "volumes",
            Self::Meta => "meta",
            Self::Locks => "locks",
            Self::Temporary => "tmp",
            Self::Dependencies => "meta/dependencies",
            Self::Sources => "meta/sources",
            Self::Proofs => "meta/proofs",
        }
    }
}

/// The record of the mappings, in `meta`.
pub const NAMESPACE: &str = "namespace.json";
/// On the store's directory: the mappings as root recorded them. Only root can write attributes of this kind (xattr(7)), so the
/// store's owner, who could put another file in the place of `meta/namespace.json`, cannot change what root goes by.
pub const TRUSTED_NAMESPACE: &str = "trusted.grootfs.namespace";

/// On the store's directory: `root` if limits that are set may be changed by root only. `drax` reads it (`rust/drax/src/quota.rs`).
pub const LIMITS_ATTRIBUTE: &str = "trusted.grootfs.limits";

/// Bytes of one file name.
pub const MAX_NAME: usize = 255;
/// Bytes of a new image's id: its record is a file too.
pub const MAX_NEW_ID: usize = MAX_NAME - "image:.json".len();

/// How to work on a store.
#[derive(Clone, Default)]
pub struct Options {
    /// The helper for quota groups: a path, or a name that is looked for in `PATH`.
    pub drax: OsString,
    /// What does the work of an ordinary user in a user namespace.
    pub helper: Option<Arc<dyn Helper>>,
}

/// An initialised store. Holds no state but descriptors: other processes change the tree at any time.
pub struct Store {
    path: PathBuf,
    top: Folder,
    folders: [OnceLock<Folder>; 8],
    mappings: Mappings,
    owner: Option<(u32, u32)>,
    groups: OnceLock<Groups>,
    pub(crate) options: Options,
}

impl Store {
    /// Open the store at `path`. Raises Store if there is none, if a link or a mount stands in the place of one of its folders,
    /// or if its mappings cannot be read or trusted.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        crate::mounts::check_mounted(path)?;
        let top = match Folder::open_path(path) {
            Ok(top) => top,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(not_initialised(path)),
            Err(errno) => return Err(unreadable(path, errno)),
        };
        if !is_initialised(&top)? {
            return Err(not_initialised(path));
        }
        let mappings = read_namespace(&top)?;
        Ok(Self::held(path, top, mappings, options))
    }

    /// Whether there is a store at `path`. Raises Store if its file system is not mounted, or for a link in the place of a folder.
    pub fn is_there(path: &Path) -> Result<bool> {
        crate::mounts::check_mounted(path)?;
        Folder::open_path(path).map_or(Ok(false), |top| is_initialised(&top))
    }

    /// As much of a store as `list` and `delete-store` need: whatever is missing is missed when it is used. Raises Store if its
    /// file system is not mounted, Os.
    pub fn open_any(path: &Path, options: Options) -> Result<Self> {
        crate::mounts::check_mounted(path)?;
        let top = Folder::open_path(path).map_err(|errno| Error::os(format!("open {}", path.display()), errno))?;
        let mappings = read_namespace(&top).unwrap_or_default();
        Ok(Self::held(path, top, mappings, options))
    }

    pub(crate) fn held(path: &Path, top: Folder, mappings: Mappings, options: Options) -> Self {
        // Files that root makes in somebody's store must be that somebody's, or it is locked out of its own store.
        let owner = mappings.owner().filter(|_| rustix::process::geteuid().is_root());
        Self { path: path.to_path_buf(), top, folders: Default::default(), mappings, owner, groups: OnceLock::new(), options }
    }

    /// The path it was opened by, for output and messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory.
    #[must_use]
    pub fn top(&self) -> &Folder {
        &self.top
    }

    /// Its id mappings.
    #[must_use]
    pub fn mappings(&self) -> &Mappings {
        &self.mappings
    }

    /// Who gets what is made in it, if that is not the caller.
    #[must_use]
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    /// One of its folders, opened when it is first used. Raises Store for a link or a mount in its place, Os.
    pub fn folder(&self, place: Place) -> Result<&Folder> {
        let slot = &self.folders[place as usize];
        if let Some(folder) = slot.get() {
            return Ok(folder);
        }
        let folder = self.top.folder(place.path().as_bytes()).map_err(|errno| refuse(&self.top, place, errno))?;
        Ok(slot.get_or_init(|| folder))
    }

    /// Path of an image's directory, for output and messages.
    #[must_use]
    pub fn image_path(&self, id: &[u8]) -> PathBuf {
        self.path.join("images").join(OsStr::from_bytes(id))
    }

    /// The quota groups of its file system.
    pub fn groups(&self) -> Result<&Groups> {
        if let Some(groups) = self.groups.get() {
            return Ok(groups);
        }
        let volumes = self.folder(Place::Volumes)?;
        let groups =
            Groups::of(volumes).map_err(|errno| Error::os(format!("looking at the file system of {}", self.path.display()), errno))?;
        Ok(self.groups.get_or_init(|| groups))
    }

    /// Commit its file system: counters move then, and what was renamed is durable.
    pub fn sync(&self) -> Result<()> {
        groot_btrfs::sync(self.folder(Place::Volumes)?).map_err(|errno| Error::os(format!("sync {}", self.path.display()), errno))
    }

    /// A fresh name for something in `tmp`.
    #[must_use]
    pub fn temporary_name(kind: &str) -> Vec<u8> {
        format!("{kind}-{}-{:012x}", std::process::id(), random()).into_bytes()
    }

    /// Where a record goes: its name in a folder, and a fresh one in `tmp`.
    pub fn place_record(&self, place: Place, name: &[u8], mode: u32) -> Result<groot_core::record::Place> {
        self.place_record_in(self.folder(place)?, name, mode)
    }

    /// The same for a folder that has no place of its own: an image's.
    pub(crate) fn place_record_in(&self, folder: &Folder, name: &[u8], mode: u32) -> Result<groot_core::record::Place> {
        let dup = |folder: &Folder| folder.as_fd().try_clone_to_owned().map_err(|error| Error::io("dup", &error));
        Ok(groot_core::record::Place {
            at: (dup(folder)?, name.to_vec()),
            temporary: (dup(self.folder(Place::Temporary)?)?, Self::temporary_name("record")),
            mode,
            owner: self.owner,
        })
    }

    /// The id that an argument of delete or stats names: an id, or the path of an image directory.
    ///
    /// Only the image itself can be named: not the directories above it, and nothing below it (contract, defects 12, 13,
    /// 14, 31). Raises Store for a path that is no image of this store.
    pub fn id_of_argument(store: &Path, argument: &OsStr) -> Result<Vec<u8>> {
        let bytes = argument.as_bytes();
        if !bytes.starts_with(b"/") {
            return Ok(bytes.to_vec());
        }
        let (path, images) = (normalise(Path::new(argument)), normalise(store).join("images"));
        match path.strip_prefix(&images) {
            Ok(id) if id.components().count() == 1 => Ok(id.as_os_str().as_bytes().to_vec()),
            _ => Err(Error::store(format!("path `{}` is outside store path", argument.to_string_lossy()))),
        }
    }
}

/// A path without `.`, `..` and double slashes, by its text alone.
#[must_use]
pub fn normalise(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir if normal.file_name().is_some() => {
                normal.pop();
            }
            std::path::Component::ParentDir if normal.has_root() => {}
            other => normal.push(other),
        }
    }
    normal
}

/// Whether an image can have this id: it has to be a name for a directory of its own.
#[must_use]
pub fn is_image_id(id: &[u8]) -> bool {
    (1..=MAX_NAME).contains(&id.len()) && !matches!(id, b"." | b"..") && !id.contains(&b'/') && !id.contains(&0)
}

/// There is no store.
#[must_use]
pub fn not_initialised(path: &Path) -> Error {
    Error::store("Store path is not initialized. Please run init-store.").hint(how_to_make(path))
}

/// How to make a store there, for whoever asks.
#[must_use]
pub fn how_to_make(path: &Path) -> String {
    let owner = owner_option(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let store = path.display();
    format!("as root: `grootfs --store {store} init-store --store-size-bytes 20GiB{owner}`, or without a size on a BTRFS")
}

/// What makes a store one of this user and group; nothing for root, and where one of them has no name.
fn owner_option(uid: u32, gid: u32) -> String {
    let names = || Some(format!(" --rootless {}:{}", user_name(uid)?, group_name(gid)?));
    if uid == 0 { String::new() } else { names().unwrap_or_default() }
}

fn unreadable(path: &Path, errno: Errno) -> Error {
    Error::store(format!("reading namespace file: open {}/meta/{NAMESPACE}: {}", path.display(), text_of(errno)))
}

/// Say of a folder that could not be opened what is in its place.
fn refuse(top: &Folder, place: Place, errno: Errno) -> Error {
    refuse_at(&top.path_of(place.path().as_bytes()), || kind_of(top, place.path().as_bytes()), errno)
}

/// Say of a path in a store that could not be opened what is there; `kind` looks.
pub(crate) fn refuse_at(path: &Path, kind: impl FnOnce() -> rustix::io::Result<FileType>, errno: Errno) -> Error {
    let path = path.display();
    let link = || Error::store(format!("invalid store: {path} is a symbolic link")).hint("only the path of the store itself may be a link");
    match errno {
        Errno::LOOP => link(),
        // What the kernel says of a link that is to be a directory.
        Errno::NOTDIR if kind() == Ok(FileType::Symlink) => link(),
        Errno::PERM => Error::store(format!("invalid store: {path} is neither its owner's nor root's alone")).hint("move it away"),
        Errno::XDEV => Error::store(format!("invalid store: something is mounted on {path}")).hint(format!("umount {path}")),
        errno => Error::os(format!("open {path}"), errno),
    }
}

/// What stands at a path below a directory, itself and not what it leads to.
pub(crate) fn kind_of(top: &Folder, path: &[u8]) -> rustix::io::Result<FileType> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_XDEV;
    let found = groot_btrfs::open(top, path, flags, Mode::empty(), resolve)?;
    Ok(FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode))
}

/// Whether everything that makes a store is there. What may not be looked at counts as there (contract, section 7.2). Raises
/// Store for a link: its owner could lead us, as root, to anything of the host.
pub fn is_initialised(top: &Folder) -> Result<bool> {
    for place in Place::ALL {
        match kind_of(top, place.path().as_bytes()) {
            Ok(FileType::Symlink) => return Err(refuse(top, place, Errno::LOOP)),
            Ok(_) | Err(Errno::ACCESS) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            Err(errno) => return Err(refuse(top, place, errno)),
        }
    }
    let meta = match top.folder(b"meta") {
        Ok(meta) => meta,
        Err(Errno::ACCESS) => return Ok(true),
        Err(errno) => return Err(refuse(top, Place::Meta, errno)),
    };
    Ok(meta.has(NAMESPACE.as_bytes()))
}

/// The mappings in `meta/namespace.json`; as root, only if they can be trusted. Raises Store.
pub fn read_namespace(top: &Folder) -> Result<Mappings> {
    let written = read_namespace_file(top, rustix::process::geteuid().is_root())?;
    if !rustix::process::geteuid().is_root() {
        return Ok(written);
    }
    let path = top.path_of(b"meta/namespace.json");
    if let Some(recorded) = top.attribute(TRUSTED_NAMESPACE) {
        if recorded != written.fingerprint().as_bytes() {
            return Err(Error::store(format!("{} has other mappings than root gave the store", path.display()))
                .hint("`init-store` as root with the right ones writes them again"));
        }
        return Ok(written);
    }
    // A store of the original, or of an older release: its owner may have put another file of root's here, so the mappings have
    // to be allowed to it in any case. Mappings that name no owner are those of a store of root's.
    let holder = rustix::fs::fstat(top).map_err(|errno| unreadable(top.path(), errno))?.st_uid;
    if written.owner().is_none() && holder != 0 {
        return Err(Error::store(format!("{} names no owner, and the store belongs to user id {holder}", path.display()))
            .hint("`init-store` as root with the store's mappings confirms them"));
    }
    written.check_subordinate().map_err(|(mapping, file)| {
        Error::store(format!("{} maps ids to {mapping}, which {file} does not give to the store's owner", path.display()))
            .hint("`init-store` as root with the store's mappings confirms them")
    })?;
    Ok(written)
}

/// The same as it stands in the file. `trusted`: it has to be root's, and only root's, to write.
pub(crate) fn read_namespace_file(top: &Folder, trusted: bool) -> Result<Mappings> {
    let fail = |errno| unreadable(top.path(), errno);
    let meta = top.folder(b"meta").map_err(fail)?;
    let path = meta.path_of(NAMESPACE.as_bytes());
    let mut file = meta.file(NAMESPACE.as_bytes(), OFlags::RDONLY).map_err(|errno| match errno {
        Errno::LOOP => Error::store(format!("invalid store: {} is a symbolic link", path.display())),
        Errno::INVAL => Error::store(format!("invalid store: {} is not a regular file with one name", path.display())),
        errno => fail(errno),
    })?;
    let stat = rustix::fs::fstat(&file).map_err(fail)?;
    if trusted && (stat.st_uid != 0 || stat.st_mode & 0o022 != 0) {
        return Err(Error::store(format!("{} is not root's own, so its mappings are not trusted", path.display()))
            .hint("`init-store` as root with the store's mappings writes them again"));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(records::MAX_RECORD).read_to_end(&mut bytes).map_err(|error| fail(errno_of(&error)))?;
    Mappings::read_document(&bytes)
}

/// A number that nobody can guess.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes[..6], rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => u64::from_le_bytes(bytes),
        // Names only have to differ; making them never replaces anything.
        Err(_) => nanos_now() as u64 & 0xffff_ffff_ffff,
    }
}

/// Nanoseconds since 1970.
#[must_use]
pub fn nanos_now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos())
}

/// The directory `id` in `images`; None if there is nothing, or something else.
pub(crate) fn image_folder(store: &Store, id: &[u8]) -> Result<Option<Folder>> {
    let images = store.folder(Place::Images)?;
    match images.folder(id) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        Err(errno) => Err(Error::os(format!("open {}", images.path_of(id).display()), errno)),
    }
}

/// Refuse an id that a new image cannot have. Raises Store.
pub fn check_new_id(id: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(id);
    if id.contains(&b'/') {
        let refused = Error::store(format!("id `{text}` contains invalid characters: `/`"));
        return Err(if text.contains("://") { refused.hint("the image comes first, then the id") } else { refused });
    }
    if !is_image_id(id) || id.len() > MAX_NEW_ID {
        return Err(Error::store(format!(
            "id `{text}` cannot be used: it must be a file name of 1 to {MAX_NEW_ID} bytes other than `.` and `..`"
        )));
    }
    // `list` prints a line for each image, and terminals obey.
    if text.chars().any(is_control) {
        return Err(Error::store(format!("id '{}' contains control characters", groot_core::error::printable(id))));
    }
    Ok(())
}

/// Control characters of either kind, and those that turn the direction of text.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// An image that could not be found; `more` follows the sentence.
#[must_use]
pub fn no_image(id: &[u8], more: &str) -> Error {
    Error::new(Kind::ImageNotFound, format!("Image `{}` not found.{more}", String::from_utf8_lossy(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(argument: &str) -> std::result::Result<String, String> {
        Store::id_of_argument(Path::new("/var//store/"), OsStr::new(argument))
            .map(|id| String::from_utf8(id).unwrap())
            .map_err(|error| error.text)
    }

    #[test]
    fn an_argument_is_an_id_or_the_path_of_an_image() {
        assert_eq!(id("a"), Ok("a".into()));
        assert_eq!(id("a/b"), Ok("a/b".into()));
        assert_eq!(id("/var/store/images/x"), Ok("x".into()));
        assert_eq!(id("/var/./store/tmp/../images//x/"), Ok("x".into()));
        for outside in ["/var/store/images", "/var/store/images/", "/var/store/images/x/rootfs", "/var/store/images/..", "/", "/x"] {
            assert_eq!(id(outside), Err(format!("path `{outside}` is outside store path")));
        }
    }

    #[test]
    fn ids_are_names_and_harmless_to_a_terminal() {
        for good in ["a", "...", "ü", &"x".repeat(MAX_NEW_ID)] {
            assert!(check_new_id(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a\n", "\x7f", "\u{9b}2J", "\u{202e}x", &"x".repeat(MAX_NEW_ID + 1)] {
            assert!(check_new_id(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
