//! What drax does to quota groups, with the token that `privilege.rs` gives out. The groups themselves are `groot_btrfs::quota`.

use crate::Failure;
use crate::privilege::Raised;
use crate::target::Target;
use groot_btrfs::quota::{self, Groups};
use groot_btrfs::subvolume::Limit;
use rustix::io::Errno;

/// On a store's directory: by whom limits that are set may be changed. Only root can write attributes of this kind, or read them, so it
/// is not looked at before the privilege is there.
const LIMITS_ATTRIBUTE: &str = "trusted.grootfs.limits";

fn is_roots_alone(_: &Raised, target: &Target) -> Result<bool, Failure> {
    let Some(store) = &target.store else { return Ok(false) };
    let mut value = [0; 16];
    match rustix::fs::fgetxattr(store, LIMITS_ATTRIBUTE, &mut value) {
        Ok(length) => Ok(&value[..length] == b"root"),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(error) => Err(Failure::os("looking who may change limits", error)),
    }
}

/// Refuse to change a limit, where root keeps that to itself. A first one, and the same once more, is no change.
fn may_limit(raised: &Raised, target: &Target, limit: Limit) -> Result<(), Failure> {
    if !is_roots_alone(raised, target)? {
        return Ok(());
    }
    let groups = Groups::of(&target.door).map_err(|e| Failure::os("looking at the file system", e))?;
    let wanted = if limit.exclusive { (None, Some(limit.bytes)) } else { (Some(limit.bytes), None) };
    let is_same = [0, 1]
        .into_iter()
        .all(|level| matches!(groups.limits(level, target.id), (None, None)) || groups.limits(level, target.id) == wanted);
    if is_same { Ok(()) } else { Err(REFUSED.into()) }
}

const REFUSED: &str = "limits that are set in this store may be changed by root only";

/// Limit one subvolume.
pub fn limit(raised: &Raised, target: &Target, limit: Limit) -> Result<(), Failure> {
    may_limit(raised, target, limit)?;
    quota::limit_group(&target.door, target.id, limit).map_err(limit_failed)
}

/// Limit a subvolume and the group around it, which is made if need be.
pub fn limit_enclosed(raised: &Raised, target: &Target, limit: Limit) -> Result<(), Failure> {
    may_limit(raised, target, limit)?;
    quota::enclose(&target.door, target.id, limit).map_err(|error| not_ours(error, target).unwrap_or_else(|| limit_failed(error)))?;
    self::limit(raised, target, limit)
}

/// Take the subvolume and those nested in it out of the group around it, and remove the group.
pub fn remove_enclosure(raised: &Raised, target: &Target) -> Result<(), Failure> {
    if is_roots_alone(raised, target)? {
        return Err(REFUSED.into());
    }
    quota::disband(&target.door, target.id)
        .map_err(|error| not_ours(error, target).unwrap_or_else(|| Failure::os("unable to destroy quota group", error)))
}

/// The number of the group is an administrator's.
fn not_ours(error: Errno, target: &Target) -> Option<Failure> {
    (error == Errno::EXIST).then(|| Failure::from(format!("quota group 1/{} was not made by drax", target.id)))
}

/// Why a limit could not be set.
pub fn limit_failed(error: Errno) -> Failure {
    if error == Errno::NOTCONN { quota_off() } else { Failure::os("unable to limit requested quota group", error) }
}

/// What to say when nothing is accounted.
pub fn quota_off() -> Failure {
    "unable to limit requested quota group: quota not enabled".into()
}
