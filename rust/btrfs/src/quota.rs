//! Quota groups: accounting mode, limits, counters.
//!
//! Two modes (docs/kernel.md, "Accounting"). Full accounting (`qgroup`) knows what is shared; simple accounting (`squota`, Linux 6.7)
//! charges each subvolume for what it allocated itself and costs nothing. Counters come from sysfs, which anybody may read.
//!
//! Under simple accounting subvolumes that are made inside an image escape its limit, unless the image is in a level-1
//! group: they join that group by themselves. Ours for subvolume N is number 1/N, and is marked (`is_ours`).

use crate::abi;
use crate::subvolume::{self, Limit};
use crate::sys::{self, Plain};
use rustix::io::{Errno, Result};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

const LEVEL_SHIFT: u32 = 48;

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

/// The quota groups of a file system, as `/sys` shows them to anybody.
pub struct Groups(PathBuf);

impl Groups {
    /// Those of the file system that `dir` is on.
    pub fn of(dir: impl AsFd) -> Result<Self> {
        Ok(Self(Path::new("/sys/fs/btrfs").join(crate::uuid(dir)?)))
    }

    /// Accounting mode. ENODATA if `/sys` does not show the file system: then nothing is known, not even "off".
    pub fn accounting(&self) -> Result<Accounting> {
        match std::fs::read_to_string(self.0.join("qgroups/mode")) {
            Ok(mode) if mode.trim() == "squota" => Ok(Accounting::Simple),
            Ok(_) => Ok(Accounting::Full),
            // Before Linux 6.7 there is no such file and only one mode.
            Err(_) if self.0.join("qgroups/enabled").exists() => Ok(Accounting::Full),
            Err(_) if self.0.join("qgroups").exists() => Ok(Accounting::Full),
            Err(_) if self.0.exists() => Ok(Accounting::Off),
            Err(_) => Err(Errno::NODATA),
        }
    }

    /// Counters of subvolume `id`; with a level-1 group of the same number, those of the group, because it also counts nested
    /// subvolumes. None if accounting is off or the group is unknown.
    #[must_use]
    pub fn usage(&self, id: u64) -> Option<Usage> {
        self.read(1, id).or_else(|| self.read(0, id))
    }

    fn read(&self, level: u64, id: u64) -> Option<Usage> {
        Some(Usage { referenced: self.number(level, id, "referenced")?, exclusive: self.number(level, id, "exclusive")? })
    }

    fn number(&self, level: u64, id: u64, name: &str) -> Option<u64> {
        std::fs::read_to_string(self.0.join(format!("qgroups/{level}_{id}/{name}"))).ok()?.trim().parse().ok()
    }

    /// Limits of a group on what it refers to and on what is its own; None for a limit that it does not have.
    #[must_use]
    pub fn limits(&self, level: u64, id: u64) -> (Option<u64>, Option<u64>) {
        let flags = self.number(level, id, "limit_flags").unwrap_or(0);
        let limit = |flag: u64, name: &str| if flags & flag == 0 { None } else { self.number(level, id, name) };
        (limit(abi::LIMIT_MAX_RFER, "max_referenced"), limit(abi::LIMIT_MAX_EXCL, "max_exclusive"))
    }

    /// Whether there is a level-1 group of this number.
    #[must_use]
    pub fn has_enclosure(&self, id: u64) -> bool {
        self.0.join(format!("qgroups/1_{id}")).exists()
    }

    /// Whether full accounting has lost count and says so.
    #[must_use]
    pub fn is_inconsistent(&self) -> bool {
        std::fs::read_to_string(self.0.join("qgroups/inconsistent")).is_ok_and(|text| text.trim() == "1")
    }

    /// All groups as (level, number), sorted.
    #[must_use]
    pub fn all(&self) -> Vec<(u64, u64)> {
        let Ok(entries) = std::fs::read_dir(self.0.join("qgroups")) else { return Vec::new() };
        let parse = |name: &str| name.split_once('_').and_then(|(level, id)| Some((level.parse().ok()?, id.parse().ok()?)));
        let mut found: Vec<_> = entries.flatten().filter_map(|entry| parse(entry.file_name().to_str()?)).collect();
        found.sort_unstable();
        found
    }

    /// The groups of subvolumes that are gone and that count nothing any more, as (level, number): a base that had snapshots
    /// leaves one at level 0, a removal that was cut short one at level 1. `dir` is any directory of the file system. Needs
    /// `CAP_SYS_ADMIN`.
    pub fn stale(&self, dir: impl AsFd) -> Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        for (level, id) in self.all() {
            // Existence first: kernels before 6.8 would remove the group of a living subvolume.
            if level <= 1 && id >= abi::FIRST_FREE && self.read(level, id) == Some(Usage::default()) && !subvolume::exists(&dir, id)? {
                found.push((level, id));
            }
        }
        Ok(found)
    }
}

/// Number of the level-1 group around subvolume `id`.
#[must_use]
pub fn enclosure(id: u64) -> u64 {
    1 << LEVEL_SHIFT | id
}

/// Turn accounting on: simple, or full. Needs `CAP_SYS_ADMIN`.
pub fn enable(dir: impl AsFd, simple: bool) -> Result<()> {
    control(dir, if simple { abi::QUOTA_ENABLE_SIMPLE } else { abi::QUOTA_ENABLE })
}

/// Turn accounting off; all groups and limits of the file system are gone. Needs `CAP_SYS_ADMIN`.
pub fn disable(dir: impl AsFd) -> Result<()> {
    control(dir, abi::QUOTA_DISABLE)
}

fn control(dir: impl AsFd, cmd: u64) -> Result<()> {
    let mut args = abi::QuotaCtlArgs::zeroed();
    args.cmd = cmd;
    sys::ioctl(dir, abi::QUOTA_CTL, &mut args)
}

