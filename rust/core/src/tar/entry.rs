//! What an archive says about one path.

/// The types that layers may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Regular file (typeflags `0`, NUL, `7`, and `S` for old GNU sparse).
    File,
    /// Second name of an earlier file.
    Hardlink,
    /// Symbolic link.
    Symlink,
    /// Directory.
    Directory,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
}

/// Seconds and nanoseconds since the epoch; nanoseconds count upwards also before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Whole seconds.
    pub seconds: i64,
    /// 0 to 999 999 999.
    pub nanos: u32,
}

/// A piece of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}

/// One entry, after all its extension headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name as in the archive; not normalised, never empty, without NUL.
    pub path: Vec<u8>,
    /// Type.
    pub kind: Kind,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Permission bits with setuid, setgid and sticky; type bits of the header are dropped (the typeflag rules).
    pub mode: u32,
    /// Owner as in the archive.
    pub uid: u64,
    /// Group as in the archive.
    pub gid: u64,
    /// Modification time.
    pub mtime: Time,
    /// Size of the file as a reader of it sees it (with holes).
    pub size: u64,
    /// Extended attributes in archive order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether holes have to be kept: the data comes with offsets and does not fill `size`.
    pub sparse: bool,
}
