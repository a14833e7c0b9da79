//! Structures and numbers of `linux/btrfs.h` and `linux/btrfs_tree.h`.

#![allow(unsafe_code)]

use crate::sys::Plain;

pub(crate) const QGROUP_INHERIT: u64 = 1 << 2;
pub(crate) const INHERIT_SET_LIMITS: u64 = 1;
pub(crate) const LIMIT_MAX_RFER: u64 = 1;
pub(crate) const LIMIT_MAX_EXCL: u64 = 1 << 1;
pub(crate) const LIMIT_RSV_RFER: u64 = 1 << 2;
pub(crate) const SUBVOL_RDONLY: u64 = 1 << 1;
/// Inode number of every subvolume's root directory.
pub const FIRST_FREE: u64 = 256;

/// In `VolArgsV2`: the name is a subvolume's number.
pub(crate) const SPEC_BY_ID: u64 = 1 << 4;

/// The tree that lists all trees, and the types of its items.
pub(crate) const ROOT_TREE: u64 = 1;
pub(crate) const INODE_ITEM: u32 = 1;
pub(crate) const DIR_ITEM: u32 = 84;
pub(crate) const ROOT_ITEM: u32 = 132;
/// Items of what is to be dropped, in the tree of roots by the ids of deleted subvolumes.
pub(crate) const ORPHAN_ITEM: u32 = 48;
/// Their object: -5.
pub(crate) const ORPHANS: u64 = u64::MAX - 4;
/// Key (subvolume, this, parent subvolume).
pub(crate) const ROOT_BACKREF: u32 = 144;
/// Key (parent subvolume, this, subvolume).
pub(crate) const ROOT_REF: u32 = 156;
/// The directory of the root tree, whose one entry names the default subvolume.
pub(crate) const ROOT_TREE_DIR: u64 = 6;
pub(crate) const QUOTA_TREE: u64 = 8;
/// Keys (group, this, other group), for either direction.
pub(crate) const QGROUP_RELATION: u32 = 246;
/// Key (0, this, group).
pub(crate) const QGROUP_LIMIT_ITEM: u32 = 244;
/// Inode flags of `chattr` (`linux/fs.h`).
pub(crate) const IMMUTABLE: u32 = 0x10;
pub(crate) const APPEND: u32 = 0x20;

pub(crate) const SYNC: u32 = 0x9408;
pub(crate) const FS_INFO: u32 = 0x8400_941f;
pub(crate) const SUBVOL_CREATE_V2: u32 = 0x5000_9418;
pub(crate) const SNAP_CREATE_V2: u32 = 0x5000_9417;
pub(crate) const RESIZE: u32 = 0x5000_9403;
pub(crate) const SNAP_DESTROY: u32 = 0x5000_940f;
pub(crate) const SNAP_DESTROY_V2: u32 = 0x5000_943f;
pub(crate) const CLONE_RANGE: u32 = 0x4020_940d;
pub(crate) const SUBVOL_GETFLAGS: u32 = 0x8008_9419;
pub(crate) const SUBVOL_SETFLAGS: u32 = 0x4008_941a;
pub(crate) const TREE_SEARCH: u32 = 0xd000_9411;
pub(crate) const INO_LOOKUP: u32 = 0xd000_9412;
pub(crate) const INO_LOOKUP_USER: u32 = 0xd000_943e;
pub(crate) const GET_SUBVOL_ROOTREF: u32 = 0xd000_943d;
pub(crate) const GET_SUBVOL_INFO: u32 = 0x81f8_943c;
pub(crate) const QUOTA_CTL: u32 = 0xc010_9428;
pub(crate) const QGROUP_ASSIGN: u32 = 0x4018_9429;
pub(crate) const QGROUP_CREATE: u32 = 0x4010_942a;
pub(crate) const QGROUP_LIMIT: u32 = 0x8030_942b;

pub(crate) const QUOTA_ENABLE: u64 = 1;
pub(crate) const QUOTA_DISABLE: u64 = 2;
pub(crate) const QUOTA_ENABLE_SIMPLE: u64 = 4;

