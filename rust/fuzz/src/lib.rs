//! What the fuzz targets share: archives made from arbitrary bytes, a reader that holds the parser to its promises, and
//! a place to unpack in, beside a tree that nothing may touch.

use groot_core::idmap::{IdMap, IdMaps, Range};
use groot_core::layer::{Extractor, Options, Stats};
use groot_core::limits::Limits;
use groot_core::tar::{BLOCK, Entry, Event, TarReader};
use groot_core::{Error, Result};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Bounds small enough that the fuzzer reaches them.
pub fn limits() -> Limits {
    Limits {
        max_entries: 200,
        max_path: 600,
        max_extension: 4096,
        max_extensions_per_entry: 4,
        max_sparse_regions: 40,
        max_xattrs: 4,
        max_xattr_names: 400,
        max_xattr_value: 64,
        max_trailing: 4096,
        max_content: Some(1 << 20),
        max_depth: 12,
    }
}

/// Take choices from the front of arbitrary bytes; zeros when they are used up.
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// One of `values`.
    pub fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[usize::from(self.byte()) % values.len()]
    }

    /// Up to `most` bytes.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let len = usize::from(self.byte()).min(most).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    /// A number of any size: small ones often, the largest too.
    pub fn number(&mut self) -> u64 {
        let len = usize::from(self.byte() % 9).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken.iter().fold(0, |n, &byte| n << 8 | u64::from(byte))
    }
}

/// Make the checksum of every block that says it is a header right: a mutation would break it, and then nothing after
/// the check is ever reached.
pub fn seal(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            checksum(block);
        }
    }
}

fn checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A header block with a right checksum.
pub fn header(name: &[u8], flag: u8, size: u64, link: &[u8], mode: u32, owner: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, width: usize, bytes: &[u8]| block[at..at + bytes.len().min(width)].copy_from_slice(&bytes[..bytes.len().min(width)]);
    put(0, 100, name);
    put(100, 8, format!("{:07o}\0", mode & 0o7777).as_bytes());
    put(108, 8, format!("{:07o}\0", owner & 0o777_7777).as_bytes());
    put(116, 8, b"0000000\0");
    put(124, 12, format!("{:011o}\0", size & 0o777_7777_7777).as_bytes());
    put(136, 12, b"00000000001\0");
    put(156, 1, &[flag]);
    put(157, 100, link);
    put(257, 8, b"ustar\x0000");
    checksum(&mut block);
    block
}

/// Append a header and its body, padded to whole blocks.
pub fn push(archive: &mut Vec<u8>, name: &[u8], flag: u8, body: &[u8], link: &[u8], mode: u32, owner: u64) {
    archive.extend_from_slice(&header(name, flag, body.len() as u64, link, mode, owner));
    archive.extend_from_slice(body);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}

/// One PAX record.
pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} ").as_bytes(), key, b"=", value, b"\n"].concat()
}

/// An entry with its content at offsets.
pub type Read = Vec<(Entry, Vec<(u64, Vec<u8>)>)>;

/// Read an archive in pieces of this size, and hold the reader to what it promises about its events.
pub fn read(archive: &[u8], piece: usize) -> std::result::Result<Read, String> {
    let mut reader = TarReader::new(limits());
    let mut read: Read = Vec::new();
    let mut open = false;
    for mut input in archive.chunks(piece) {
        while let Some(event) = reader.next(&mut input).map_err(|e| refusal(&e))? {
            match event {
                Event::Entry(entry) => {
                    assert!(!open, "an entry began before the last one ended");
                    assert!(!entry.path.is_empty() && !entry.path.contains(&0) && entry.path.len() <= limits().max_path);
                    assert!(!entry.link.contains(&0) && entry.mode & !0o7777 == 0 && entry.mtime.nanos < 1_000_000_000);
                    assert!(entry.xattrs.len() <= limits().max_xattrs);
                    open = true;
                    read.push((*entry, Vec::new()));
                }
                Event::Data { offset, bytes } => {
                    assert!(open && !bytes.is_empty());
                    let (entry, data) = read.last_mut().expect("an entry is open");
                    let end = offset.checked_add(bytes.len() as u64).expect("content beyond all sizes");
                    assert!(end <= entry.size, "content beyond the size of the file");
                    // Pieces that follow each other are one: how they were cut does not matter.
                    match data.last_mut() {
                        Some((at, last)) if *at + last.len() as u64 == offset => last.extend_from_slice(bytes),
                        Some((at, last)) => {
                            assert!(*at + (last.len() as u64) < offset, "content overlaps");
                            data.push((offset, bytes.to_vec()));
                        }
                        None => data.push((offset, bytes.to_vec())),
                    }
                }
                Event::End => {
                    assert!(open);
                    open = false;
                    let (entry, data) = read.last().expect("an entry is open");
                    let stored: u64 = data.iter().map(|(_, bytes)| bytes.len() as u64).sum();
                    assert!(entry.sparse || stored == entry.size, "content is not as long as the file");
                }
            }
        }
        assert!(input.is_empty(), "input was left over");
    }
    reader.finish().map_err(|e| refusal(&e))?;
    assert!(!open, "the last entry did not end");
    Ok(read)
}

/// What a person reads. A bad archive is refused as such and fits on one line.
fn refusal(error: &Error) -> String {
    assert!(matches!(error, Error::Layer(_) | Error::Limit(_)), "{error:?}");
    one_line(error)
}

