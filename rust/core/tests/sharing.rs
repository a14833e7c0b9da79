//! A layer that finds its files in other volumes is the same as one that does not, whatever those volumes and their listings have
//! become meanwhile. On a file system that cannot clone, what was found is copied; `tests/integration/test_sharing.py` clones.

#![allow(missing_docs)]

mod support;

use groot_core::blob::{Expected, Source};
use groot_core::layer::{Neighbours, Options, Stats};
use groot_core::listing::{Target, file_name};
use groot_core::record::Place;
use groot_core::unpack::{Job, unpack};
use groot_core::verify::verify;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use support::{end, file};
use tempfile::TempDir;

struct Store {
    base: TempDir,
}

impl Store {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir(base.path().join("meta")).unwrap();
        std::fs::create_dir(base.path().join("volumes")).unwrap();
        Self { base }
    }

    fn open(&self, folder: &str) -> OwnedFd {
        File::open(self.base.path().join(folder)).unwrap().into()
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.base.path().join("volumes").join(name)
    }

    fn neighbours(&self, names: &[&str]) -> Neighbours {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Neighbours { volumes: self.open("volumes"), listings: self.open("meta"), names, budget: 1 << 20 }
    }

    fn unpack(&self, name: &str, files: &Files, neighbours: Option<Neighbours>) -> Stats {
        std::fs::create_dir(self.volume(name)).unwrap();
        let mut blob = tempfile::tempfile().unwrap();
        for (name, content) in files {
            blob.write_all(&file(name, content)).unwrap();
        }
        blob.write_all(&end()).unwrap();
        blob.rewind().unwrap();
        let place = Place {
            at: (self.open("meta"), file_name(name).into_bytes()),
            temporary: (self.open("meta"), b"new".to_vec()),
            mode: 0o644,
            owner: None,
        };
        let listing = Some(Target { place, parent: "- -".into(), goes_on: false });
        let options = Options { ids: own_ids(), listing, neighbours, ..Options::default() };
        let root = File::open(self.volume(name)).unwrap().into();
        let job = Job { source: Source::File(blob), expected: Expected::default(), media_type: String::new(), root, options };
        unpack(job, &AtomicBool::new(false)).unwrap().stats
    }
}

type Files = BTreeMap<String, Vec<u8>>;

fn own_ids() -> groot_core::idmap::IdMaps {
    use groot_core::idmap::{IdMap, IdMaps, Range};
    let own = |host| IdMap::new(vec![Range { inside: 0, host, size: 1 }]);
    IdMaps { uid: own(rustix::process::getuid().as_raw()), gid: own(rustix::process::getgid().as_raw()) }
}

fn found(root: &Path) -> Files {
    let mut files = Files::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                files.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Content of every size that is treated in its own way.
fn content() -> impl Strategy<Value = Content> {
    let size = prop_oneof![0..5000usize, 4096..=4096usize, (1 << 20) - 1..(1 << 20) + 2usize, (1 << 20)..(2usize << 20)];
    (size, 0..4u8).prop_map(|(size, seed)| Content { size, seed })
}

#[derive(Debug, Clone)]
struct Content {
    size: usize,
    seed: u8,
}

impl Content {
    fn bytes(&self) -> Vec<u8> {
        (0..self.size).map(|at| (at as u8).wrapping_mul(31) ^ self.seed).collect()
    }
}

fn files() -> impl Strategy<Value = BTreeMap<String, Content>> {
    proptest::collection::btree_map("[a-d]{1,2}/[a-d]", content(), 0..8)
}

fn all_bytes(files: &BTreeMap<String, Content>) -> Files {
    files.iter().map(|(name, content)| (name.clone(), content.bytes())).collect()
}

/// What happens to a file of a volume after it was unpacked.
#[derive(Debug, Clone)]
enum Change {
    Byte(usize),
    Cut(usize),
    Grown,
    Gone,
    Link,
    Directory,
    Pipe,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<usize>().prop_map(Change::Byte),
        any::<usize>().prop_map(Change::Cut),
        Just(Change::Grown),
        Just(Change::Gone),
        Just(Change::Link),
        Just(Change::Directory),
        Just(Change::Pipe),
    ]
}

