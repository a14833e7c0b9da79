//! A store on an ordinary file system: names, records, locks and reservations need no BTRFS.

use groot_store::layout::{Options, Place};
use groot_store::records::{Dependencies, Image, VolumeSize};
use groot_store::{Kind, Nobody, Store};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::AtomicBool;

fn make(path: &Path) {
    for place in Place::ALL {
        std::fs::create_dir_all(path.join(place.path())).unwrap();
    }
    std::fs::write(path.join("meta/namespace.json"), "{\"uid-mappings\":[],\"gid-mappings\":[]}").unwrap();
}

fn open(path: &Path) -> Store {
    Store::open(path, Options::default()).unwrap()
}

struct Temporary {
    dir: tempfile::TempDir,
    store: Store,
}

fn temporary() -> Temporary {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let store = open(dir.path());
    Temporary { dir, store }
}

fn set(names: &[&str]) -> HashSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn a_store_is_what_has_all_folders_and_no_links() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |text: &str| {
        let error = Store::open(dir.path(), Options::default()).err().unwrap();
        assert!(error.kind == Kind::Store && error.text.contains(text), "{error}");
    };
    refused("not initialized");
    make(dir.path());
    assert!(Store::open(dir.path(), Options::default()).is_ok());
    let elsewhere = tempfile::tempdir().unwrap();
    for place in [Place::Images, Place::Volumes, Place::Locks, Place::Temporary, Place::Dependencies] {
        let path = dir.path().join(place.path());
        std::fs::remove_dir(&path).unwrap();
        symlink(elsewhere.path(), &path).unwrap();
        refused("is a symbolic link");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
    }
    let file = dir.path().join("meta/namespace.json");
    std::fs::rename(&file, dir.path().join("other")).unwrap();
    symlink(dir.path().join("other"), &file).unwrap();
    refused("is a symbolic link");
}

#[test]
fn a_folder_that_becomes_a_link_is_not_followed() {
    let Temporary { dir, store } = temporary();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("x.lock"), "secret").unwrap();
    std::fs::remove_dir(dir.path().join("locks")).unwrap();
    symlink(elsewhere.path(), dir.path().join("locks")).unwrap();
    let error = store.try_lock("new", false).unwrap_err();
    assert!(error.text.contains("symbolic link"), "{error}");
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    // What was open before stays what it was.
    assert!(store.write_size("a", VolumeSize { layer: 1, ..VolumeSize::default() }).is_ok());
    std::fs::rename(dir.path().join("meta"), dir.path().join("meta.old")).unwrap();
    symlink(elsewhere.path(), dir.path().join("meta")).unwrap();
    store.write_size("b", VolumeSize { layer: 1, ..VolumeSize::default() }).unwrap();
    assert!(dir.path().join("meta.old/volume-b").exists());
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}

#[test]
fn what_is_no_lock_file_is_not_taken_for_one() {
    let Temporary { dir, store } = temporary();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let locks = dir.path().join("locks");
    symlink(&secret, locks.join("link.lock")).unwrap();
    std::fs::hard_link(&secret, locks.join("hard.lock")).unwrap();
    std::fs::create_dir(locks.join("dir.lock")).unwrap();
    let fifo = locks.join("fifo.lock");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    for key in ["link", "hard", "dir", "fifo"] {
        let error = store.try_lock(key, false).unwrap_err();
        assert!(error.kind == Kind::Store && error.text.contains(&format!("{key}.lock")), "{error}");
    }
    assert_eq!(std::fs::read(&secret).unwrap(), b"secret");
}

#[test]
fn one_lock_excludes_another() {
    let Temporary { dir, store } = temporary();
    let held = store.try_lock("a", false).unwrap().unwrap();
    assert!(store.try_lock("a", true).unwrap().is_none());
    assert!(store.observe("a").unwrap().is_none());
    held.share();
    assert!(store.try_lock("a", true).unwrap().is_some());
    drop(held);
    assert!(store.try_lock("a", false).unwrap().is_some());
    assert!(store.observe("nothing").unwrap().is_some() && !dir.path().join("locks/nothing.lock").exists());
    let _held = store.try_lock("a", false).unwrap().unwrap();
    let cancel = AtomicBool::new(false);
    let error = store.lock("a", false, std::time::Duration::ZERO, &cancel).unwrap_err();
    assert_eq!(error.kind, Kind::LockTimeout);
    assert!(error.text.starts_with("timed out waiting for the 'a' file lock after '0s'"), "{error}");
    cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(store.lock("a", false, std::time::Duration::from_secs(60), &cancel).unwrap_err().kind, Kind::Cancelled);
}

