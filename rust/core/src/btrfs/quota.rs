//! Quota groups: accounting mode, limits, counters.
//!
//! Two modes (docs/kernel.md, "Accounting"). Full accounting (`qgroup`) knows what is shared; simple accounting (`squota`,
//! Linux 6.7) charges each subvolume for what it allocated itself and costs nothing. Counters come from sysfs, which
//! anybody may read.

use super::abi;
use super::open_dir;
use super::subvolume::{self, Limit};
use crate::error::{Error, Result};
use crate::sys::{self, Plain};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// How a file system accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accounting {
    /// Not at all.
    Off,
    /// Full qgroups.
    Full,
    /// Simple quotas.
    Simple,
}

/// Counters of one group, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// All it refers to.
    pub referenced: u64,
    /// What is its own.
    pub exclusive: u64,
}

fn sysfs(dir: &Path) -> Result<PathBuf> {
    Ok(Path::new("/sys/fs/btrfs").join(super::uuid(open_dir(dir)?)?).join("qgroups"))
}

/// Accounting mode of the file system of `dir`.
pub fn accounting(dir: &Path) -> Result<Accounting> {
    let sysfs = sysfs(dir)?;
    match std::fs::read_to_string(sysfs.join("mode")) {
        Ok(mode) if mode.trim() == "squota" => Ok(Accounting::Simple),
        Ok(_) => Ok(Accounting::Full),
        // Before Linux 6.7 there is no such file and only one mode.
        Err(_) if sysfs.join("enabled").exists() => Ok(Accounting::Full),
        Err(_) => Ok(Accounting::Off),
    }
}

/// Turn accounting on: simple, or full. Needs `CAP_SYS_ADMIN`.
pub fn enable(dir: &Path, simple: bool) -> Result<()> {
    let cmd = if simple { abi::QUOTA_ENABLE_SIMPLE } else { abi::QUOTA_ENABLE };
    control(dir, cmd, "enabling")
}

/// Turn accounting off; all groups and limits of the file system are gone. Needs `CAP_SYS_ADMIN`.
pub fn disable(dir: &Path) -> Result<()> {
    control(dir, abi::QUOTA_DISABLE, "disabling")
}

fn control(dir: &Path, cmd: u64, doing: &str) -> Result<()> {
    let mut args = abi::QuotaCtlArgs::zeroed();
    args.cmd = cmd;
    let fd = open_dir(dir)?;
    sys::ioctl(fd.as_fd(), abi::QUOTA_CTL, &mut args).map_err(|e| Error::io(format!("{doing} quotas on {}", dir.display()), e))
}

/// Counters of the subvolume at `path`; with a level-1 group of the same number, those of the group, because it also
/// counts nested subvolumes. `None` where accounting is off or the group is unknown.
pub fn usage(path: &Path) -> Result<Option<Usage>> {
    let sysfs = sysfs(path)?;
    let id = subvolume::id(path)?;
    Ok(read_group(&sysfs.join(format!("1_{id}"))).or_else(|| read_group(&sysfs.join(format!("0_{id}")))))
}

fn read_group(group: &Path) -> Option<Usage> {
    let number = |name: &str| std::fs::read_to_string(group.join(name)).ok()?.trim().parse().ok();
    Some(Usage { referenced: number("referenced")?, exclusive: number("exclusive")? })
}

/// Limits of the subvolume at `path` on what it refers to and on what is its own; `None` where there is no such limit.
pub fn limits(path: &Path) -> Result<(Option<u64>, Option<u64>)> {
    let group = sysfs(path)?.join(format!("0_{}", subvolume::id(path)?));
    let number = |name: &str| std::fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    let flags = number("limit_flags").unwrap_or(0);
    let limit = |flag: u64, name: &str| if flags & flag == 0 { None } else { number(name) };
    Ok((limit(abi::LIMIT_MAX_RFER, "max_referenced"), limit(abi::LIMIT_MAX_EXCL, "max_exclusive")))
}

/// Set the limit of the subvolume at `path`. Needs `CAP_SYS_ADMIN`.
pub fn set_limit(path: &Path, limit: Limit) -> Result<()> {
    let dir = open_dir(path)?;
    let id = subvolume::id_of(&dir).map_err(|e| Error::io("subvolume id", e))?;
    limit_group(&dir, id, limit).map_err(|e| Error::io(format!("limiting {}", path.display()), e))
}

/// Remove the limits of the subvolume at `path` and of its enclosing group, so that it can be taken apart although it is
/// full. Needs `CAP_SYS_ADMIN`.
pub fn lift_limits(path: &Path) -> Result<()> {
    let inside = open_dir(path)?;
    let dir = open_dir(path.parent().unwrap_or(path))?;
    let attempt = || -> std::io::Result<()> {
        let id = subvolume::id_of(&inside)?;
        for group in [id, level_one(id)] {
            let limit = abi::QgroupLimit {
                flags: abi::LIMIT_MAX_RFER | abi::LIMIT_MAX_EXCL,
                max_rfer: u64::MAX,
                max_excl: u64::MAX,
                ..abi::QgroupLimit::zeroed()
            };
            match sys::ioctl(dir.as_fd(), abi::QGROUP_LIMIT, &mut abi::QgroupLimitArgs { id: group, limit }) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                other => other?,
            }
        }
        Ok(())
    };
    attempt().map_err(|e| Error::io(format!("lifting the limits of {}", path.display()), e))
}

