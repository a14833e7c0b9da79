//! Layers applied to plain directories: no BTRFS and no privilege needed. The hostile ones run again through the command
//! line in `tests/security`.

#![allow(missing_docs)]

mod support;

use groot_core::blob::{Expected, Source};
use groot_core::error::{Error, Result};
use groot_core::layer::{Options, Stats};
use groot_core::listing::Target;
use groot_core::unpack::{Job, unpack};
use groot_core::verify::{Report, verify};
use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink as link};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use support::{Header, dir, end, file, hardlink, pax, symlink};
use tempfile::TempDir;

/// A root to unpack into, with a directory beside it that must stay as it is.
struct Place {
    _base: TempDir,
    root: PathBuf,
    outside: PathBuf,
}

impl Place {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let (root, outside) = (base.path().join("root"), base.path().join("outside"));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("target"), "untouched").unwrap();
        Self { root, outside, _base: base }
    }

    fn apply(&self, parts: &[Vec<u8>]) -> Result<Stats> {
        self.apply_with(parts, Options { ids: own_ids(), ..Options::default() })
    }

    fn apply_with(&self, parts: &[Vec<u8>], options: Options) -> Result<Stats> {
        let mut blob = tempfile::tempfile().unwrap();
        blob.write_all(&parts.concat()).unwrap();
        blob.write_all(&end()).unwrap();
        blob.rewind().unwrap();
        let root = std::fs::File::open(&self.root).unwrap().into();
        let job = Job { source: Source::File(blob), expected: Expected::default(), media_type: String::new(), root, options };
        let result = unpack(job, &AtomicBool::new(false)).map(|report| report.stats);
        assert_eq!(std::fs::read_to_string(self.outside.join("target")).unwrap(), "untouched");
        assert_eq!(std::fs::read_dir(&self.outside).unwrap().count(), 1);
        assert_eq!(std::fs::metadata(&self.outside).unwrap().permissions().mode() & 0o7777, 0o755);
        result
    }

    /// Every path with what is there: text of a file, `-> target` of a link, `/` for a directory.
    fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        collect(&self.root, &self.root, &mut tree);
        tree
    }
}