#[test]
fn records_are_read_once_and_again_when_replaced() {
    let Temporary { dir, store } = temporary();
    let write = |id: &str, chain: &[&str]| {
        store.write_dependencies(id.as_bytes(), &chain.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
    };
    write("i", &["a", "b"]);
    let mut dependencies = Dependencies::default();
    assert_eq!(dependencies.volumes(&store).unwrap(), set(&["a", "b"]));
    for n in 0..50 {
        let name = format!("c{n}");
        write("i", &[&name]);
        assert_eq!(dependencies.volumes(&store).unwrap(), set(&[&name]));
    }
    write("j", &["b"]);
    std::fs::write(dir.path().join("meta/dependencies/image:k.json"), "not JSON").unwrap();
    assert_eq!(dependencies.volumes(&store).unwrap(), set(&["b", "c49"]));
    store.remove_dependencies(b"j").unwrap();
    assert_eq!(dependencies.volumes(&store).unwrap(), set(&["c49"]));
}

#[test]
fn an_image_that_came_after_the_first_look_keeps_its_volumes() {
    let Temporary { dir, store } = temporary();
    for name in ["one", "unused"] {
        std::fs::create_dir(dir.path().join("volumes").join(name)).unwrap();
    }
    let mut dependencies = Dependencies::default();
    assert!(dependencies.volumes(&store).unwrap().is_empty());
    store.write_dependencies(b"new", &["one".to_owned()]).unwrap();
    for name in ["one", "unused"] {
        store.doom(name, &mut dependencies, &Nobody).unwrap();
    }
    let mut names: Vec<_> = std::fs::read_dir(dir.path().join("volumes")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["gc.unused", "one"]);
}

#[test]
fn a_volume_that_somebody_holds_is_not_doomed() {
    let Temporary { dir, store } = temporary();
    std::fs::create_dir(dir.path().join("volumes/held")).unwrap();
    let _held = open(dir.path()).try_lock("held", true).unwrap().unwrap();
    store.doom("held", &mut Dependencies::default(), &Nobody).unwrap();
    assert!(dir.path().join("volumes/held").exists());
}

#[test]
fn sources_of_volumes_that_are_gone_are_forgotten() {
    let Temporary { dir, store } = temporary();
    let image = Image { chain_ids: vec!["a".into()], config: b"{}".to_vec(), ..Image::default() };
    store.write_source("kept", &image).unwrap();
    store.write_source("gone", &Image { chain_ids: vec!["b".into()], ..image.clone() }).unwrap();
    std::fs::write(dir.path().join("meta/sources/damaged.json"), "{").unwrap();
    assert_eq!(store.damaged_sources(), [b"damaged.json"]);
    assert_eq!(store.recall("kept"), Some(image));
    store.prune_sources(&BTreeSet::from(["a".to_owned()])).unwrap();
    assert_eq!(store.read_source("kept"), ["a"]);
    assert!(store.read_source("gone").is_empty() && store.damaged_sources().is_empty());
}

#[test]
fn a_record_that_is_linked_from_elsewhere_reads_as_missing() {
    let Temporary { dir, store } = temporary();
    let outside = dir.path().join("outside");
    std::fs::write(&outside, "{\"Size\": 7}").unwrap();
    std::fs::hard_link(&outside, dir.path().join("meta/volume-hard")).unwrap();
    symlink(&outside, dir.path().join("meta/volume-soft")).unwrap();
    assert_eq!((store.read_size("hard"), store.read_size("soft")), (None, None));
    store.write_size("soft", VolumeSize { layer: 3, tree: Some(4), unvalidated: true, ..VolumeSize::default() }).unwrap();
    assert_eq!(store.read_size("soft"), Some(VolumeSize { layer: 3, tree: Some(4), unvalidated: true, ..VolumeSize::default() }));
    assert_eq!(std::fs::read(&outside).unwrap(), b"{\"Size\": 7}");
}

fn anything() -> impl Strategy<Value = Vec<u8>> {
    let json = prop::sample::select(vec![
        "null",
        "[]",
        "{}",
        "[\"a\"]",
        "[1]",
        "{\"Size\":1}",
        "{\"Size\":-1}",
        "{\"Size\":1e99}",
        "{\"Size\":\"1\"}",
        "{\"Size\":18446744073709551616,\"TreeSize\":2}",
        "{\"Size\":5,\"TreeSize\":-5}",
        "\"x\"",
        "[[[[]]]]",
    ]);
    prop_oneof![prop::collection::vec(any::<u8>(), 0..100), json.prop_map(|text| text.as_bytes().to_vec())]
}

proptest! {
    #[test]
    fn any_bytes_are_a_record_or_missing(body in anything()) {
        let Temporary { dir, store } = temporary();
        std::fs::write(dir.path().join("meta/volume-a"), &body).unwrap();
        std::fs::write(dir.path().join("meta/dependencies/image:i.json"), &body).unwrap();
        let size = store.read_size("a");
        let expected = size.map_or(0, |size| size.tree.unwrap_or(size.layer));
        prop_assert_eq!(store.tree_size(&["a".to_owned()]), expected);
        let found = store.read_dependencies(b"i").unwrap_or_default();
        let expected: HashSet<String> = found.into_iter().collect();
        prop_assert_eq!(Dependencies::default().volumes(&store).unwrap(), expected);
    }
}
