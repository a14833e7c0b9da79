//! What is mounted where (proc(5), mountinfo). The one parser of it.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// Type of the file system.
    pub kind: String,
    /// What is mounted: a device, mostly.
    pub source: PathBuf,
    /// Options of the mount, then those of the file system.
    pub options: Vec<String>,
}

/// All mounts that this process sees, in the order in which they were made.
pub fn all() -> std::io::Result<Vec<Mount>> {
    Ok(std::fs::read("/proc/self/mountinfo")?.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

fn parse(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let end = fields.iter().position(|field| field == b"-")?;
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let own = fields.get(5)?.split(|&byte| byte == b',');
    let of_file_system = fields.get(end + 3)?.split(|&byte| byte == b',');
    Some(Mount {
        point: PathBuf::from(unescape(fields.get(4)?)),
        kind: text(fields.get(end + 1)?),
        source: PathBuf::from(unescape(fields.get(end + 2)?)),
        options: own.chain(of_file_system).map(text).collect(),
    })
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        if first == b'\\'
            && let Some((digits, after)) = after.split_first_chunk::<3>()
            && digits.iter().all(|digit| matches!(digit, b'0'..=b'7'))
        {
            bytes.push(digits.iter().fold(0u8, |byte, digit| (byte << 3) | (digit - b'0')));
            rest = after;
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    OsString::from_vec(bytes)
}

/// Where an open directory is, as the kernel sees it: without links.
pub fn place_of(dir: impl AsFd) -> std::io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()))
}

/// Mount points at or below an open directory.
pub fn below(dir: impl AsFd) -> std::io::Result<Vec<PathBuf>> {
    let place = place_of(dir)?;
    Ok(all()?.into_iter().map(|mount| mount.point).filter(|point| point.starts_with(&place)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_line_is_taken_apart() {
        let line = b"36 35 98:0 /mnt1 /a\\040b\\134\\011\\012c rw,noatime master:1 - btrfs /dev/loop0 rw,user_subvol_rm_allowed";
        let mount = parse(line).unwrap();
        assert_eq!(mount.point.as_os_str().as_bytes(), b"/a b\\\t\nc");
        assert_eq!((mount.kind.as_str(), mount.source.to_str()), ("btrfs", Some("/dev/loop0")));
        assert_eq!(mount.options, ["rw", "noatime", "rw", "user_subvol_rm_allowed"]);
        assert_eq!(parse(b""), None);
        assert_eq!(unescape(b"\\9\\04"), OsString::from("\\9\\04"));
    }
}