fn collect(root: &Path, folder: &Path, tree: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let kind = path.symlink_metadata().unwrap().file_type();
        if kind.is_symlink() {
            tree.insert(name, format!("-> {}", std::fs::read_link(&path).unwrap().display()));
        } else if kind.is_dir() {
            tree.insert(name, "/".into());
            collect(root, &path, tree);
        } else {
            tree.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// Archive ids 0 are ours, whoever runs the tests.
fn own_ids() -> groot_core::idmap::IdMaps {
    use groot_core::idmap::{IdMap, IdMaps, Range};
    let own = |host| IdMap::new(vec![Range { inside: 0, host, size: 1 }]);
    IdMaps { uid: own(rustix::process::getuid().as_raw()), gid: own(rustix::process::getgid().as_raw()) }
}

fn tree(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(name, what)| (name.to_owned(), what.to_owned())).collect()
}

#[test]
fn counts_what_it_wrote_and_took_away() {
    let place = Place::new();
    let stats = place.apply(&[file("a", b"12345"), file("d/b", b"123"), Header::new("dev", b'3', 0).bytes()]).unwrap();
    assert_eq!((stats.content, stats.removed, stats.entries), (8, 0, 3));
    assert_eq!(stats.left_out, BTreeMap::from([("device".to_owned(), 1)]));
    let stats = place.apply(&[file("a", b"1"), file("d/.wh.b", b"")]).unwrap();
    assert_eq!((stats.content, stats.removed), (1, 8));
}

#[test]
fn directory_times_survive_what_is_put_in() {
    let place = Place::new();
    place.apply(&[dir("d", 0o755), dir("d/e", 0o750), file("d/e/f", b""), file("d/g", b"")]).unwrap();
    for name in ["d", "d/e", "d/g"] {
        assert_eq!(place.root.join(name).metadata().unwrap().mtime(), 1_400_000_000, "{name}");
    }
    // A later layer that does not describe the directory does not change its time either.
    place.apply(&[file("d/new", b"")]).unwrap();
    assert_eq!(place.root.join("d").metadata().unwrap().mtime(), 1_400_000_000);
}

/// A13: the same result wherever the marker stands, and whatever it stands between.
#[test]
fn opaque_markers_take_lower_entries_only() {
    let parts = [dir("d", 0o755), file("d/new", b"n"), dir("d/sub", 0o755), file("d/sub/f", b"s"), file("d/implied/x", b"x")];
    for at in 0..=parts.len() {
        let place = Place::new();
        place.apply(&[file("d/old", b"o"), file("d/sub/old", b"o"), file("d/implied/old", b"o"), file("keep", b"k")]).unwrap();
        let mut upper = parts.to_vec();
        upper.insert(at, file("d/.wh..wh..opq", b""));
        place.apply(&upper).unwrap();
        let want =
            tree(&[("d", "/"), ("d/new", "n"), ("d/sub", "/"), ("d/sub/f", "s"), ("d/implied", "/"), ("d/implied/x", "x"), ("keep", "k")]);
        assert_eq!(place.tree(), want, "marker at {at}");
    }
}

/// Every order of `parts`, on top of `lower`; all give the same tree.
fn every_order(lower: &[Vec<u8>], parts: &[Vec<u8>]) -> BTreeMap<String, String> {
    fn orders(parts: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
        if parts.is_empty() {
            return vec![Vec::new()];
        }
        let with = |i: usize| {
            let rest: Vec<_> = parts.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, part)| part.clone()).collect();
            orders(&rest).into_iter().map(move |mut order| {
                order.push(parts[i].clone());
                order
            })
        };
        (0..parts.len()).flat_map(with).collect()
    }
    let trees: Vec<_> = orders(parts)
        .into_iter()
        .map(|order| {
            let place = Place::new();
            place.apply(lower).unwrap();
            place.apply(&order).unwrap();
            place.tree()
        })
        .collect();
    assert!(trees.windows(2).all(|pair| pair[0] == pair[1]), "{trees:?}");
    trees.into_iter().next().unwrap()
}

/// A12, A13: a directory takes the place of a link of a lower layer; what the link led to is none of the marker's.
#[test]
fn markers_in_a_directory_that_replaces_a_link_leave_its_target_alone() {
    let lower = [dir("target", 0o755), file("target/keep", b"k"), symlink("link", "/target")];
    let want = tree(&[("target", "/"), ("target/keep", "k"), ("link", "/")]);
    for marker in ["link/.wh..wh..opq", "link/.wh.keep", ".wh.link"] {
        assert_eq!(every_order(&lower, &[dir("link", 0o755), file(marker, b"")]), want, "{marker}");
    }
    // A link that stays is followed, as other tools do.
    let through = every_order(&lower, &[file("link/.wh.keep", b""), file("other", b"")]);
    assert_eq!(through, tree(&[("target", "/"), ("link", "-> /target"), ("other", "")]));
}

/// A13: a link takes the place of a directory (kaniko writes a marker for what was in it).
#[test]
fn markers_below_a_directory_that_became_a_link_leave_its_target_alone() {
    let lower = [dir("a", 0o755), file("a/a", b"x"), dir("b", 0o755), file("b/a", b"keep")];
    let want = tree(&[("a", "-> b"), ("b", "/"), ("b/a", "keep")]);
    assert_eq!(every_order(&lower, &[symlink("a", "b"), file("a/.wh.a", b""), dir("b", 0o755)]), want);
    assert_eq!(every_order(&lower, &[symlink("a", "b"), file("a/.wh..wh..opq", b"")]), want);
}