/// Limit a group. `dir` is any directory of the file system, but not one in the subvolume that is limited: an ioctl through
/// that one is charged to its own limit. Needs `CAP_SYS_ADMIN`.
pub fn limit_group(dir: impl AsFd, group: u64, limit: Limit) -> Result<()> {
    sys::ioctl(dir, abi::QGROUP_LIMIT, &mut abi::QgroupLimitArgs { id: group, limit: limit.to_abi() })
}

/// Remove the limits of a group; a missing one is fine. Needs `CAP_SYS_ADMIN`.
pub fn lift_limits(dir: impl AsFd, group: u64) -> Result<()> {
    let limit = abi::QgroupLimit {
        flags: abi::LIMIT_MAX_RFER | abi::LIMIT_MAX_EXCL,
        max_rfer: u64::MAX,
        max_excl: u64::MAX,
        ..abi::QgroupLimit::zeroed()
    };
    match sys::ioctl(dir, abi::QGROUP_LIMIT, &mut abi::QgroupLimitArgs { id: group, limit }) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Make a group. EEXIST if it is there. Needs `CAP_SYS_ADMIN`.
pub fn create_group(dir: impl AsFd, group: u64) -> Result<()> {
    sys::ioctl(dir, abi::QGROUP_CREATE, &mut abi::QgroupCreateArgs { create: 1, id: group })
}

/// Remove a group; a missing one is fine. Needs `CAP_SYS_ADMIN`.
pub fn remove_group(dir: impl AsFd, group: u64) -> Result<()> {
    match sys::ioctl(dir, abi::QGROUP_CREATE, &mut abi::QgroupCreateArgs { create: 0, id: group }) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Put a group into another one, or take it out. Needs `CAP_SYS_ADMIN`.
pub fn assign(dir: impl AsFd, source: u64, target: u64, yes: bool) -> Result<()> {
    sys::ioctl(dir, abi::QGROUP_ASSIGN, &mut abi::QgroupAssignArgs { assign: yes.into(), src: source, dst: target })
}

/// Put subvolume `id` into a level-1 group of its own number with the same limit, so that subvolumes which are later made
/// inside it are charged too (simple accounting only). A group of that number that is already there is limited if it is ours
/// (`is_ours`), else EEXIST: it is an administrator's. Nothing half-done stays. Needs `CAP_SYS_ADMIN`.
pub fn enclose(dir: impl AsFd, id: u64, limit: Limit) -> Result<()> {
    let group = enclosure(id);
    match create_group(&dir, group) {
        Err(Errno::EXIST) if is_ours(&dir, id)? => limit_group(&dir, group, limit),
        Err(error) => Err(error),
        // The mark first: a group without it that a kill leaves has no limit and no members.
        Ok(()) => mark(&dir, group)
            .and_then(|()| limit_group(&dir, group, limit))
            .and_then(|()| assign(&dir, id, group, true))
            .inspect_err(|_| {
                let _ = assign(&dir, id, group, false);
                let _ = remove_group(&dir, group);
            }),
    }
}

/// Undo `enclose` of subvolume `id`: take its members out of the group, and remove it. `dir` is any directory of the file
/// system. A missing group is fine; EEXIST for one that is not ours. Needs `CAP_SYS_ADMIN`.
pub fn disband(dir: impl AsFd, id: u64) -> Result<()> {
    if !Groups::of(&dir)?.has_enclosure(id) {
        return Ok(());
    }
    if !is_ours(&dir, id)? {
        return Err(Errno::EXIST);
    }
    for member in subvolume::search(&dir, abi::QUOTA_TREE, enclosure(id), abi::QGROUP_RELATION)? {
        match assign(&dir, member.offset, enclosure(id), false) {
            // A deleted subvolume that the kernel has just finished; or a group of an administrator above ours, which
            // keeps it from being removed.
            Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    remove_group(&dir, enclosure(id))
}

/// What `mark` leaves in a field of the limit that the kernel stores and never looks at (`rsv_rfer`): "grootfs1".
const MARK: u64 = u64::from_le_bytes(*b"grootfs1");

/// Mark the group 1/`id` as ours: for who knows that its making was cut short before it had the mark. Needs `CAP_SYS_ADMIN`.
pub fn adopt(dir: impl AsFd, id: u64) -> Result<()> {
    if is_ours(&dir, id)? { Ok(()) } else { mark(dir, enclosure(id)) }
}

fn mark(dir: impl AsFd, group: u64) -> Result<()> {
    let limit = abi::QgroupLimit { flags: abi::LIMIT_RSV_RFER, rsv_rfer: MARK, ..abi::QgroupLimit::zeroed() };
    sys::ioctl(dir, abi::QGROUP_LIMIT, &mut abi::QgroupLimitArgs { id: group, limit })
}

/// Whether `enclose` made the group 1/`id`. Its number does not tell, nor do its members: an administrator may have given the
/// number to a group of its own, numbers of subvolumes only count up, and so a user can come to own subvolume `id`. So it is
/// marked when it is made, which only root can do. Needs `CAP_SYS_ADMIN`.
pub fn is_ours(dir: impl AsFd, id: u64) -> Result<bool> {
    // `struct btrfs_qgroup_limit_item`: flags, max_rfer, max_excl, rsv_rfer, rsv_excl.
    let limit = subvolume::search_one(dir, abi::QUOTA_TREE, 0, abi::QGROUP_LIMIT_ITEM, enclosure(id))?;
    Ok(limit.and_then(|data| data.get(24..32)?.try_into().ok().map(u64::from_le_bytes)) == Some(MARK))
}
