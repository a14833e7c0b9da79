//! Random stacks of layers whose entries lie below links: what nobody has touched is verified without a finding.
//! `PROPTEST_CASES` says how many.

#![allow(missing_docs)]

mod support;

use groot_core::blob::{Expected, Source};
use groot_core::error::Error;
use groot_core::idmap::{IdMap, IdMaps, Range};
use groot_core::layer::Options;
use groot_core::listing::Target;
use groot_core::record::Place;
use groot_core::unpack::{Job, unpack};
use groot_core::verify::verify;
use proptest::prelude::*;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use support::{Header, end, hardlink, symlink};

/// Names of directories, of links to directories, and of what lies in them.
const FOLDERS: [&str; 9] = ["a", "a/b", "a/b/c", "d", "x", "y", "x/m", "y/b", "d/x"];
const TARGETS: [&str; 8] = ["a", "a/b", "/a/b/c", "y/b", "d", "../d", "nowhere/yet", "."];

#[derive(Debug, Clone)]
enum Entry {
    File(String, u64),
    Directory(&'static str, u64),
    Symlink(&'static str, &'static str),
    Hardlink(String, String),
    Remove(String),
    Opaque(&'static str),
}

impl Entry {
    fn bytes(&self) -> Vec<u8> {
        let timed = |mut header: Header, time: u64| {
            header.octal(136, 12, time);
            header.bytes()
        };
        match self {
            Self::File(name, time) => timed(Header::new(name, b'0', 0), *time),
            Self::Directory(name, time) => timed(Header::new(name, b'5', 0).mode(0o755), *time),
            Self::Symlink(name, target) => symlink(name, target),
            Self::Hardlink(name, target) => hardlink(name, target),
            Self::Remove(name) => Header::new(&marker(name), b'0', 0).bytes(),
            Self::Opaque(name) => Header::new(&format!("{name}/.wh..wh..opq"), b'0', 0).bytes(),
        }
    }
}

fn marker(name: &str) -> String {
    name.rsplit_once('/').map_or_else(|| format!(".wh.{name}"), |(folder, name)| format!("{folder}/.wh.{name}"))
}

fn entry() -> impl Strategy<Value = Entry> {
    let folder = || proptest::sample::select(&FOLDERS);
    let inside = || (folder(), proptest::sample::select(&["n", "o"])).prop_map(|(folder, name)| format!("{folder}/{name}"));
    let time = || 1u64..1_000_000_000;
    prop_oneof![
        4 => (inside(), time()).prop_map(|(name, time)| Entry::File(name, time)),
        3 => (folder(), time()).prop_map(|(name, time)| Entry::Directory(name, time)),
        2 => (proptest::sample::select(&["x", "y", "d", "d/x"]), proptest::sample::select(&TARGETS))
            .prop_map(|(name, target)| Entry::Symlink(name, target)),
        1 => (inside(), inside()).prop_map(|(name, target)| Entry::Hardlink(name, target)),
        2 => prop_oneof![inside(), folder().prop_map(str::to_owned)].prop_map(Entry::Remove),
        1 => folder().prop_map(Entry::Opaque),
    ]
}

/// Apply a layer. False if it is refused: what is there then is thrown away.
fn applied(root: &Path, layer: &[Entry], listing: &Path, ids: &IdMaps) -> bool {
    let mut blob = tempfile::tempfile().unwrap();
    blob.write_all(&layer.iter().flat_map(Entry::bytes).collect::<Vec<_>>()).unwrap();
    blob.write_all(&end()).unwrap();
    blob.rewind().unwrap();
    let folder = || File::open(listing.parent().unwrap()).unwrap().into();
    let name = listing.file_name().unwrap().as_encoded_bytes();
    let (at, temporary) = ((folder(), name.to_vec()), (folder(), b"new".to_vec()));
    let target = Target { place: Place { at, temporary, mode: 0o644, owner: None }, parent: "- -".into(), goes_on: false };
    let options = Options { ids: ids.clone(), listing: Some(target), ..Options::default() };
    let root = File::open(root).unwrap().into();
    let job = Job { source: Source::File(blob), expected: Expected::default(), media_type: String::new(), root, options };
    match unpack(job, &AtomicBool::new(false)) {
        Ok(_) => true,
        Err(Error::Layer(_) | Error::Io { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

proptest! {
    #[test]
    fn no_false_alarm(stack in proptest::collection::vec(proptest::collection::vec(entry(), 1..10), 1..5)) {
        // Like BTRFS, and unlike others, tmpfs gives no inode number twice.
        let base = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = base.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let own = |host| IdMap::new(vec![Range { inside: 0, host, size: 1 }]);
        let ids = IdMaps { uid: own(rustix::process::getuid().as_raw()), gid: own(rustix::process::getgid().as_raw()) };
        let mut listings: Vec<PathBuf> = Vec::new();
        for layer in &stack {
            let listing = base.path().join(format!("{}.listing", listings.len()));
            if !applied(&root, layer, &listing, &ids) {
                break;
            }
            listings.push(listing);
            let listings: Vec<_> = listings.iter().map(|path| (path.display().to_string(), File::open(path).unwrap())).collect();
            let report = verify(&File::open(&root).unwrap().into(), &listings, &ids, &AtomicBool::new(false)).unwrap();
            prop_assert!(report.different == 0, "{:?}", report.told);
        }
    }
}
