//! A directory that is held. What is in it is named by one name and reached by the `*at` calls, so whatever its owner does to
//! the paths above it, an operation stays in this very directory.

use crate::error::{Error, Result, errno_of};
use groot_btrfs::DIRECTORY;
use groot_btrfs::subvolume;
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One mount, no links: what a store consists of.
const STEP: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// How a file of a store is opened: no link, and no pipe under its name holds us.
pub const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// An open directory, and the path that messages call it by.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// Its inode number.
    pub inode: u64,
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Folder {
    /// Open a directory by its path, which may lead through links: it is the caller's word.
    pub fn open_path(path: &Path) -> rustix::io::Result<Self> {
        let fd = rustix::fs::open(path, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())?;
        Ok(Self { fd, path: path.to_path_buf() })
    }

    /// The same directory after it was renamed.
    #[must_use]
    pub fn renamed(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }

    /// What messages call it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What messages call something in it.
    #[must_use]
    pub fn path_of(&self, name: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(name))
    }

    fn fail(&self, doing: &str, name: &[u8]) -> impl FnOnce(Errno) -> Error {
        let context = format!("{doing} {}", self.path_of(name).display());
        move |errno| Error::os(context, errno)
    }

    /// The directory `name` in it.
    pub fn folder(&self, name: &[u8]) -> rustix::io::Result<Self> {
        Ok(Self { fd: groot_btrfs::open_below(&self.fd, name)?, path: self.path_of(name) })
    }

    /// Another descriptor of it.
    pub fn duplicate(&self) -> Result<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(&self.fd, 0).map_err(|errno| Error::os(format!("dup {}", self.path.display()), errno))
    }

    /// The directory `name` in it, on whatever is mounted there.
    pub fn mounted(&self, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        let steps = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        groot_btrfs::open(&self.fd, name, DIRECTORY, Mode::empty(), steps)
    }

    /// Open the file `name` with these flags on top of `FILE`. EINVAL unless it is a regular file with one name: a second one may be
    /// that of a file that is not the store's, which somebody linked here.
    pub fn file(&self, name: &[u8], flags: OFlags) -> rustix::io::Result<File> {
        // Before it is opened, because opening a device may do something; and after, because it may be another one by then.
        match self.stat(name)? {
            None => return Err(Errno::NOENT),
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => return Err(Errno::LOOP),
            Some(stat) if !is_own(&stat) => return Err(Errno::INVAL),
            Some(_) => {}
        }
        let file = groot_btrfs::open(&self.fd, name, flags | FILE, Mode::empty(), STEP).map(File::from)?;
        if is_own(&rustix::fs::fstat(&file)?) { Ok(file) } else { Err(Errno::INVAL) }
    }

    /// Open the file `name` to read and write, or make it, its owner's alone. As `file` otherwise.
    pub fn open_or_make(&self, name: &[u8], owner: Option<(u32, u32)>) -> rustix::io::Result<File> {
        loop {
            match self.file(name, OFlags::RDWR) {
                Err(Errno::NOENT) => {}
                other => return other,
            }
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | FILE;
            match groot_btrfs::open(&self.fd, name, flags, Mode::RUSR | Mode::WUSR, STEP).map(File::from) {
                Err(Errno::EXIST) => {}
                Ok(file) => {
                    give(&file, &rustix::fs::fstat(&file)?, owner)?;
                    return Ok(file);
                }
                other => return other,
            }
        }
    }

    /// A file without a name, which goes with its last descriptor.
    pub fn nameless(&self) -> rustix::io::Result<File> {
        groot_btrfs::open(&self.fd, b".", OFlags::RDWR | OFlags::TMPFILE | FILE, Mode::RUSR | Mode::WUSR, STEP).map(File::from)
    }

    /// What `name` is, itself and not what it leads to; None if there is nothing. `name` is one name.
    pub fn stat(&self, name: &[u8]) -> rustix::io::Result<Option<Stat>> {
        if name.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether something is at `name`. What may not be looked at counts as there.
    #[must_use]
    pub fn has(&self, name: &[u8]) -> bool {
        !matches!(self.stat(name), Ok(None))
    }

    /// Whether `name` is a directory and no link to one.
    #[must_use]
    pub fn has_directory(&self, name: &[u8]) -> bool {
        matches!(self.stat(name), Ok(Some(stat)) if is_directory(&stat))
    }

    /// Whether `name` is the root of a subvolume, on this mount.
    pub fn has_subvolume(&self, name: &[u8]) -> Result<bool> {
        subvolume::is_subvolume(&self.fd, name).map_err(self.fail("stat", name))
    }

    /// Everything in it.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let fail = |errno| Error::os(format!("open {}", self.path.display()), errno);
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                found.push(Entry { name: name.to_vec(), inode: entry.ino() });
            }
        }
        Ok(found)
    }

    /// The names in it, sorted.
    pub fn names(&self) -> Result<Vec<Vec<u8>>> {
        let mut names: Vec<_> = self.entries()?.into_iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The start of the file `name`, `most` bytes of it. None if it is missing or cannot be read (`file`).
    #[must_use]
    pub fn read(&self, name: &[u8], most: u64) -> Option<Vec<u8>> {
        self.try_read(name, most).ok()
    }

    /// The same with the reason.
    pub fn try_read(&self, name: &[u8], most: u64) -> rustix::io::Result<Vec<u8>> {
        let file = self.file(name, OFlags::RDONLY)?;
        let stat = rustix::fs::fstat(&file)?;
        let mut data = Vec::with_capacity(stat.st_size.clamp(0, 1 << 16).cast_unsigned() as usize + 1);
        file.take(most).read_to_end(&mut data).map_err(|error| errno_of(&error))?;
        Ok(data)
    }

    /// Make the directory `name` with exactly this mode and owner, whatever the umask. EEXIST if something is there.
    pub fn make(&self, name: &[u8], mode: u32, owner: Option<(u32, u32)>) -> rustix::io::Result<Self> {
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode))?;
        let fresh = self.folder(name)?;
        fresh.check_own(owner)?;
        fresh.settle(mode, owner)?;
        Ok(fresh)
    }

    /// EPERM for a directory that is neither `owner`'s nor the caller's alone. Who may write to a directory can move it here from
    /// elsewhere, also in the place of one that was made a moment ago, and what we then do to it is not theirs to have done.
    pub fn check_own(&self, owner: Option<(u32, u32)>) -> rustix::io::Result<()> {
        let stat = rustix::fs::fstat(&self.fd)?;
        let is_callers = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0;
        if is_callers || owner.is_some_and(|(uid, _)| stat.st_uid == uid) { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Give the directory this mode and owner.
    pub fn settle(&self, mode: u32, owner: Option<(u32, u32)>) -> rustix::io::Result<()> {
        let stat = rustix::fs::fstat(&self.fd)?;
        if stat.st_mode & 0o7777 != mode {
            rustix::fs::fchmod(&self.fd, Mode::from_raw_mode(mode))?;
        }
        give(&self.fd, &stat, owner)
    }

    /// Remove a file. Missing is fine.
    pub fn unlink(&self, name: &[u8]) -> rustix::io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// Remove an empty directory.
    pub fn rmdir(&self, name: &[u8]) -> rustix::io::Result<()> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
    }

    /// Rename within the directory.
    pub fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        rustix::fs::renameat(&self.fd, from, &self.fd, to).map_err(self.fail("rename", from))
    }

    /// A number that is recorded as an attribute of the directory.
    #[must_use]
    pub fn number(&self, attribute: &str) -> Option<u64> {
        std::str::from_utf8(&self.attribute(attribute)?).ok()?.trim().parse().ok()
    }

    /// An attribute of the directory.
    #[must_use]
    pub fn attribute(&self, attribute: &str) -> Option<Vec<u8>> {
        let mut value = [0; 4096];
        let length = rustix::fs::fgetxattr(&self.fd, attribute, &mut value).ok()?;
        Some(value[..length].to_vec())
    }

    /// Record an attribute with the directory.
    pub fn set_attribute(&self, attribute: &str, value: &[u8]) -> Result<()> {
        rustix::fs::fsetxattr(&self.fd, attribute, value, XattrFlags::empty())
            .map_err(|errno| Error::os(format!("setting {attribute} of {}", self.path.display()), errno))
    }
}