fn apply(change: &Change, path: &Path, outside: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    std::fs::write(outside, &bytes).unwrap();
    match change {
        Change::Byte(at) if !bytes.is_empty() => {
            let at = at % bytes.len();
            bytes[at] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }
        Change::Cut(at) => std::fs::write(path, &bytes[..at % (bytes.len() + 1)]).unwrap(),
        Change::Grown => std::fs::write(path, [bytes, vec![0]].concat()).unwrap(),
        Change::Byte(_) | Change::Gone => std::fs::remove_file(path).unwrap(),
        other => {
            std::fs::remove_file(path).unwrap();
            match other {
                Change::Link => std::os::unix::fs::symlink(outside, path).unwrap(),
                Change::Directory => std::fs::create_dir(path).unwrap(),
                _ => rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap(),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_layer_is_what_its_archive_says(
        lower in files(),
        other in files(),
        fresh in files(),
        kept in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), change()), 0..4),
    ) {
        let store = Store::new();
        let (lower, other) = (all_bytes(&lower), all_bytes(&other));
        store.unpack("aa", &lower, None);
        store.unpack("bb", &other, None);
        // Some of what is there already, under other names, and something else.
        let known: Vec<_> = lower.values().chain(other.values()).cloned().collect();
        let mut wanted = all_bytes(&fresh);
        if !known.is_empty() {
            for (number, content) in known[..=kept.index(known.len())].iter().enumerate() {
                wanted.insert(format!("k/{number}"), content.clone());
            }
        }
        let paths: Vec<_> = ["aa", "bb"].iter().flat_map(|name| found(&store.volume(name)).into_keys().map(|path| store.volume(name).join(path))).collect();
        for (which, change) in &changes {
            if let Some(path) = paths.get(which.index(paths.len().max(1))).filter(|path| path.is_file() && !path.is_symlink()) {
                apply(change, path, &store.base.path().join("outside"));
            }
        }
        let before: Vec<_> = ["aa", "bb"].iter().map(|name| tree_of(&store.volume(name))).collect();
        let shared = store.unpack("cc", &wanted, Some(store.neighbours(&["bb", "aa", "none"])));
        let plain = store.unpack("dd", &wanted, None);
        prop_assert_eq!(found(&store.volume("cc")), wanted);
        prop_assert_eq!(Stats { cloned: BTreeMap::new(), ..shared }, plain);
        let listing = File::open(store.base.path().join("meta").join(file_name("cc"))).unwrap();
        let report = verify(&store.open("volumes/cc"), &[("cc".into(), listing)], &own_ids(), &AtomicBool::new(false)).unwrap();
        prop_assert_eq!((report.different, report.told), (0, Vec::new()));
        let after: Vec<_> = ["aa", "bb"].iter().map(|name| tree_of(&store.volume(name))).collect();
        prop_assert_eq!(before, after);
    }

    #[test]
    fn any_listing_is_survived(cut in any::<prop::sample::Index>(), flip in any::<prop::sample::Index>(), content in content()) {
        let store = Store::new();
        let files = Files::from([("a/a".to_owned(), content.bytes()), ("b".to_owned(), content.bytes())]);
        store.unpack("aa", &files, None);
        let path = store.base.path().join("meta").join(file_name("aa"));
        let mut bytes = std::fs::read(&path).unwrap();
        let at = flip.index(bytes.len());
        bytes[at] ^= 0x10;
        bytes.truncate(cut.index(2 * bytes.len()) + 1);
        std::fs::write(&path, bytes).unwrap();
        store.unpack("cc", &files, Some(store.neighbours(&["aa"])));
        prop_assert_eq!(found(&store.volume("cc")), files);
    }
}

/// Names and content, without opening what would wait.
fn tree_of(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut tree = BTreeMap::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                waiting.push(entry.path());
            }
            tree.insert(entry.path(), kind.is_file().then(|| std::fs::read(entry.path()).unwrap()));
        }
    }
    tree
}

/// Two contents with one hash: the bytes decide.
#[test]
fn a_listing_that_lies_brings_nothing_in() {
    let store = Store::new();
    let (right, wrong) = (vec![7; 5000], vec![8; 5000]);
    store.unpack("aa", &Files::from([("f".to_owned(), right.clone())]), None);
    // The listing says of the file what another would have.
    std::fs::write(store.volume("aa").join("f"), &wrong).unwrap();
    let wanted = Files::from([("g".to_owned(), right)]);
    let stats = store.unpack("cc", &wanted, Some(store.neighbours(&["aa"])));
    assert_eq!((found(&store.volume("cc")), stats.cloned), (wanted, BTreeMap::new()));
}

/// Listings that name each other as what they were built on.
#[test]
fn a_circle_of_listings_ends() {
    let store = Store::new();
    let files = Files::from([("a/f".to_owned(), vec![1; 9000])]);
    store.unpack("aa", &files, None);
    let path = |name| store.base.path().join("meta").join(file_name(name));
    let bytes = std::fs::read(path("aa")).unwrap();
    let start = bytes.iter().position(|&b| b == b'\n').unwrap();
    let ident = std::str::from_utf8(&bytes[..start]).unwrap().split(' ').nth(2).unwrap().to_owned();
    for (name, parent) in [("aa", "bb"), ("bb", "aa"), ("cc", "cc")] {
        std::fs::write(path(name), [format!("groot-listing 1 {ident} {parent} {ident}").as_bytes(), &bytes[start..]].concat()).unwrap();
    }
    store.unpack("dd", &files, Some(store.neighbours(&["aa", "bb", "cc"])));
    assert_eq!(found(&store.volume("dd")), files);
}