/// A13, A17: there is nothing to take away below what is no directory.
#[test]
fn markers_below_something_that_is_no_directory() {
    let lower = [file("file", b"f"), symlink("loop", "loop"), symlink("dangling", "nowhere"), symlink("ln", "file")];
    let place = Place::new();
    place.apply(&lower).unwrap();
    let before = place.tree();
    for parent in ["file", "file/deeper", "loop", "dangling", "ln", "missing", "ln/x"] {
        for marker in [".wh.x", ".wh..wh..opq"] {
            place.apply(&[file(&format!("{parent}/{marker}"), b"")]).unwrap();
            assert_eq!(place.tree(), before, "{parent}/{marker}");
        }
    }
    assert_eq!(
        every_order(&[dir("d", 0o755), file("d/x", b"x")], &[file("d", b"now a file"), file("d/.wh.x", b"")]),
        tree(&[("d", "now a file")])
    );
}

/// Where a listing goes.
fn target(path: &Path) -> Target {
    let folder = || std::fs::File::open(path.parent().unwrap()).unwrap().into();
    let name = path.file_name().unwrap().as_encoded_bytes();
    let (at, temporary) = ((folder(), name.to_vec()), (folder(), [name, b".new"].concat()));
    Target { place: groot_core::record::Place { at, temporary, mode: 0o644, owner: None }, parent: "- -".into(), goes_on: false }
}

/// What is not as these listings say.
fn verified(place: &Place, listings: &[PathBuf]) -> Result<Report> {
    let root = std::fs::File::open(&place.root).unwrap().into();
    let opened: Vec<_> = listings.iter().map(|path| (path.display().to_string(), std::fs::File::open(path).unwrap())).collect();
    verify(&root, &opened, &own_ids(), &AtomicBool::new(false))
}

#[test]
fn aufs_bookkeeping_serves_its_links_and_does_not_stay() {
    let place = Place::new();
    let listing = place.outside.join("../listing");
    let parts = [
        dir(".wh..wh.plnk", 0o700),
        file(".wh..wh.plnk/12.3", b"linked"),
        file(".wh..wh.orph/4", b"orphan"),
        file(".wh..wh.aufs", b""),
        hardlink("d/one", ".wh..wh.plnk/12.3"),
        hardlink("two", ".wh..wh.plnk/12.3"),
        file("d/.wh..wh.plnk/5", b"deep"),
    ];
    let options = Options { ids: own_ids(), listing: Some(target(&listing)), ..Options::default() };
    let stats = place.apply_with(&parts, options).unwrap();
    assert_eq!(place.tree(), tree(&[("d", "/"), ("d/one", "linked"), ("two", "linked")]));
    assert_eq!(stats.content - stats.removed, 6);
    assert_eq!(verified(&place, &[listing]).unwrap().different, 0);
}

#[test]
fn whiteouts_spare_what_their_own_layer_made() {
    for order in [[file("f", b"new"), file(".wh.f", b"")], [file(".wh.f", b""), file("f", b"new")]] {
        let place = Place::new();
        place.apply(&[file("f", b"old")]).unwrap();
        place.apply(&order).unwrap();
        assert_eq!(place.tree(), tree(&[("f", "new")]));
    }
    let place = Place::new();
    place.apply(&[file("d/old", b"o")]).unwrap();
    place.apply(&[file("d/new", b"n"), file(".wh.d", b"")]).unwrap();
    assert_eq!(place.tree(), tree(&[("d", "/"), ("d/new", "n")]));
}

/// A13, B11: a directory that a marker took away and that comes back only as a parent has no time of its own, wherever the
/// marker stands (found by the fuzz target `whiteouts`).
#[test]
fn time_of_a_directory_that_comes_back() {
    for upper in [[file(".wh.p", b""), file("p/q/f", b"")], [file("p/q/f", b""), file(".wh.p", b"")]] {
        let place = Place::new();
        place.apply(&[dir("p", 0o700), file("p/q/old", b"")]).unwrap();
        place.apply(&upper).unwrap();
        for name in ["p", "p/q"] {
            assert_eq!(place.root.join(name).metadata().unwrap().mtime(), 0, "{name}");
        }
    }
}

