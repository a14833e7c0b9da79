//! Which extended attributes of an archive are kept.
//!
//! Kept: `user.*`, file capabilities, access ACLs. Left out: `security.selinux` and its like (they belong to the
//! host's policy), `trusted.*` and `user.overlay.*` (overlay's own, they could fake whiteouts), default ACLs (they
//! would change the modes of files made later).

use crate::error::{Error, Result, printable};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::os::fd::AsFd;

/// Whether the attribute is applied.
pub(super) fn is_kept(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" => true,
        name => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

/// Name and value together that BTRFS can always hold: an attribute lies in one leaf, and a leaf may have 4 KiB.
const SAFE: usize = 3_900;
/// Free space with which a refusal cannot be for want of it.
const PLENTY: u64 = 16 << 20;

/// Set one attribute on an open file or directory.
pub(super) fn set(fd: impl AsFd, name: &[u8], value: &[u8]) -> Result<()> {
    match rustix::fs::fsetxattr(&fd, name, value, XattrFlags::empty()) {
        Ok(()) => Ok(()),
        // What the kernel says then would be taken for a full disk.
        Err(Errno::NOSPC) if name.len() + value.len() > SAFE && has_space(&fd) => {
            let text = format!("extended attribute `{}` of {} bytes is too large for the file system", printable(name), value.len());
            Err(Error::Limit(text))
        }
        Err(error) => Err(Error::io(format!("setxattr `{}`", printable(name)), error)),
    }
}

fn has_space(fd: impl AsFd) -> bool {
    rustix::fs::fstatvfs(fd).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) > PLENTY)
}

/// Remove all attributes that an archive could have set, as a new entry for an old directory replaces them.
pub(super) fn clear(fd: impl AsFd) -> Result<()> {
    let fd = fd.as_fd();
    let mut list = vec![0u8; 1 << 16];
    let len = match rustix::fs::flistxattr(fd, list.as_mut_slice()) {
        Ok(len) => len,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(Error::io("listxattr", error)),
    };
    for name in list[..len].split(|&b| b == 0).filter(|name| is_kept(name)) {
        match rustix::fs::fremovexattr(fd, name) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(error) => return Err(Error::io(format!("removexattr `{}`", printable(name)), error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_kept;

    #[test]
    fn policy() {
        for name in ["user.colour", "security.capability", "system.posix_acl_access"] {
            assert!(is_kept(name.as_bytes()), "{name}");
        }
        for name in [
            "user.overlay.opaque",
            "trusted.overlay.opaque",
            "trusted.x",
            "security.selinux",
            "security.ima",
            "system.posix_acl_default",
            "",
        ] {
            assert!(!is_kept(name.as_bytes()), "{name}");
        }
    }
}
