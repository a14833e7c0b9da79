//! The only module with `unsafe`: what `rustix` has no safe form for, and the kernel's structures
//! (`linux/btrfs.h`, `linux/btrfs_tree.h`).

#![allow(unsafe_code)]

use rustix::io::{Errno, Result};
use std::os::fd::{AsFd, AsRawFd};

pub const SYNC: u32 = 0x9408;
pub const FS_INFO: u32 = 0x8400_941f;
pub const TREE_SEARCH: u32 = 0xd000_9411;
pub const INO_LOOKUP: u32 = 0xd000_9412;
pub const QGROUP_ASSIGN: u32 = 0x4018_9429;
pub const QGROUP_CREATE: u32 = 0x4010_942a;
pub const QGROUP_LIMIT: u32 = 0x8030_942b;

pub const LIMIT_MAX_RFER: u64 = 1;
pub const LIMIT_MAX_EXCL: u64 = 1 << 1;

/// Memory that may be handed to an ioctl.
///
/// # Safety
/// Only for `repr(C)` types of integers and byte arrays (every bit pattern valid), of exactly the size that the ioctl
/// number encodes.
pub unsafe trait Plain: Sized {
    /// All bytes zero.
    fn zeroed() -> Self {
        // SAFETY: every bit pattern of a `Plain` type is valid, zero included.
        unsafe { std::mem::zeroed() }
    }
}

macro_rules! plain {
    ($type:ident, $size:literal, { $($field:ident: $kind:ty,)* }) => {
        #[repr(C)]
        pub struct $type { $(pub $field: $kind,)* }
        // SAFETY: integers and byte arrays only, and the size is the one the ioctl number encodes (checked here).
        unsafe impl Plain for $type {}
        const _: () = assert!(std::mem::size_of::<$type>() == $size);
    };
}

plain!(FsInfo, 1024, {
    max_id: u64,
    devices: u64,
    fsid: [u8; 16],
    rest: [u64; 124],
});

plain!(InoLookup, 4096, {
    tree: u64,
    object: u64,
    name: [u8; 4080],
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
    items: u32,
    unused: [u32; 9],
    buffer: [u8; 3992],
});

plain!(QgroupLimit, 48, {
    id: u64,
    flags: u64,
    max_rfer: u64,
    max_excl: u64,
    reserved: [u64; 2],
});

plain!(QgroupCreate, 16, {
    create: u64,
    id: u64,
});

plain!(QgroupAssign, 24, {
    assign: u64,
    source: u64,
    target: u64,
});

/// `ioctl(fd, request, argument)` where the kernel reads and writes `argument` in place.
pub fn ioctl<T: Plain>(fd: impl AsFd, request: u32, argument: &mut T) -> Result<()> {
    // SAFETY: `argument` is exclusive, initialised memory of the size that `request` encodes (contract of `Plain`).
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::Ioctl::from(request), std::ptr::from_mut(argument)) };
    done(result)
}

/// An ioctl without an argument.
pub fn ioctl_none(fd: impl AsFd, request: u32) -> Result<()> {
    // SAFETY: the kernel reads and writes nothing of ours.
    done(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::Ioctl::from(request), 0) })
}

/// Close every descriptor from `first` on. Nothing in this process may own one of them.
pub fn close_from(first: u32) -> Result<()> {
    // SAFETY: called before anything is opened, so no `OwnedFd` loses its descriptor.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    done(-i32::from(result < 0))
}

/// Forget the environment.
pub fn clear_environment() {
    // SAFETY: there is one thread, and nothing holds a reference into the environment.
    unsafe { libc::clearenv() };
}

fn done(result: i32) -> Result<()> {
    if result < 0 { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)) } else { Ok(()) }
}
