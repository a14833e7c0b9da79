//! Leaving: nobody may be left with a file system on a file that nobody serves.

use rustix::mount::{UnmountFlags, unmount};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long those who use the file system may go on.
const PATIENCE: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// Unmount what lies on loop devices over the file, and wait until they let go of it (they do that by themselves, `LO_FLAGS_AUTOCLEAR`).
pub fn release(file: &Path) {
    let begin = Instant::now();
    loop {
        let devices = loops(file);
        if devices.is_empty() || begin.elapsed() > DEADLINE {
            return;
        }
        for (point, device) in mounts() {
            if devices.contains(&device) {
                let flags = if begin.elapsed() < PATIENCE { UnmountFlags::empty() } else { UnmountFlags::DETACH };
                let _ = unmount(&point, flags);
            }
        }
        sleep(PAUSE);
    }
}

/// Names of the loop devices over a file.
fn loops(file: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| {
            fs::read(entry.path().join("loop/backing_file")).is_ok_and(|name| name.trim_ascii_end() == file.as_os_str().as_bytes())
        })
        .map(|entry| entry.file_name().as_bytes().to_vec())
        .collect()
}

/// Mount points and the names of the devices there, the newest first.
fn mounts() -> Vec<(PathBuf, Vec<u8>)> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<_> = table.split(|byte| *byte == b'\n').filter_map(mount).collect();
    found.reverse();
    found
}

/// See proc(5): the mount point is the fifth field, the source the second after the separator.
fn mount(line: &[u8]) -> Option<(PathBuf, Vec<u8>)> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let separator = fields.iter().position(|field| *field == b"-")?;
    let device = fields.get(separator + 2)?.strip_prefix(b"/dev/")?;
    Some((PathBuf::from(OsStr::from_bytes(&unescape(fields.get(4)?))), device.to_vec()))
}

/// Spaces and the like are three octal digits there.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            plain.push(byte);
            rest = &after[3..];
        } else {
            plain.push(*first);
            rest = after;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_table() {
        let line = br"36 35 98:0 /mnt1 /a\040b\134c rw,noatime master:1 - btrfs /dev/loop3 rw";
        assert_eq!(mount(line), Some((PathBuf::from(r"/a b\c"), b"loop3".to_vec())));
        assert_eq!(mount(b"36 35 98:0 / / rw - tmpfs none rw"), None);
        assert_eq!(mount(b"36 35"), None);
    }
}