fn one_line(error: &Error) -> String {
    let text = error.to_string();
    assert!(!text.starts_with("internal error") && !text.contains(|c: char| c.is_control()), "{text:?}");
    text
}

/// Read whole and in pieces: it has to come to the same.
pub fn read_both_ways(archive: &[u8], piece: usize) -> std::result::Result<Read, String> {
    let whole = read(archive, usize::MAX);
    assert_eq!(whole, read(archive, piece.max(1)), "pieces of {piece} bytes give something else");
    whole
}

/// Everything about a path that may not change.
type Look = (u32, u32, u32, u64, (i64, i64), (i64, i64), Vec<u8>);

/// A directory to unpack in, and beside it one that no layer may touch. Their names are short and known to the attacker:
/// `/ROOT/../outside` and the absolute path in `outside`.
pub struct Place {
    base: tempfile::TempDir,
    before: BTreeMap<PathBuf, Look>,
}

impl Place {
    /// Make both.
    pub fn new() -> Self {
        let base = tempfile::tempdir().expect("a temporary directory");
        let outside = base.path().join("outside");
        std::fs::create_dir(&outside).expect("mkdir");
        std::fs::create_dir(outside.join("a")).expect("mkdir");
        std::fs::write(outside.join("victim"), b"alive").expect("write");
        std::fs::write(outside.join("a/b"), b"alive").expect("write");
        symlink("victim", outside.join("link")).expect("symlink");
        std::fs::set_permissions(outside.join("victim"), PermissionsExt::from_mode(0o4711)).expect("chmod");
        rustix::process::umask(rustix::fs::Mode::empty());
        let mut place = Self { base, before: BTreeMap::new() };
        place.before = look_below(&place.outside());
        place.clear();
        place
    }

    /// The tree that must stay.
    pub fn outside(&self) -> PathBuf {
        self.base.path().join("outside")
    }

    /// The directory to unpack in.
    pub fn root(&self) -> PathBuf {
        self.base.path().join("root")
    }

    /// An open handle of it.
    pub fn open(&self) -> OwnedFd {
        std::fs::File::open(self.root()).expect("open the root").into()
    }

    /// Start with an empty root.
    pub fn clear(&self) {
        if self.root().exists() {
            std::fs::remove_dir_all(self.root()).expect("remove the root");
        }
        std::fs::create_dir(self.root()).expect("mkdir");
        // As a fresh volume: what no layer describes must not depend on when it was unpacked.
        let epoch = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        std::fs::File::open(self.root()).and_then(|root| root.set_times(epoch)).expect("set the time of the root");
    }

    /// Apply one archive as a layer.
    pub fn apply(&self, archive: &[u8]) -> Result<Stats> {
        let options = Options { ids: ids(), limits: limits(), ..Options::default() };
        let mut extractor = Extractor::new(self.open(), options)?;
        let mut reader = TarReader::new(limits());
        let mut input = archive;
        while let Some(event) = reader.next(&mut input)? {
            match event {
                Event::Entry(entry) => extractor.begin(entry)?,
                Event::Data { offset, bytes } => extractor.data(offset, bytes.to_vec().into())?,
                Event::End => extractor.end()?,
            }
        }
        reader.finish()?;
        extractor.finish()
    }

    /// Apply, and insist that a failure is one line.
    pub fn try_apply(&self, archive: &[u8]) -> Option<Stats> {
        self.apply(archive).map_err(|error| one_line(&error)).ok()
    }

    /// The tree in the root: what a path is, without times of change.
    pub fn tree(&self) -> BTreeMap<PathBuf, Look> {
        let mut tree = look_below(&self.root());
        for look in tree.values_mut() {
            look.5 = (0, 0);
        }
        tree
    }

    /// Nothing outside was touched, and nothing new is beside the root.
    pub fn check(&self) {
        assert_eq!(look_below(&self.outside()), self.before, "something outside was changed");
        assert_eq!(std::fs::read_dir(self.base.path()).expect("readdir").count(), 2, "something new is beside the root");
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

/// All ids become ours, so that it works for any user.
pub fn ids() -> IdMaps {
    let own = |host| IdMap::new(vec![Range { inside: 0, host, size: 1 }]);
    IdMaps { uid: own(rustix::process::geteuid().as_raw()), gid: own(rustix::process::getegid().as_raw()) }
}

fn look_below(top: &Path) -> BTreeMap<PathBuf, Look> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = top.join(&path);
        let info = full.symlink_metadata().expect("lstat");
        let content = if info.is_symlink() {
            std::fs::read_link(&full).expect("readlink").as_os_str().as_bytes().to_vec()
        } else if info.is_file() && info.len() <= 1 << 16 {
            std::fs::read(&full).expect("read")
        } else {
            Vec::new()
        };
        if info.is_dir() {
            for entry in std::fs::read_dir(&full).expect("readdir") {
                todo.push(path.join(entry.expect("readdir").file_name()));
            }
        }
        let size = if info.is_dir() { 0 } else { info.len() };
        let look = (info.mode(), info.uid(), info.gid(), size, (info.mtime(), info.mtime_nsec()), (info.ctime(), info.ctime_nsec()), content);
        found.insert(path, look);
    }
    found
}