macro_rules! plain {
    ($type:ident, $size:literal, { $($(#[$doc:meta])* $field:ident: $kind:ty,)* }) => {
        #[repr(C)]
        pub(crate) struct $type { $($(#[$doc])* pub $field: $kind,)* }
        // SAFETY: integers and byte arrays only, and the size is the one the ioctl number encodes (checked here).
        unsafe impl Plain for $type {}
        const _: () = assert!(std::mem::size_of::<$type>() == $size);
    };
}

plain!(FsInfo, 1024, {
    max_id: u64,
    num_devices: u64,
    fsid: [u8; 16],
    rest: [u64; 124],
});

plain!(SubvolumeInfo, 504, {
    tree: u64,
    name: [u8; 256],
    parent: u64,
    dir: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    rest: [u64; 22],
});

plain!(CloneRange, 32, {
    source: i64,
    source_offset: u64,
    length: u64,
    target_offset: u64,
});

plain!(VolArgs, 4096, {
    fd: i64,
    name: [u8; 4088],
});

plain!(DestroyById, 4096, {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    /// A union in C, with the name.
    id: u64,
    rest: [u8; 4032],
});

plain!(VolArgsV2, 4096, {
    fd: i64,
    transid: u64,
    flags: u64,
    /// Size and address of a `QgroupInherit` (a union in C).
    inherit_size: u64,
    inherit: u64,
    unused: [u64; 2],
    name: [u8; 4040],
});

plain!(QgroupLimit, 40, {
    flags: u64,
    max_rfer: u64,
    max_excl: u64,
    rsv_rfer: u64,
    rsv_excl: u64,
});

plain!(QgroupInherit, 72, {
    flags: u64,
    num_qgroups: u64,
    num_ref_copies: u64,
    num_excl_copies: u64,
    limit: QgroupLimit,
});

plain!(QgroupLimitArgs, 48, {
    id: u64,
    limit: QgroupLimit,
});

plain!(QgroupCreateArgs, 16, {
    create: u64,
    id: u64,
});

plain!(QgroupAssignArgs, 24, {
    assign: u64,
    src: u64,
    dst: u64,
});

plain!(QuotaCtlArgs, 16, {
    cmd: u64,
    status: u64,
});

plain!(Flags, 8, {
    bits: u64,
});

plain!(InoLookup, 4096, {
    tree: u64,
    object: u64,
    name: [u8; 4080],
});

plain!(InoLookupUser, 4096, {
    dir: u64,
    tree: u64,
    name: [u8; 256],
    path: [u8; 3824],
});

plain!(TreeSearch, 4096, {
    tree: u64,
    min_object: u64,
    max_object: u64,
    min_offset: u64,
    max_offset: u64,
    min_transid: u64,
    max_transid: u64,
    min_type: u32,
    max_type: u32,
    /// In: most items to give; out: how many there are.
    items: u32,
    unused: [u32; 9],
    buffer: [u8; 3992],
});

plain!(RootRef, 16, {
    tree: u64,
    dir: u64,
});

/// As many references as one call gives.
pub(crate) const ROOT_REFS: usize = 255;

#[repr(C)]
pub(crate) struct RootRefs {
    pub min_tree: u64,
    pub refs: [RootRef; ROOT_REFS],
    pub count: u8,
    pub align: [u8; 7],
}
// SAFETY: as above.
unsafe impl Plain for RootRefs {}
const _: () = assert!(std::mem::size_of::<RootRefs>() == 4096);

impl RootRefs {
    /// What the kernel found.
    pub fn found(&self) -> &[RootRef] {
        &self.refs[..ROOT_REFS.min(usize::from(self.count))]
    }

    /// Where to go on when there are more than fit, after a search that began at `asked` (the kernel moves `min_tree` on
    /// itself). `None` where that would lead nowhere: asking again without getting further would never end.
    pub fn next_tree(&self, asked: u64) -> Option<u64> {
        self.found().last()?.tree.checked_add(1).filter(|&next| next > asked)
    }
}

impl InoLookupUser {
    /// The directory that holds the subvolume, as a path below the one that was asked about (empty for that itself), and
    /// the subvolume's name in it. `None` where that is no name.
    pub fn place(&self) -> Option<(&[u8], &[u8])> {
        let (path, name) = (until_nul(&self.path), until_nul(&self.name));
        (!matches!(name, b"" | b"." | b"..") && !name.contains(&b'/')).then_some((path, name))
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len())]
}

/// Results made of arbitrary bytes, for the fuzz target.
#[cfg(fuzzing)]
pub mod fuzzing {
    use super::{InoLookupUser, Plain, ROOT_REFS, RootRef, RootRefs};

    /// Take `bytes` for what the kernel gave, and hold the parsing to what its callers rely on.
    pub fn parse_results(bytes: &[u8]) {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes.get(at * 8 + i).copied().unwrap_or(0)));
        let mut refs = RootRefs::zeroed();
        refs.count = bytes.first().copied().unwrap_or(0);
        refs.min_tree = word(1);
        for (i, reference) in refs.refs.iter_mut().enumerate() {
            *reference = RootRef { tree: word(2 + i * 2), dir: word(3 + i * 2) };
        }
        assert!(refs.found().len() <= ROOT_REFS);
        assert!(refs.next_tree(refs.min_tree).is_none_or(|next| next > refs.min_tree));
        let mut lookup = InoLookupUser::zeroed();
        let mut rest = bytes.iter().copied();
        lookup.name.fill_with(|| rest.next().unwrap_or(0));
        lookup.path.fill_with(|| rest.next().unwrap_or(0));
        if let Some((path, name)) = lookup.place() {
            assert!(!path.contains(&0) && !name.is_empty() && name.len() <= 256 && !name.contains(&b'/') && !name.contains(&0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_nested_subvolumes_are_asked_for_only_when_that_leads_on() {
        let mut refs = RootRefs::zeroed();
        assert_eq!((refs.found().len(), refs.next_tree(0)), (0, None));
        refs.count = 2;
        refs.refs[1].tree = 300;
        assert_eq!((refs.found().len(), refs.next_tree(0)), (2, Some(301)));
        assert_eq!(refs.next_tree(301), None);
        refs.refs[1].tree = u64::MAX;
        assert_eq!(refs.next_tree(301), None);
    }

    #[test]
    fn places_of_nested_subvolumes() {
        let mut lookup = InoLookupUser::zeroed();
        assert_eq!(lookup.place(), None);
        lookup.name[..3].copy_from_slice(b"sub");
        assert_eq!(lookup.place(), Some((&b""[..], &b"sub"[..])));
        lookup.path[..4].copy_from_slice(b"a/b/");
        assert_eq!(lookup.place(), Some((&b"a/b/"[..], &b"sub"[..])));
        lookup.name[..3].copy_from_slice(b"s/b");
        assert_eq!(lookup.place(), None);
        lookup.name[..3].copy_from_slice(b"..\0");
        assert_eq!(lookup.place(), None);
    }
}
