//! A local directory as an image: its fingerprint, and copying it into a volume.
//!
//! The directory may change at any time and has no digest, so its identity is a hash over the metadata of everything
//! in it (`fingerprint`); any change of content shows in a change time.

use crate::blob::hex;
use crate::error::{Error, Result, joined, printable};
use crate::idmap::IdMaps;
use crate::layer::{Extractor, Options, Stats};
use crate::sys;
use crate::tar::{Entry, Kind, Time};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const CHUNK: usize = 256 << 10;

/// Hash (hex) over names and metadata of the whole tree below `path`.
pub fn fingerprint(path: &Path, cancel: &AtomicBool) -> Result<String> {
    let mut sha = Sha256::new();
    let root = open_root(path)?;
    let depth = Options::default().limits.max_depth;
    walk(&root, &mut Vec::new(), depth, cancel, &mut |_, name, stat| {
        sha.update((name.len() as u64).to_le_bytes());
        sha.update(name);
        for number in [
            stat.st_ino,
            u64::from(stat.st_mode),
            u64::from(stat.st_uid),
            u64::from(stat.st_gid),
            stat.st_size.cast_unsigned(),
            stat.st_mtime.cast_unsigned(),
            stat.st_mtime_nsec,
            stat.st_ctime.cast_unsigned(),
            stat.st_ctime_nsec,
        ] {
            sha.update(number.to_le_bytes());
        }
        Ok(())
    })?;
    Ok(hex(&sha.finalize()))
}

/// Copy the tree below `source` into the directory `root`.
pub fn copy(source: &Path, root: OwnedFd, options: Options, cancel: &AtomicBool) -> Result<Stats> {
    copy_from(open_root(source)?, root, options, cancel, false)
}

/// Copy the directory at `path` in the tree `root`, with all in it, into the empty directory `target`: its owner, mode, times and
/// attributes too. `/` in the path and in links on the way is the tree's root. What files hold is shared with the tree, where the
/// file system can do that. False if there is no directory.
pub fn copy_inside(root: impl AsFd, path: &[u8], target: OwnedFd, ids: IdMaps, cancel: &AtomicBool) -> Result<bool> {
    let from = match crate::resolve::open_in_root(root, path) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
        other => other.map_err(|e| Error::io(format!("open `{}`", printable(path)), e))?,
    };
    let context = |e| Error::io(format!("chmod `{}`", printable(path)), e);
    let mode = rustix::fs::fstat(&from).map_err(context)?.st_mode & 0o7777;
    let own = rustix::io::fcntl_dupfd_cloexec(&target, 0).map_err(context)?;
    copy_from(from, target, Options { ids, ..Options::default() }, cancel, true)?;
    // An archive does not say the mode of the directory that it is unpacked into.
    rustix::fs::fchmod(own, Mode::from_raw_mode(mode)).map_err(context)?;
    Ok(true)
}

fn copy_from(from: OwnedFd, root: OwnedFd, options: Options, cancel: &AtomicBool, share: bool) -> Result<Stats> {
    let options = Options { literal_names: true, ..options };
    let depth = options.limits.max_depth;
    std::thread::scope(|scope| {
        let copier = std::thread::Builder::new().name("copy".into()).spawn_scoped(scope, move || {
            sys::unshare_fs().map_err(|e| Error::io("unshare", e))?;
            rustix::process::umask(Mode::empty());
            let mut extractor = Extractor::new(root, options)?;
            let mut links = HashMap::new();
            let mut sockets = 0;
            walk(&from, &mut Vec::new(), depth, cancel, &mut |dir, name, stat| {
                sockets += u64::from(!copy_entry(&mut extractor, &mut links, dir, name, stat, cancel, share)?);
                Ok(())
            })?;
            let mut stats = extractor.finish()?;
            if sockets > 0 {
                stats.left_out.insert("socket".into(), sockets);
            }
            Ok(stats)
        });
        let copier = copier.map_err(|e| Error::io("starting a thread", e))?;
        joined(copier.join())
    })
}

fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::io(format!("open {}", path.display()), e))
}

type Visit<'a> = dyn FnMut(&OwnedFd, &[u8], &Stat) -> Result<()> + 'a;