/// A1 to A4, A6, A8, A12, A21.
#[test]
fn nothing_leaves_the_root() {
    let place = Place::new();
    let outside = place.outside.to_str().unwrap().to_owned();
    let target = format!("{outside}/target");
    let inside = target.trim_start_matches('/').to_owned();
    for archive in [
        vec![file(&format!("../../../../{inside}"), b"x")],
        vec![file(&target, b"x")],
        vec![symlink("l", &outside), file("l/target", b"x"), file("l/new", b"x")],
        vec![symlink("up", "../../../../../../../.."), symlink("l", &format!("up{outside}")), file("l/target", b"x")],
        vec![symlink("l", &outside), file("l/.wh.target", b""), file("l/.wh..wh..opq", b"")],
        vec![symlink("p", "/proc/self/root"), file(&format!("p{target}"), b"x")],
    ] {
        let place =
            Place { _base: tempfile::tempdir().unwrap(), root: tempfile::tempdir().unwrap().keep(), outside: place.outside.clone() };
        place.apply(&archive).unwrap();
        std::fs::remove_dir_all(&place.root).unwrap();
    }
    for archive in [vec![hardlink("h", &target)], vec![symlink("l", &outside), hardlink("h", "l/target")], vec![hardlink("h", "../../x")]] {
        let error = place.apply(&archive).unwrap_err().to_string();
        assert!(error.contains("no such file or directory"), "{error}");
    }
    // Through a link that was there before, as from a lower layer.
    link(&outside, place.root.join("door")).unwrap();
    place.apply(&[file("door/target", b"inside")]).unwrap();
    assert_eq!(std::fs::read_to_string(place.root.join(&inside)).unwrap(), "inside");
}

/// A5, A7, A9, A10, A11, A17, A19, A20.
#[test]
fn tricks_with_links() {
    let refused = |parts: &[Vec<u8>]| Place::new().apply(parts).unwrap_err().to_string();
    assert!(refused(&[symlink("./", "/etc")]).contains("would replace the root"));
    assert!(refused(&[hardlink("h", "h")]).contains("no such file"));
    assert!(refused(&[file("h", b""), hardlink("h", "./h")]).contains("hard link to itself"));
    assert!(refused(&[dir("d", 0o755), hardlink("h", "d")]).contains("is a directory"));
    assert!(refused(&[hardlink("h", "later"), file("later", b"")]).contains("no such file"));
    assert!(refused(&[file("a", b""), file("a/b", b"")]).contains("not a directory"));
    assert!(refused(&[symlink("a", "a"), file("a/b", b"")]).to_lowercase().contains("too many levels"));
    for name in [".wh.", ".wh..", "d/.wh...", "a/.wh..wh.x"] {
        assert!(refused(&[file(name, b"")]).contains("invalid whiteout"), "{name}");
    }
    let place = Place::new();
    let outside = place.outside.to_str().unwrap();
    place.apply(&[symlink("d", outside), dir("d", 0o777), file("d/x", b"x")]).unwrap();
    assert_eq!(place.tree(), tree(&[("d", "/"), ("d/x", "x")]));
    let place = Place::new();
    place.apply(&[symlink("s", "t"), hardlink("h", "s"), file("t", b"t")]).unwrap();
    assert_eq!(place.tree()["h"], "-> t");
    // The kept directory is replaced by a link; what comes after it follows the link.
    let place = Place::new();
    place.apply(&[dir("a", 0o755), dir("other", 0o755), file("a/1", b""), symlink("a", "other"), file("a/2", b"2")]).unwrap();
    assert_eq!(place.tree(), tree(&[("a", "-> other"), ("other", "/"), ("other/2", "2")]));
}