/// Give what is open to `owner`, if it is not its own already.
fn give(fd: impl AsFd, stat: &Stat, owner: Option<(u32, u32)>) -> rustix::io::Result<()> {
    match owner {
        Some((uid, gid)) if (stat.st_uid, stat.st_gid) != (uid, gid) => {
            rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        }
        _ => Ok(()),
    }
}

/// Whether it is a regular file with one name. One with two may be somebody else's, linked into the store.
fn is_own(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink <= 1
}

/// Whether it is a directory.
#[must_use]
pub fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_a_regular_file_with_one_name_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        std::fs::write(at("host"), "secret").unwrap();
        std::fs::hard_link(at("host"), at("linked")).unwrap();
        symlink(at("host"), at("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        let folder = Folder::open_path(directory.path()).unwrap();
        for flags in [OFlags::RDONLY, OFlags::RDWR] {
            let errno = |name: &[u8]| folder.file(name, flags).err();
            assert_eq!(errno(b"file"), None);
            assert_eq!(errno(b"missing"), Some(Errno::NOENT));
            assert_eq!(errno(b"link"), Some(Errno::LOOP));
            assert_eq!([&b"linked"[..], b"pipe", b"folder", b"folder/x"].map(errno), [Some(Errno::INVAL); 4]);
        }
        for name in [&b"linked"[..], b"pipe", b"folder"] {
            assert_eq!(folder.open_or_make(name, None).err(), Some(Errno::INVAL));
            assert_eq!(folder.read(name, 10), None);
        }
        assert_eq!(folder.read(b"file", 10), Some(b"x".to_vec()));
        assert!(folder.open_or_make(b"new", None).is_ok());
    }

    #[test]
    fn a_directory_that_others_may_write_is_not_taken_for_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::open_path(directory.path()).unwrap();
        let made = folder.make(b"made", 0o755, None).unwrap();
        assert_eq!(made.check_own(None), Ok(()));
        for (mode, expected) in [(0o700, Ok(())), (0o775, Err(Errno::PERM)), (0o757, Err(Errno::PERM)), (0o2755, Ok(()))] {
            std::fs::set_permissions(directory.path().join("made"), PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(made.check_own(None), expected, "{mode:o}");
            assert_eq!(made.check_own(Some((rustix::process::geteuid().as_raw(), 0))), Ok(()));
        }
    }
}
