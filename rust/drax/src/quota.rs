//! What drax does to quota groups, with the token that `privilege.rs` gives out. The groups themselves are `groot_btrfs::quota`.

use crate::Failure;
use crate::privilege::Raised;
use crate::target::Target;
use groot_btrfs::quota;
use groot_btrfs::subvolume::Limit;
use rustix::io::Errno;

/// Limit one subvolume.
pub fn limit(_: &Raised, target: &Target, limit: Limit) -> Result<(), Failure> {
    quota::limit_group(&target.door, target.id, limit).map_err(limit_failed)
}

/// Limit a subvolume and the group around it, which is made if need be.
pub fn limit_enclosed(raised: &Raised, target: &Target, limit: Limit) -> Result<(), Failure> {
    quota::enclose(&target.door, target.id, limit).map_err(|error| not_ours(error, target).unwrap_or_else(|| limit_failed(error)))?;
    self::limit(raised, target, limit)
}

/// Take the subvolume and those nested in it out of the group around it, and remove the group.
pub fn remove_enclosure(_: &Raised, target: &Target) -> Result<(), Failure> {
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