/// A16: anything may replace anything, and never through a link or a second name.
#[test]
fn replacing() {
    let place = Place::new();
    place.apply(&[file("t", b"keep"), symlink("s", "t"), file("one", b"shared"), hardlink("two", "one"), file("d/x", b"")]).unwrap();
    place.apply(&[file("s", b"new"), file("one", b"own"), file("d", b"file"), dir("t", 0o755)]).unwrap();
    assert_eq!(place.tree(), tree(&[("s", "new"), ("one", "own"), ("two", "shared"), ("d", "file"), ("t", "/")]));
}

/// Files are filled behind the extractor; what counts is their size when they are full.
#[test]
fn what_a_layer_takes_away_of_its_own_counts_in_full() {
    let place = Place::new();
    let large = vec![b'x'; 20 << 20];
    let stats = place.apply(&[file("f", &large), file("f", b"1")]).unwrap();
    assert_eq!((stats.content, stats.removed), ((20 << 20) + 1, 20 << 20));
    let stats = place.apply(&[dir("d", 0o755), file("d/f", &large), file("d", b"12")]).unwrap();
    assert_eq!(stats.removed, 20 << 20);
    place.apply(&[dir("e", 0o755)]).unwrap();
    let stats = place.apply(&[file("e/f", &large), file("e", b"123")]).unwrap();
    assert_eq!(stats.removed, 20 << 20);
    assert_eq!(place.tree(), tree(&[("f", "1"), ("d", "12"), ("e", "123")]));
}

#[test]
fn a_file_that_cannot_be_completed_stops_the_layer() {
    // No file system takes an attribute without a name. Files after it are made before that is known.
    let mut parts = vec![pax(&[("SCHILY.xattr.user.", "x")]), file("f", b"content")];
    parts.extend((0..1000).map(|i| file(&format!("behind/{i}"), b"x")));
    let text = Place::new().apply(&parts).unwrap_err().to_string();
    assert!(text.starts_with("extended attributes of `f`: setxattr `user.`"), "{text}");
    // Also where nothing comes after it.
    let text = Place::new().apply(&parts[..2]).unwrap_err().to_string();
    assert!(text.starts_with("extended attributes of `f`: setxattr `user.`"), "{text}");
}

