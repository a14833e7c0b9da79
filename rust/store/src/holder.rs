//! Which process holds a lock, as far as that can be seen from here: for what is said while others wait for it.

use crate::folder::Folder;
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use std::fs::File;
use std::io::Read;

/// Bytes that are read of `/proc/locks`: some ten thousand locks.
const MOST: u64 = 1 << 20;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Whether it was stopped, by a signal or a debugger, and does nothing until somebody lets it go on.
    pub is_stopped: bool,
}

/// Who holds a lock on `name`, by flock(2). None if nobody does, or if it is hidden: another user's process, or one outside of this
/// pid namespace.
#[must_use]
pub fn holder_of(folder: &Folder, name: &[u8]) -> Option<Holder> {
    let wanted = folder.stat(name).ok()??;
    let mut locks = String::new();
    File::open("/proc/locks").ok()?.take(MOST).read_to_string(&mut locks).ok()?;
    let pid = locks.lines().filter_map(|line| pid_of(line, wanted.st_ino)).find(|&pid| has_open(pid, &wanted))?;
    Some(Holder { pid, is_stopped: is_stopped(pid) })
}

/// The process of a line that is a held flock(2) on the inode (proc(5), `/proc/locks`). The device says nothing: BTRFS gives each
/// subvolume one of its own, and there it stands as that of the file system.
fn pid_of(line: &str, inode: u64) -> Option<u32> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, _, pid, place, ..] = fields[..] else { return None };
    (place.rsplit(':').next()?.parse() == Ok(inode)).then(|| pid.parse().ok())?
}

fn has_open(pid: u32, wanted: &Stat) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::open(format!("/proc/{pid}/fd"), flags, Mode::empty()) else { return false };
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| {
        let found = rustix::fs::statat(&folder, entry.file_name(), AtFlags::empty());
        found.is_ok_and(|found| (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino))
    })
}

fn is_stopped(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may have any characters (proc_pid_stat(5)).
    let state = status.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    matches!(state, Some("T" | "t"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = "1: FLOCK  ADVISORY  WRITE 4711 00:2a:258 0 EOF";
        assert_eq!(pid_of(line, 258), Some(4711));
        for other in ["", "1: POSIX  ADVISORY  WRITE 4711 00:2a:258 0 EOF", "1: -> FLOCK  ADVISORY  WRITE 4711 00:2a:258 0 EOF", "1: FLOCK"]
        {
            assert_eq!(pid_of(other, 258), None, "{other}");
        }
        assert_eq!(pid_of(line, 25), None);
        assert_eq!(pid_of("1: FLOCK  ADVISORY  WRITE -1 00:2a:258 0 EOF", 258), None, "one that is not of this namespace");
    }
}