fn limit_group(dir: impl AsFd, id: u64, limit: Limit) -> std::io::Result<()> {
    let mut args = abi::QgroupLimitArgs { id, limit: limit.to_abi() };
    sys::ioctl(dir.as_fd(), abi::QGROUP_LIMIT, &mut args)
}

fn level_one(id: u64) -> u64 {
    1 << 48 | id
}

/// Put the subvolume at `path` into a level-1 group of its own number with the same limit, so that subvolumes which are
/// later made inside it are charged too (simple accounting only). A group of that number which is already there is left
/// alone. Needs `CAP_SYS_ADMIN`.
pub fn enclose(path: &Path, limit: Limit) -> Result<()> {
    let inside = open_dir(path)?;
    // Not through the subvolume itself: its limit would count the bookkeeping and may be too small for it.
    let dir = open_dir(path.parent().unwrap_or(path))?;
    let attempt = || -> std::io::Result<()> {
        let id = subvolume::id_of(&inside)?;
        let group = level_one(id);
        let mut create = abi::QgroupCreateArgs { create: 1, id: group };
        match sys::ioctl(dir.as_fd(), abi::QGROUP_CREATE, &mut create) {
            // Ids of subvolumes are never used twice, so this group is an administrator's: not ours to change.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => return Ok(()),
            other => other?,
        }
        limit_group(&dir, group, limit)?;
        let mut assign = abi::QgroupAssignArgs { assign: 1, src: id, dst: group };
        sys::ioctl(dir.as_fd(), abi::QGROUP_ASSIGN, &mut assign)
    };
    attempt().map_err(|e| Error::io(format!("quota group of {}", path.display()), e))
}

/// Whether `enclose` made a group for subvolume `id`.
pub fn has_group(dir: &Path, id: u64) -> Result<bool> {
    Ok(sysfs(dir)?.join(format!("1_{id}")).exists())
}

/// Remove the level-1 group number `id` that `enclose` made; `members` are the ids of the subvolumes in it. `dir` is
/// any directory of the file system. A missing group is fine. Needs `CAP_SYS_ADMIN`.
pub fn disband(dir: &Path, id: u64, members: &[u64]) -> Result<()> {
    if !has_group(dir, id)? {
        return Ok(());
    }
    let fd = open_dir(dir)?;
    for &member in members {
        let mut assign = abi::QgroupAssignArgs { assign: 0, src: member, dst: level_one(id) };
        match sys::ioctl(fd.as_fd(), abi::QGROUP_ASSIGN, &mut assign) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                return Err(Error::io(format!("removing {member} from quota group 1/{id}"), error));
            }
            _ => {}
        }
    }
    remove_group(&fd, level_one(id)).map_err(|e| Error::io(format!("removing quota group 1/{id}"), e))
}

fn remove_group(dir: impl AsFd, group: u64) -> std::io::Result<()> {
    let mut args = abi::QgroupCreateArgs { create: 0, id: group };
    match sys::ioctl(dir.as_fd(), abi::QGROUP_CREATE, &mut args) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// The groups of subvolumes that are gone and that count nothing any more, as (level, id): a base that had snapshots leaves
/// one behind at level 0 (docs/kernel.md, "Accounting"), a removal that was cut short one at level 1. Needs `CAP_SYS_ADMIN`.
pub fn stale_groups(dir: &Path) -> Result<Vec<(u16, u64)>> {
    let Ok(entries) = std::fs::read_dir(sysfs(dir)?) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some((level, id)) = name.to_str().and_then(|name| name.split_once('_')) else { continue };
        let (Ok(level), Ok(id)) = (level.parse::<u16>(), id.parse::<u64>()) else { continue };
        // Existence first: kernels before 6.8 would remove the group of a living subvolume.
        if level > 1 || id < abi::FIRST_FREE || read_group(&entry.path()) != Some(Usage::default()) || subvolume::exists(dir, id)? {
            continue;
        }
        found.push((level, id));
    }
    found.sort_unstable();
    Ok(found)
}

/// Remove the level-0 groups among `stale_groups`; the numbers of others may be an administrator's choice. Gives how many
/// went. Needs `CAP_SYS_ADMIN`.
pub fn remove_stale_groups(dir: &Path) -> Result<u64> {
    let fd = open_dir(dir)?;
    let mut removed = 0;
    for (level, id) in stale_groups(dir)? {
        // A subvolume that the kernel still works on keeps its group; the next call takes it.
        removed += u64::from(level == 0 && remove_group(&fd, id).is_ok());
    }
    Ok(removed)
}

/// Whether full accounting has lost count and says so.
pub fn is_inconsistent(dir: &Path) -> Result<bool> {
    Ok(std::fs::read_to_string(sysfs(dir)?.join("inconsistent")).is_ok_and(|text| text.trim() == "1"))
}
