//! Remove subvolumes and trees, whatever was made inside: any depth, any number, any length of paths, read-only subvolumes,
//! immutable files.
//!
//! Nothing here recurses or keeps a descriptor per level, and nothing is reached by a path of more than one name. Root finds
//! nested subvolumes by their numbers (`subvolume::descendants`); their owner, who may not search the root tree, walks from
//! one to the next.

use crate::abi;
use crate::open_below;
use crate::subvolume::{self, Nested};
use crate::sys::{self, Plain};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, Result};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Levels of an ordinary tree that are open at once. What lies deeper is moved up.
const MAX_OPEN: usize = 64;
/// Names that are read from a directory at once.
const BATCH: usize = 1024;
/// How often what a process in the tree makes anew meanwhile is looked for.
const ROUNDS: usize = 1000;

/// Something that could not be removed.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where, from what was to be removed; empty for that itself.
    pub place: Vec<u8>,
    /// What the kernel said.
    pub errno: Errno,
    /// Why, where we know more than the kernel says.
    pub reason: Option<&'static str>,
    /// What helps.
    pub cure: Option<&'static str>,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { place: Vec::new(), errno, reason: None, cure: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "`{}`: ", String::from_utf8_lossy(&self.place).escape_debug())?;
        }
        match self.reason {
            Some(reason) => f.write_str(reason),
            None => write!(f, "{}", self.errno),
        }
    }
}

