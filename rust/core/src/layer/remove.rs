//! Removing what lower layers gave: whole trees, or all of a tree but what this layer made.

use super::dirs::{Dir, Dirs, change_owner, is_dir, stat_below};
use crate::error::{Error, Result, printable};
use crate::listing::Step;
use crate::resolve::open_beneath;
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

/// Remove `name` from `dir`, with everything below it. Gives the bytes of file content that went away.
pub(super) fn remove(dirs: &mut Dirs, dir: &Dir, name: &[u8]) -> Result<u64> {
    let Some(stat) = stat_below(dir, name)? else { return Ok(0) };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            dirs.forget();
            let freed = remove_children(dir, name, dirs.max_depth())?;
            unlink(dir, name, AtFlags::REMOVEDIR)?;
            dirs.note(&Step::Remove { at: (dir.ino, name) })?;
            return Ok(freed);
        }
        // A kept descriptor may have been reached through this link.
        FileType::Symlink => dirs.forget(),
        _ => {}
    }
    unlink(dir, name, AtFlags::empty())?;
    dirs.note(&Step::Remove { at: (dir.ino, name) })?;
    Ok(freed(&stat))
}

/// Remove from the directory `name` in `dir` all that lower layers gave and keep what this layer made. Where only the
/// content is this layer's (`made` is false), the directory becomes as if it had been made on the way to it, like any
/// missing parent.
pub(super) fn purge(dirs: &mut Dirs, dir: &Dir, name: &[u8], made: bool) -> Result<u64> {
    dirs.forget();
    purge_one(dirs, dir, name, made, dirs.max_depth())
}

fn purge_one(dirs: &mut Dirs, dir: &Dir, name: &[u8], made: bool, depth: usize) -> Result<u64> {
    let child = open(dir, name)?;
    if !made {
        reset(dirs, &child)?;
        dirs.mark_made(dir, name);
    }
    purge_children(dirs, &child, depth)
}

/// As `purge`, for a directory that is already open.
pub(super) fn purge_children(dirs: &mut Dirs, dir: &Dir, depth: usize) -> Result<u64> {
    let depth = descend(depth)?;
    let mut freed = 0;
    for name in names(dir)? {
        let Some(stat) = stat_below(dir, &name)? else { continue };
        let made = dirs.is_made(dir, &name);
        if is_dir(&stat) && (made || dirs.holds_new_entries(stat.st_ino)) {
            freed += purge_one(dirs, dir, &name, made, depth)?;
        } else if !made {
            freed += remove(dirs, dir, &name)?;
        }
    }
    Ok(freed)
}

fn reset(dirs: &mut Dirs, child: &Dir) -> Result<()> {
    let context = |e| Error::io("reset directory", e);
    dirs.adopt(child)?;
    super::xattr::clear(&child.fd)?;
    change_owner(child, dirs.owner()).map_err(context)?;
    rustix::fs::fchmod(child, Mode::from_raw_mode(0o755)).map_err(context)
}

fn remove_children(dir: &Dir, name: &[u8], depth: usize) -> Result<u64> {
    let depth = descend(depth)?;
    let child = open(dir, name)?;
    let mut freed = 0;
    for name in names(&child)? {
        let Some(stat) = stat_below(&child, &name)? else { continue };
        if is_dir(&stat) {
            freed += remove_children(&child, &name, depth)?;
            unlink(&child, &name, AtFlags::REMOVEDIR)?;
        } else {
            freed += self::freed(&stat);
            unlink(&child, &name, AtFlags::empty())?;
        }
    }
    Ok(freed)
}

/// Bytes that go when this name goes. A file goes with the last of its names.
fn freed(stat: &rustix::fs::Stat) -> u64 {
    let file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1;
    if file { content(stat) } else { 0 }
}

/// Bytes of content in a file. Holes are none: whoever counted them when they go and not when they come would let an image take bytes
/// off its size that it never had.
#[must_use]
pub fn content(stat: &rustix::fs::Stat) -> u64 {
    stat.st_size.cast_unsigned().min(stat.st_blocks.cast_unsigned() * 512)
}

fn descend(depth: usize) -> Result<usize> {
    depth.checked_sub(1).ok_or_else(|| Error::Limit("directories nested too deeply to remove".into()))
}

fn open(dir: &Dir, name: &[u8]) -> Result<Dir> {
    let fd = open_beneath(dir, name).map_err(|e| Error::io(format!("open `{}`", printable(name)), e))?;
    Dir::new(fd).map(|(dir, _)| dir)
}

fn unlink(dir: &Dir, name: &[u8], flags: AtFlags) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(Error::io(format!("remove `{}`", printable(name)), error)),
    }
}

/// All names at once: removing while reading a directory may skip entries.
fn names(dir: &Dir) -> Result<Vec<Vec<u8>>> {
    let context = |e| Error::io("readdir", e);
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir).map_err(context)? {
        let entry = entry.map_err(context)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
