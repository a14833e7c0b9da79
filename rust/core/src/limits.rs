//! Bounds on what one layer may ask of us, each with the attack it stops.

/// Bounds for one layer. The defaults are far above any real image.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Entries in one archive: a layer of empty entries costs us memory and inodes, not its author.
    pub max_entries: u64,
    /// Bytes of a path, as `PATH_MAX`: longer ones cannot be reached by anybody.
    pub max_path: usize,
    /// Bytes of one extension header (PAX, GNU long name): a long name of 2 GiB must not be held in memory.
    pub max_extension: u64,
    /// Extension headers in front of one entry: thousands of them make the reader spin without progress.
    pub max_extensions_per_entry: u32,
    /// Regions of a sparse file (CVE-2025-58183: maps of millions of regions).
    pub max_sparse_regions: usize,
    /// Extended attributes of one entry, as many as fit a leaf several times over.
    pub max_xattrs: usize,
    /// Bytes of the names of one entry's extended attributes: the kernel sets more than 65536 and then lists none. What it adds
    /// itself (labels) needs room, too.
    pub max_xattr_names: usize,
    /// Bytes of one extended attribute's value, the kernel's own bound.
    pub max_xattr_value: usize,
    /// Zero bytes after the end of the archive: writers pad to a record, bombs pad for ever.
    pub max_trailing: u64,
    /// Bytes of file content in one layer; `None` leaves it to the file system and its quota.
    pub max_content: Option<u64>,
    /// Levels of directories that a recursive removal follows; each costs one descriptor.
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 4_000_000,
            max_path: 4096,
            max_extension: 1 << 20,
            max_extensions_per_entry: 8,
            max_sparse_regions: 1 << 18,
            max_xattrs: 1000,
            max_xattr_names: 60 << 10,
            max_xattr_value: 1 << 16,
            max_trailing: 64 << 20,
            max_content: None,
            max_depth: 2048,
        }
    }
}