/// Remove the subvolume `name` in the directory `parent`, with those nested in it. Gives the numbers of all that went, for who
/// wants to wait until their space is free. Missing is fine. No commit; the kernel frees the space later.
pub fn remove_subvolume(parent: impl AsFd, name: &[u8]) -> std::result::Result<Vec<u64>, Refusal> {
    let parent = parent.as_fd();
    let dir = match open_below(parent, name) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        // Whoever may not look into it may still remove it, if it is empty of others.
        Err(Errno::ACCESS) => return destroy(parent, name).map(|()| Vec::new()).map_err(Refusal::from),
        other => other?,
    };
    let id = subvolume::id_of(&dir)?;
    match destroy(parent, name) {
        Ok(()) | Err(Errno::NOENT) => return Ok(vec![id]),
        Err(Errno::NOTEMPTY | Errno::ROFS | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match subvolume::descendants(parent, id) {
        Ok(ids) => {
            Obstacles::on(parent).in_the_way_of(parent, &ids)?;
            remove_by_numbers(parent, &ids)?;
            Ok(ids)
        }
        Err(Errno::PERM) => {
            let mut ids = vec![id];
            remove_by_walking(parent, name, &mut ids)?;
            Ok(ids)
        }
        Err(error) => Err(error.into()),
    }
}

/// As root: `ids` are a subvolume and those in it, each after its holder.
fn remove_by_numbers(dir: BorrowedFd<'_>, ids: &[u64]) -> std::result::Result<(), Refusal> {
    for &id in ids {
        // Before any of them goes: an entry cannot be taken out of a read-only subvolume.
        match subvolume::open_by_id(dir, id).and_then(|root| subvolume::make_writable(&root)) {
            Ok(_) | Err(Errno::NOENT | Errno::STALE) => {}
            Err(error) => return Err(refusal_of(dir, id, error)),
        }
    }
    for &id in ids.iter().rev() {
        let mut result = destroy_by_id(dir, id);
        if result == Err(Errno::PERM) {
            // An immutable or append-only directory: the subvolume's own, or the one that holds it.
            for held in [subvolume::open_by_id(dir, id), subvolume::holder_of(dir, id).map(|(holder, _)| holder)] {
                let _ = held.and_then(|inode| clear_flags(&inode));
            }
            result = destroy_by_id(dir, id);
        }
        if result == Err(Errno::NAMETOOLONG) {
            // The kernel looks for a subvolume that it is to destroy by number by its path, which may be too long for it.
            result = subvolume::holder_of(dir, id).and_then(|(holder, name)| destroy(holder.as_fd(), &name));
        }
        match result {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(refusal_of(dir, id, error)),
        }
    }
    Ok(())
}

/// What keeps a subvolume from being removed, known before anything is.
pub struct Obstacles {
    /// The number that is mounted where no subvolume is named.
    default: Option<u64>,
    /// Device numbers of the subvolumes with an active swap file, as far as its path can be seen from here.
    swaps: Vec<u64>,
}

impl Obstacles {
    /// Those on the file system of `dir`. What may not be looked at is found when the kernel refuses.
    pub fn on(dir: impl AsFd) -> Self {
        let default = subvolume::default_id(dir).ok().flatten();
        Self { default, swaps: swap_devices(&std::fs::read("/proc/swaps").unwrap_or_default()) }
    }

    /// Refuse the removal of what is `name` in `parent`, if something is in the way of it or of a subvolume nested in it.
    pub fn check(&self, parent: impl AsFd, name: &[u8]) -> std::result::Result<(), Refusal> {
        if self.default.is_none() && self.swaps.is_empty() || !subvolume::is_subvolume(&parent, name)? {
            return Ok(());
        }
        let tree = match open_below(&parent, name) {
            Err(Errno::NOENT | Errno::ACCESS) => return Ok(()),
            other => other?,
        };
        let id = subvolume::id_of(&tree)?;
        let placed = |refusal: Refusal| Refusal { place: [name, b"/", &refusal.place].concat(), ..refusal };
        match subvolume::descendants(&parent, id) {
            Ok(ids) => self.in_the_way_of(parent.as_fd(), &ids).map_err(placed),
            // Only root may look for those inside.
            Err(Errno::PERM) if self.is_swapped_to(&tree)? => Err(placed(refusal_for(id, SWAP))),
            Err(Errno::PERM) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn in_the_way_of(&self, dir: BorrowedFd<'_>, ids: &[u64]) -> std::result::Result<(), Refusal> {
        for &id in ids {
            if self.default == Some(id) {
                return Err(refusal_for(id, DEFAULT));
            }
            if !self.swaps.is_empty() && subvolume::open_by_id(dir, id).and_then(|root| self.is_swapped_to(&root)).unwrap_or(false) {
                return Err(refusal_for(id, SWAP));
            }
        }
        Ok(())
    }

    fn is_swapped_to(&self, root: &OwnedFd) -> Result<bool> {
        Ok(self.swaps.contains(&rustix::fs::fstat(root)?.st_dev))
    }
}

/// Device numbers of the files that `/proc/swaps` lists.
fn swap_devices(table: &[u8]) -> Vec<u64> {
    let files = table.split(|&byte| byte == b'\n').skip(1).filter_map(|line| {
        let mut fields = line.split(|&byte| matches!(byte, b' ' | b'\t')).filter(|field| !field.is_empty());
        let path = fields.next()?;
        (fields.next()? == b"file").then(|| crate::unescape(path))
    });
    files.filter_map(|path| rustix::fs::stat(&path[..]).ok()).map(|stat| stat.st_dev).collect()
}

/// Why a subvolume stays, and what helps.
type Reason = (Errno, &'static str, &'static str);

const DEFAULT: Reason = (
    Errno::PERM,
    "it is the default subvolume of the file system",
    "`btrfs subvolume set-default 5 <mount point>` makes the top level the default again",
);
const SWAP: Reason = (Errno::TXTBSY, "a swap file in it is active", "`swapon --show` lists swap files, `swapoff` ends one");
const MAYBE_SWAP: Reason = (Errno::PERM, "the kernel does not let it go: a swap file in it may be active", SWAP.2);

fn refusal_for(id: u64, (errno, reason, cure): Reason) -> Refusal {
    Refusal { place: format!("subvolume {id}").into_bytes(), errno, reason: Some(reason), cure: Some(cure) }
}

/// Say of subvolume `id` what it is that the kernel refuses.
fn refusal_of(dir: BorrowedFd<'_>, id: u64, errno: Errno) -> Refusal {
    let mut refusal = Refusal { place: format!("subvolume {id}").into_bytes(), ..Refusal::from(errno) };
    if matches!(errno, Errno::PERM | Errno::TXTBSY) {
        let (_, reason, cure) = if subvolume::default_id(dir) == Ok(Some(id)) { DEFAULT } else { MAYBE_SWAP };
        (refusal.reason, refusal.cure) = (Some(reason), Some(cure));
    } else if errno == Errno::BUSY {
        refusal.reason = Some("something is mounted on it");
        refusal.cure = Some("unmount it and try again");
    }
    refusal
}

/// As the owner: take the first subvolume that has none inside, again and again.
fn remove_by_walking(parent: BorrowedFd<'_>, name: &[u8], ids: &mut Vec<u64>) -> std::result::Result<(), Refusal> {
    loop {
        let mut at = match open_below(parent, name) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        let _ = subvolume::make_writable(&at);
        let mut place = Vec::new();
        let mut went = false;
        loop {
            let inside = match subvolume::nested(&at, &[]) {
                Err(Errno::NAMETOOLONG) => {
                    flatten(&at)?;
                    subvolume::nested(&at, &[])?
                }
                other => other?,
            };
            if inside.is_empty() {
                break;
            }
            let mut deeper = None;
            for Nested { id, holder, name } in inside {
                let dir = if holder.is_empty() { at.try_clone().map_err(|_| Errno::MFILE)? } else { open_below(&at, &holder)? };
                let child = open_below(dir.as_fd(), &name)?;
                let _ = subvolume::make_writable(&child);
                match destroy(dir.as_fd(), &name) {
                    Ok(()) | Err(Errno::NOENT) => {
                        ids.push(id);
                        went = true;
                    }
                    Err(Errno::NOTEMPTY) if deeper.is_none() => deeper = Some((child, name)),
                    Err(Errno::NOTEMPTY) => {}
                    Err(errno) => {
                        place.push(name);
                        return Err(Refusal { place: place.join(&b'/'), ..Refusal::from(errno) });
                    }
                }
            }
            match deeper {
                Some((child, name)) => {
                    at = child;
                    place.push(name);
                }
                None => break,
            }
        }
        match destroy(parent, name) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY) if went => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Levels of directories that are left in a subvolume whose paths are too long: 255 bytes each, of 4080 that the kernel knows.
const FLAT: usize = 8;

/// Move the directories that lie deep in a subvolume up into its root, so that paths in it are short. It is to be removed anyway.
fn flatten(root: &OwnedFd) -> Result<()> {
    let mut moved = 0;
    let mut waiting = directories_in(root)?;
    while let Some(name) = waiting.pop() {
        let mut levels = vec![listed(enter(root.as_fd(), &name)?)?];
        loop {
            let depth = levels.len();
            let Some((dir, names)) = levels.last_mut() else { break };
            match names.pop() {
                None => drop(levels.pop()),
                Some(name) if depth < FLAT => {
                    let level = listed(enter(dir.as_fd(), &name)?)?;
                    levels.push(level);
                }
                Some(name) => {
                    moved += 1;
                    let fresh = fresh_name(moved);
                    rustix::fs::renameat_with(dir, &name[..], root, &fresh[..], RenameFlags::NOREPLACE)?;
                    waiting.push(fresh.into_bytes());
                }
            }
        }
    }
    Ok(())
}

fn listed(dir: OwnedFd) -> Result<(OwnedFd, Vec<Vec<u8>>)> {
    let names = directories_in(&dir)?;
    Ok((dir, names))
}

/// The directories in `dir` that are no subvolumes.
fn directories_in(dir: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if entry.file_type() == FileType::Directory && !matches!(name, b"." | b"..") && !subvolume::is_subvolume(dir, name)? {
            found.push(name.to_vec());
        }
    }
    Ok(found)
}

/// A name for what is moved while something is removed.
fn fresh_name(number: u64) -> String {
    format!(".removed-{}-{number}", std::process::id())
}

/// Open a directory of what is removed; its owner may have made it unreadable for itself.
fn enter(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let dir = match open_below(parent, name) {
        Err(Errno::ACCESS) => {
            // By a descriptor: a path would be followed, and a link may stand there by now.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let held = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            let _ = rustix::fs::chmod(format!("/proc/self/fd/{}", held.as_raw_fd()), Mode::RWXU);
            open_below(parent, name)?
        }
        other => other?,
    };
    // Names cannot be taken out of it otherwise. For who may do anything it makes no difference.
    if !rustix::process::geteuid().is_root() {
        let _ = rustix::fs::fchmod(&dir, Mode::RWXU);
    }
    Ok(dir)
}

fn destroy(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let mut args = abi::VolArgs::zeroed();
    if name.len() > 255 || name.contains(&b'/') {
        return Err(Errno::INVAL);
    }
    args.name[..name.len()].copy_from_slice(name);
    match sys::ioctl(parent, abi::SNAP_DESTROY, &mut args) {
        // Without `user_subvol_rm_allowed` an owner may still remove an empty one (since Linux 4.18).
        Err(Errno::PERM) => rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(|_| Errno::PERM),
        other => other,
    }
}

fn destroy_by_id(dir: BorrowedFd<'_>, id: u64) -> Result<()> {
    let mut args = abi::DestroyById::zeroed();
    args.flags = abi::SPEC_BY_ID;
    args.id = id;
    sys::ioctl(dir, abi::SNAP_DESTROY_V2, &mut args)
}

/// Take immutable and append-only off. Needs `CAP_LINUX_IMMUTABLE`.
fn clear_flags(inode: impl AsFd) -> Result<()> {
    let flags = sys::inode_flags(&inode)?;
    if flags & (abi::IMMUTABLE | abi::APPEND) == 0 {
        return Err(Errno::PERM);
    }
    sys::set_inode_flags(inode, flags & !(abi::IMMUTABLE | abi::APPEND))
}

/// One directory of a tree that is being removed.
struct Level {
    dir: OwnedFd,
    /// Its name in the level above.
    name: Vec<u8>,
    /// What is still to go.
    names: Vec<Vec<u8>>,
    /// Times that it was read.
    rounds: usize,
}

/// Remove `name` in the directory `parent`: a file, a subvolume, or a directory with all in it. Gives the numbers of the
/// subvolumes that went. Missing is fine.
pub fn remove_entry(parent: impl AsFd, name: &[u8]) -> std::result::Result<Vec<u64>, Refusal> {
    let mut tree = Tree { parent: parent.as_fd(), levels: Vec::new(), ids: Vec::new(), moved: 0 };
    tree.take(name).map_err(|error| tree.placed(name, error))?;
    while let Some(level) = tree.levels.last_mut() {
        if let Some(name) = level.names.pop() {
            tree.take(&name).map_err(|error| tree.placed(&name, error))?;
            continue;
        }
        level.rounds += 1;
        level.names = if level.rounds > ROUNDS { Vec::new() } else { names_in(&level.dir)? };
        if level.names.is_empty() {
            let name = std::mem::take(&mut level.name);
            tree.levels.pop();
            match tree.unlink(&name, AtFlags::REMOVEDIR) {
                // Somebody is at work in it.
                Err(Errno::NOTEMPTY) => return Err(tree.placed(&name, Errno::NOTEMPTY.into())),
                other => other.map_err(|error| tree.placed(&name, error.into()))?,
            }
        }
    }
    Ok(tree.ids)
}

fn names_in(dir: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(&name[..], b"." | b"..") {
            found.push(name);
            if found.len() == BATCH {
                break;
            }
        }
    }
    Ok(found)
}

struct Tree<'a> {
    parent: BorrowedFd<'a>,
    levels: Vec<Level>,
    ids: Vec<u64>,
    /// How many directories were moved up.
    moved: u64,
}

impl Tree<'_> {
    fn dir(&self) -> BorrowedFd<'_> {
        self.levels.last().map_or(self.parent, |level| level.dir.as_fd())
    }

    /// Remove one entry of the innermost level, or go into it.
    fn take(&mut self, name: &[u8]) -> std::result::Result<(), Refusal> {
        let stat = match rustix::fs::statat(self.dir(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(self.unlink(name, AtFlags::empty())?);
        }
        if subvolume::is_subvolume(self.dir(), name)? {
            let ids = remove_subvolume(self.dir(), name)?;
            self.ids.extend(ids);
            return Ok(());
        }
        match self.unlink(name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            other => return Ok(other?),
        }
        if self.levels.len() < MAX_OPEN {
            let dir = enter(self.dir(), name)?;
            self.levels.push(Level { dir, name: name.to_vec(), names: Vec::new(), rounds: 0 });
            return Ok(());
        }
        // Too many levels to keep open: hang it into the topmost one, which is read again until nothing is left in it.
        self.moved += 1;
        let fresh = fresh_name(self.moved);
        let top = &self.levels[0].dir;
        Ok(rustix::fs::renameat_with(self.dir(), name, top, &fresh[..], RenameFlags::NOREPLACE)?)
    }

    fn unlink(&self, name: &[u8], flags: AtFlags) -> Result<()> {
        let attempt = || match rustix::fs::unlinkat(self.dir(), name, flags) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        };
        match attempt() {
            Err(Errno::PERM) => {
                // Only files and directories have such flags, and of others opening one may have an effect.
                let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let mode = rustix::fs::statat(self.dir(), name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
                if matches!(FileType::from_raw_mode(mode), FileType::RegularFile | FileType::Directory) {
                    let _ = rustix::fs::openat(self.dir(), name, open, Mode::empty()).and_then(clear_flags);
                }
                let _ = clear_flags(self.dir());
                attempt()
            }
            other => other,
        }
    }

    /// The refusal with the whole path to what it is about.
    fn placed(&self, name: &[u8], mut refusal: Refusal) -> Refusal {
        let mut parts: Vec<&[u8]> = self.levels.iter().map(|level| &level.name[..]).collect();
        parts.push(name);
        if !refusal.place.is_empty() {
            parts.push(&refusal.place);
        }
        let mut place = parts.join(&b'/');
        place.truncate(PLACE_BYTES);
        refusal.place = place;
        if refusal.errno == Errno::BUSY {
            refusal.reason.get_or_insert("something is mounted on it");
            refusal.cure.get_or_insert("unmount it and try again");
        }
        refusal
    }
}