/// Visit the directory itself (as the empty name), then all below it in name order, parents first. The visitor gets
/// the directory that holds the entry, the entry's path from the top, and its metadata.
fn walk(dir: &OwnedFd, path: &mut Vec<u8>, depth: usize, cancel: &AtomicBool, visit: &mut Visit<'_>) -> Result<()> {
    let context = |path: &[u8], e| Error::io(format!("read `{}`", printable(path)), e);
    if path.is_empty() {
        let stat = rustix::fs::fstat(dir).map_err(|e| context(path, e))?;
        visit(dir, b"", &stat)?;
    }
    let depth = depth.checked_sub(1).ok_or_else(|| Error::Limit("directories nested too deeply".into()))?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir).map_err(|e| context(path, e))? {
        let name = entry.map_err(|e| context(path, e))?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort();
    for name in names {
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        let top = path.len();
        if top > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let stat = rustix::fs::statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| context(path, e))?;
        visit(dir, path, &stat)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = rustix::fs::openat(dir, name.as_slice(), flags, Mode::empty()).map_err(|e| context(path, e))?;
            walk(&child, path, depth, cancel, visit)?;
        }
        path.truncate(top);
    }
    Ok(())
}

/// False for what has no place in an image (sockets).
fn copy_entry(
    extractor: &mut Extractor,
    links: &mut HashMap<(u64, u64), Vec<u8>>,
    dir: &OwnedFd,
    path: &[u8],
    stat: &Stat,
    cancel: &AtomicBool,
    share: bool,
) -> Result<bool> {
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    let fail = |e: std::io::Error| Error::io(format!("read `{}`", printable(path)), e);
    let mut kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        _ => return Ok(false),
    };
    let mut link = Vec::new();
    if kind == Kind::Symlink {
        link = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(|e| fail(e.into()))?.into_bytes();
    } else if kind == Kind::File && stat.st_nlink > 1 {
        if let Some(first) = links.get(&(stat.st_dev, stat.st_ino)) {
            (kind, link) = (Kind::Hardlink, first.clone());
        } else {
            links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
    }
    let open = |flags| {
        let name: &[u8] = if path.is_empty() { b"." } else { name };
        rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
            .map(File::from)
            .map_err(|e| fail(e.into()))
    };
    let file = match kind {
        Kind::File => Some(open(OFlags::RDONLY)?),
        Kind::Directory => Some(open(OFlags::RDONLY | OFlags::DIRECTORY)?),
        _ => None,
    };
    extractor.begin(Box::new(Entry {
        path: if path.is_empty() { b"./".to_vec() } else { path.to_vec() },
        kind,
        link,
        mode: stat.st_mode & 0o7777,
        uid: u64::from(stat.st_uid),
        gid: u64::from(stat.st_gid),
        mtime: Time { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
        // The file may grow or shrink while it is read: what is read counts.
        size: 0,
        xattrs: file.as_ref().map_or_else(|| Ok(Vec::new()), |file| xattrs(file, path))?,
        sparse: false,
    }))?;
    if let (Kind::File, Some(mut file)) = (kind, file) {
        if share && stat.st_size > 0 && extractor.share(&file, stat.st_size.cast_unsigned())? {
            extractor.end()?;
            return Ok(true);
        }
        let mut offset = 0;
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let mut buffer = vec![0; CHUNK.min(stat.st_size.cast_unsigned() as usize + 1)];
            let n = file.read(&mut buffer).map_err(fail)?;
            if n == 0 {
                break;
            }
            buffer.truncate(n);
            extractor.data(offset, buffer.into())?;
            offset += n as u64;
        }
    }
    extractor.end()?;
    Ok(true)
}

fn xattrs(file: impl AsFd, path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let fail = |e| Error::io(format!("read attributes of `{}`", printable(path)), e);
    let mut list = vec![0u8; 1 << 16];
    let len = match rustix::fs::flistxattr(&file, list.as_mut_slice()) {
        Ok(len) => len,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(fail(error)),
    };
    let mut found = Vec::new();
    for name in list[..len].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; 1 << 16];
        match rustix::fs::fgetxattr(&file, name, value.as_mut_slice()) {
            Ok(len) => {
                value.truncate(len);
                found.push((name.to_vec(), value));
            }
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(fail(error)),
        }
    }
    Ok(found)
}
