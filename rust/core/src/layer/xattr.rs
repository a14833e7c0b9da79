//! Which extended attributes of an archive are kept, and a hash over them.
//!
//! Kept: `user.*`, file capabilities, access ACLs. Left out: `security.selinux` and its like (they belong to the
//! host's policy), `trusted.*` and `user.overlay.*` (overlay's own, they could fake whiteouts), default ACLs (they
//! would change the modes of files made later).

use crate::error::{Error, Result, printable};
use crate::idmap::IdMaps;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use xxhash_rust::xxh3::Xxh3;

/// Access lists.
pub(super) const ACL: &[u8] = b"system.posix_acl_access";

/// Whether the attribute is applied.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    match name {
        b"security.capability" | ACL => true,
        name => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

/// Set those attributes that are kept.
pub(super) fn set_kept(fd: impl AsFd, attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
    attributes.iter().filter(|(name, _)| is_kept(name)).try_for_each(|(name, value)| set(&fd, name, value))
}

/// Bytes of a file capability with a root id, and of one without (linux/capability.h).
const WITH_ROOT: usize = 24;
const WITHOUT_ROOT: usize = 20;

/// Translate the ids inside of attributes as those of owners: the root id of a file capability (without one it counts for the
/// host's root alone, so the image's gets one), and the named users and groups of an access list.
pub(super) fn translate(attributes: &mut [(Vec<u8>, Vec<u8>)], ids: &IdMaps) -> Result<()> {
    for (name, value) in attributes {
        match (name.as_slice(), value.len()) {
            (b"security.capability", WITHOUT_ROOT | WITH_ROOT) => {
                let inside = value.get(WITHOUT_ROOT..).map_or(0, id_at);
                let (root, _) = ids.owner(inside.into(), 0)?;
                if root != inside {
                    value.truncate(WITHOUT_ROOT);
                    value[3] = 3;
                    value.extend(root.to_le_bytes());
                }
            }
            (ACL, _) => {
                for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
                    let id = id_at(&entry[4..]);
                    let host = match entry[0] {
                        ACL_USER => ids.owner(id.into(), 0)?.0,
                        ACL_GROUP => ids.owner(0, id.into())?.1,
                        _ => continue,
                    };
                    entry[4..].copy_from_slice(&host.to_le_bytes());
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The id at the start of some bytes, little-endian; 0 where there are too few.
fn id_at(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |id| u32::from_le_bytes(*id))
}

/// Name and value together that BTRFS can always hold: an attribute lies in one leaf, and a leaf may have 4 KiB.
const SAFE: usize = 3_900;
/// Free space with which a refusal cannot be for want of it.
const PLENTY: u64 = 16 << 20;

/// Set one attribute on an open file or directory.
fn set(fd: impl AsFd, name: &[u8], value: &[u8]) -> Result<()> {
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
    for name in kept_names(fd)? {
        match rustix::fs::fremovexattr(fd, name.as_slice()) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(error) => return Err(Error::io(format!("removexattr `{}`", printable(&name)), error)),
        }
    }
    Ok(())
}

fn kept_names(fd: impl AsFd) -> Result<Vec<Vec<u8>>> {
    let mut list = vec![0u8; 1 << 16];
    let len = match rustix::fs::flistxattr(fd, list.as_mut_slice()) {
        Ok(len) => len,
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(Error::io("listxattr", error)),
    };
    Ok(list[..len].split(|&b| b == 0).filter(|name| is_kept(name)).map(<[u8]>::to_vec).collect())
}

/// Hash over those attributes of an open file or directory that an archive could have set; `None` where there are none.
pub(crate) fn digest_of(fd: impl AsFd) -> Result<Option<u64>> {
    let mut found = Vec::new();
    for name in kept_names(&fd)? {
        let mut value = vec![0u8; 1 << 16];
        let len = rustix::fs::fgetxattr(&fd, name.as_slice(), value.as_mut_slice())
            .map_err(|e| Error::io(format!("getxattr `{}`", printable(&name)), e))?;
        value.truncate(len);
        found.push((name, value));
    }
    Ok(digest(found.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))))
}

/// The same over attributes that are given; of several with one name the last counts, as setting them would have it.
pub(crate) fn digest<'a>(attributes: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<u64> {
    let sorted: BTreeMap<_, _> = attributes.collect();
    if sorted.is_empty() {
        return None;
    }
    let mut hash = Xxh3::new();
    for (name, value) in sorted {
        for part in [name, &independent(name, value)] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    Some(hash.digest())
}

/// Tags of the named users and groups in an access list.
const ACL_USER: u8 = 0x02;
const ACL_GROUP: u8 = 0x08;

/// The part of a value that is the same seen from every user namespace: the kernel translates the ids in the others.
fn independent<'a>(name: &[u8], value: &'a [u8]) -> Cow<'a, [u8]> {
    match name {
        // Flag and sets (linux/capability.h); the revision depends on whether a root id is given.
        b"security.capability" if value.len() >= 20 => [&[value[0] & 1], &value[4..20]].concat().into(),
        // Version, then tag, permissions and id each (linux/posix_acl_xattr.h). Those of the owner, the mask and all others
        // are in the mode, and change with it.
        ACL if value.len() >= 4 => {
            let entry = |entry: &'a [u8]| if matches!(entry[0], ACL_USER | ACL_GROUP) { &entry[..entry.len().min(4)] } else { &entry[..1] };
            value[..4].iter().chain(value[4..].chunks(8).flat_map(entry)).copied().collect::<Vec<_>>().into()
        }
        _ => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{ACL, is_kept, translate};
    use crate::idmap::{IdMap, IdMaps, Range};

    #[test]
    fn ids_inside_of_attributes_are_translated() {
        let map = |host| IdMap::new(vec![Range { inside: 0, host, size: 1000 }]);
        let ids = IdMaps { uid: map(100_000), gid: map(200_000) };
        let same = IdMaps::default();
        let translated = |name: &[u8], value: &[u8], ids: &IdMaps| {
            let mut attributes = [(name.to_vec(), value.to_vec())];
            translate(&mut attributes, ids).map(|()| attributes[0].1.clone())
        };
        let capability = |revision: u8, root: &[u8]| [&[1, 0, 0, revision], &[7; 16][..], root].concat();
        let of = |id: u32| id.to_le_bytes();
        let name = b"security.capability";
        assert_eq!(translated(name, &capability(2, &[]), &ids).unwrap(), capability(3, &of(100_000)));
        assert_eq!(translated(name, &capability(3, &of(5)), &ids).unwrap(), capability(3, &of(100_005)));
        assert_eq!(translated(name, &capability(2, &[]), &same).unwrap(), capability(2, &[]));
        assert_eq!(translated(name, &capability(3, &of(5)), &same).unwrap(), capability(3, &of(5)));
        assert!(translated(name, &capability(3, &of(1000)), &ids).unwrap_err().to_string().contains("uid 1000 is not covered"));
        let list = |user: u32, group: u32| [&[2, 0, 0, 0, 2, 0, 6, 0][..], &of(user), &[8, 0, 4, 0], &of(group)].concat();
        assert_eq!(translated(ACL, &list(7, 8), &ids).unwrap(), list(100_007, 200_008));
        for short in [&b""[..], b"x", b"\x02\0\0\0\x02"] {
            assert_eq!(translated(ACL, short, &ids).unwrap(), short);
            assert_eq!(translated(name, short, &ids).unwrap(), short);
        }
    }

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