#[test]
fn parents_are_made_and_dangling_links_lead_inside() {
    let place = Place::new();
    place.apply(&[file("a/b/f", b"x"), symlink("etc-link", "/etc/deep"), file("etc-link/passwd", b"p")]).unwrap();
    assert_eq!(place.tree()["etc/deep/passwd"], "p");
    assert_eq!(place.root.join("a/b").metadata().unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn ids_without_a_mapping_are_refused() {
    let text = Place::new().apply(&[Header::new("f", b'0', 0).owner(900_000, 0).bytes()]).unwrap_err().to_string();
    assert!(text.contains("`f`") && text.contains("900000"), "{text}");
}

#[test]
fn base_directory() {
    let place = Place::new();
    std::fs::create_dir_all(place.root.join("home/app")).unwrap();
    let options = |base: &str| Options { base: base.as_bytes().to_vec(), ids: own_ids(), ..Options::default() };
    place.apply_with(&[file("../x", b"x"), file("one", b"1"), hardlink("two", "one")], options("/home/app")).unwrap();
    assert_eq!(place.root.join("home/app/two").metadata().unwrap().nlink(), 2);
    assert!(place.root.join("home/app/x").exists());
    let text = place.apply_with(&[], options("/nowhere")).unwrap_err().to_string();
    assert_eq!(text, "base directory not found in parent layer");
}

#[test]
fn content_is_bounded_and_holes_stay_holes() {
    let options =
        Options { ids: own_ids(), limits: groot_core::limits::Limits { max_content: Some(4), ..Default::default() }, ..Options::default() };
    let error = Place::new().apply_with(&[file("f", b"12345")], options).unwrap_err();
    assert!(matches!(error, Error::Limit(_)));
    let place = Place::new();
    let sparse =
        [pax(&[("GNU.sparse.size", "1073741824"), ("GNU.sparse.map", "0,512")]), Header::new("s", b'0', 512).bytes(), vec![1; 512]];
    place.apply(&sparse).unwrap();
    let metadata = place.root.join("s").metadata().unwrap();
    assert_eq!(metadata.len(), 1 << 30);
    assert!(metadata.blocks() < 64);
}

#[test]
fn what_a_sparse_file_brings_and_takes_away_is_the_same() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new();
    let sparse = [
        file("dense", &[7; 5000]),
        pax(&[("GNU.sparse.size", "1073741824"), ("GNU.sparse.map", "8192,100,536870912,412")]),
        Header::new("s", b'0', 512).bytes(),
        vec![1; 512],
    ];
    let brought = place.apply(&sparse).unwrap().content;
    let blocks = place.root.join("s").metadata().unwrap().blocks();
    assert_eq!(brought, 5000 + blocks * 512);
    let stats = place.apply(&[file("s", b"12"), file(".wh.dense", b"")]).unwrap();
    assert_eq!((stats.content, stats.removed), (2, brought));
}

#[test]
fn a_directory_that_a_marker_makes_ours_has_the_time_of_one_that_nothing_describes() {
    let place = Place::new();
    place.apply(&[dir("d", 0o700), file("d/old", b"x")]).unwrap();
    place.apply(&[file("d/new", b"y"), file(".wh.d", b"")]).unwrap();
    let stat = std::fs::metadata(place.root.join("d")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()), (0o755, 0, 0));
    assert_eq!(place.tree().into_keys().collect::<Vec<_>>(), ["d", "d/new"]);
}

#[test]
fn a_volume_is_verified_by_the_listings_of_its_layers() {
    let stack = Place::new();
    let listings = [stack.outside.join("../one"), stack.outside.join("../two")];
    let layers = [
        vec![dir("d", 0o2750), file("d/f", b"content"), file("d/gone", b""), hardlink("l", "d/f"), symlink("s", "d")],
        vec![file("d/.wh.gone", b""), file("s/through", b"t"), file("a/b/c", b"deep"), dir("d", 0o700)],
    ];
    for (path, parts) in listings.iter().zip(layers) {
        let options = Options { ids: own_ids(), listing: Some(target(path)), ..Options::default() };
        stack.apply_with(&parts, options).unwrap();
    }
    let check = |listings: &[PathBuf]| verified(&stack, listings);
    assert_eq!(check(&listings).unwrap(), Report { entries: 9, ..Report::default() });
    // Without the upper layer's, all it did is wrong.
    assert_eq!(check(&listings[..1]).unwrap().different, 4);
    assert!(matches!(check(&listings[1..]), Err(Error::Layer(text)) if text.contains("damaged")));
    std::fs::write(stack.root.join("l"), "other").unwrap();
    let report = check(&listings).unwrap();
    assert_eq!(report.different, 2);
    assert!(report.told.iter().all(|told| told.contains("5 bytes, not 7")), "{report:?}");
}

#[test]
fn directories_above_one_that_a_link_leads_to_keep_their_times() {
    for entries in [["bin/tool", "usr/share/x"], ["usr/share/x", "bin/tool"]] {
        let place = Place::new();
        place.apply(&[dir("usr/", 0o755), dir("usr/bin/", 0o755), symlink("bin", "usr/bin")]).unwrap();
        place.apply(&entries.map(|name| file(name, b"1"))).unwrap();
        for folder in ["usr", "usr/bin"] {
            let modified = place.root.join(folder).metadata().unwrap().modified().unwrap();
            assert_eq!(modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), support::T0, "{folder} after {entries:?}");
        }
    }
}
