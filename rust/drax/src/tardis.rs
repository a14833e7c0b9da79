//! `tardis`: whether limits hold where images are to be.
//!
//! The pre-start script of Garden's release calls the helper of the newest original by that name, `tardis [--log-timestamp-format X]
//! limit --disk-limit-bytes N --image-path DIR`, on an empty directory in the store, only to find out whether Garden may start. On
//! BTRFS no directory has a limit, only a subvolume has. So one is made in the directory, limited as an image's is, made to ask for more
//! than that, and removed: the answer is the kernel's.
//!
//! Root alone is answered: nobody else has a use for it.

use crate::privilege::Caller;
use crate::{Failure, limit_bytes, quota, split, target};
use groot_btrfs::quota::{Accounting, Groups};
use groot_btrfs::removal;
use groot_btrfs::subvolume::{self, Limit};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::{fs, process};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What the program is called then.
pub const NAME: &str = "tardis";

const USAGE: &str = "usage: tardis [--log-timestamp-format <x>] limit --disk-limit-bytes <n> --image-path <directory>";

/// Asked for beyond a limit: more than what is rounded up.
const BEYOND: u64 = 1 << 20;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Trial {
    directory: PathBuf,
    bytes: u64,
}

/// Options stand before or after the command, as `drax` takes them.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Trial, Failure> {
    let mut arguments = arguments;
    let (mut words, mut directory, mut bytes) = (Vec::new(), None, None);
    while let Some(argument) = arguments.next() {
        let (name, given) = split(&argument);
        let mut value = || given.clone().or_else(|| arguments.next()).ok_or(USAGE);
        match name {
            b"--image-path" => directory = Some(PathBuf::from(value()?)),
            b"--disk-limit-bytes" => bytes = Some(value()?),
            // Releases of Garden give it, releases of the original took it.
            b"--log-timestamp-format" => drop(value()?),
            [b'-', ..] => return Err(USAGE.into()),
            _ => words.push(argument),
        }
    }
    match (&words[..], directory, bytes) {
        ([word], Some(directory), Some(bytes)) if word == "limit" => Ok(Trial { directory, bytes: limit_bytes(bytes.as_bytes())? }),
        _ => Err(USAGE.into()),
    }
}

/// Try a limit. Fails with why it would not hold.
pub fn try_limit(caller: &Caller, trial: &Trial) -> Result<(), Failure> {
    if !caller.is_root() {
        return Err("tardis limit: only root can try whether limits hold".into());
    }
    let directory = target::open_last(&trial.directory).map_err(|e| Failure::os("opening the directory", e))?;
    let failed = |e| Failure::os("looking at the file system", e);
    if !groot_btrfs::is_btrfs(&directory).map_err(failed)? {
        return Err(format!("{} is not on a BTRFS file system: no limit would hold", trial.directory.display()).into());
    }
    let groups = Groups::of(&directory).map_err(failed)?;
    if groups.accounting().map_err(failed)? == Accounting::Off {
        return Err(quota::quota_off());
    }
    let name = format!("tardis-{}", process::getpid().as_raw_nonzero());
    subvolume::create(&directory, name.as_bytes(), None).map_err(|e| Failure::os("making a subvolume to be limited", e))?;
    let held = holds(&directory, name.as_bytes(), &groups, trial.bytes);
    let removed = removal::remove_subvolume(&directory, name.as_bytes());
    held?;
    removed.map(drop).map_err(|refusal| Failure::os("removing the subvolume that was limited", refusal.errno))
}

fn holds(directory: &OwnedFd, name: &[u8], groups: &Groups, bytes: u64) -> Result<(), Failure> {
    let failed = |e| Failure::os("trying a limit", e);
    let tree = groot_btrfs::open_below(directory, name).map_err(failed)?;
    let id = subvolume::id_of(&tree).map_err(failed)?;
    // Through the directory: an ioctl through the subvolume is charged to its own limit.
    groot_btrfs::quota::limit_group(directory, id, Limit { bytes, exclusive: false }).map_err(quota::limit_failed)?;
    if groups.limits(0, id).0 != Some(bytes) {
        return Err(format!("a limit of {bytes} bytes was set, and the kernel has another one").into());
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match fs::openat(&tree, Path::new("more"), flags, Mode::from_raw_mode(0o600)) {
        // A limit that not even a name fits below.
        Err(Errno::DQUOT) => return Ok(()),
        other => other.map_err(failed)?,
    };
    match fs::fallocate(&file, FallocateFlags::empty(), 0, bytes.saturating_add(BEYOND).min(i64::MAX as u64)) {
        // Beyond what the disk has, the limit is not what stops anybody.
        Err(Errno::DQUOT | Errno::NOSPC | Errno::FBIG) => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(()) => Err(format!("a limit of {bytes} bytes does not hold: the kernel gave more").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Trial, Failure> {
        parse(line.split_ascii_whitespace().map(OsString::from))
    }

    #[test]
    fn as_pre_start_calls_it() {
        for line in [
            "--log-timestamp-format rfc3339 limit --disk-limit-bytes 102400 --image-path /s/images/xfs_test",
            "limit --image-path=/s/images/xfs_test --disk-limit-bytes=102400",
        ] {
            assert_eq!(parsed(line), Ok(Trial { directory: "/s/images/xfs_test".into(), bytes: 102_400 }), "{line}");
        }
        for line in
            ["", "limit", "limit --image-path /p", "stats --volume-path /p", "limit /p --disk-limit-bytes 1", "--version", "limit -x"]
        {
            assert_eq!(parsed(line), Err(USAGE.into()), "{line}");
        }
        assert!(parsed("limit --image-path /p --disk-limit-bytes 0").is_err_and(|failure| failure.0.contains("has to be a number")));
    }
}