/// Bytes of a place that a message has, at most.
const PLACE_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, crate::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn a_tree_of_any_depth_goes_and_what_links_point_to_stays() {
        let top = tempfile::tempdir().unwrap();
        let sentinel = top.path().join("sentinel");
        std::fs::create_dir(&sentinel).unwrap();
        std::fs::write(sentinel.join("file"), "x").unwrap();
        std::fs::create_dir(top.path().join("tree")).unwrap();
        let mut at = open(&top.path().join("tree"));
        for depth in 0..1500 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat("/", &at, "link").unwrap();
            std::mem::drop(rustix::fs::openat(&at, format!("f{depth}"), OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
            at = open_below(&at, b"d").unwrap();
        }
        symlink(&sentinel, top.path().join("tree/sentinel")).unwrap();
        assert_eq!(remove_entry(open(top.path()), b"tree"), Ok(Vec::new()));
        assert!(!top.path().join("tree").exists());
        assert!(sentinel.join("file").exists());
        assert_eq!(remove_entry(open(top.path()), b"tree"), Ok(Vec::new()));
    }

    #[test]
    fn a_wide_directory_goes() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("tree")).unwrap();
        for i in 0..3 * BATCH {
            std::fs::write(top.path().join(format!("tree/{i}")), "").unwrap();
        }
        assert_eq!(remove_entry(open(top.path()), b"tree"), Ok(Vec::new()));
    }

    #[test]
    fn a_deep_tree_is_made_flat() {
        let top = tempfile::tempdir().unwrap();
        let mut at = open(top.path());
        for _ in 0..100 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            std::mem::drop(rustix::fs::openat(&at, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
            at = open_below(&at, b"d").unwrap();
        }
        flatten(&open(top.path())).unwrap();
        let mut deepest = 0;
        let mut files = 0;
        let mut waiting = vec![(top.path().to_path_buf(), 0)];
        while let Some((path, depth)) = waiting.pop() {
            deepest = depth.max(deepest);
            for entry in std::fs::read_dir(path).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() { waiting.push((entry.path(), depth + 1)) } else { files += 1 }
            }
        }
        assert_eq!((deepest, files), (FLAT, 100));
    }

    #[test]
    fn swap_files_are_known_by_their_file_system() {
        let top = tempfile::tempdir().unwrap();
        std::fs::write(top.path().join("a b"), "").unwrap();
        let line = format!("Filename Type Size Used Priority\n{}/a\\040b file 1 0 -2\n/dev/sda1 partition 1 0 -3\n", top.path().display());
        let device = rustix::fs::stat(top.path()).unwrap().st_dev;
        assert_eq!(swap_devices(line.as_bytes()), [device]);
        assert_eq!(swap_devices(b""), []);
    }

    #[test]
    fn a_place_is_said_in_one_line() {
        let refusal = Refusal { place: b"a\n\xff/b".to_vec(), ..Refusal::from(Errno::BUSY) };
        assert!(!refusal.to_string().contains('\n'));
    }
}
