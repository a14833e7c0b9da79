//! The reader against archives made by hand: what it gives, what it refuses, and that pieces of any size give the same.

#![allow(missing_docs)]

mod support;

use groot_core::Error;
use groot_core::limits::Limits;
use groot_core::tar::{Entry, Event, Kind, TarReader};
use proptest::prelude::*;
use support::{Header, dir, end, extension, file, hardlink, padded, pax, record, symlink};

type Read = Vec<(Entry, Vec<(u64, Vec<u8>)>)>;

fn read_in(archive: &[u8], piece: usize, limits: &Limits) -> Result<Read, Error> {
    let mut reader = TarReader::new(limits.clone());
    let mut read: Read = Vec::new();
    let mut open = false;
    for mut input in archive.chunks(piece) {
        while let Some(event) = reader.next(&mut input)? {
            match event {
                Event::Entry(entry) => {
                    assert!(!open, "an entry began before the last one ended");
                    open = true;
                    read.push((*entry, Vec::new()));
                }
                Event::Data { offset, bytes } => {
                    assert!(open && !bytes.is_empty());
                    read.last_mut().unwrap().1.push((offset, bytes.to_vec()));
                }
                Event::End => open = false,
            }
        }
        assert!(input.is_empty(), "input was left over");
    }
    reader.finish()?;
    assert!(!open, "the last entry did not end");
    Ok(read)
}

fn read(parts: &[Vec<u8>]) -> Result<Read, Error> {
    read_in(&parts.concat(), usize::MAX, &Limits::default())
}

fn content(data: &[(u64, Vec<u8>)], size: u64) -> Vec<u8> {
    let mut content = vec![0; size as usize];
    for (offset, bytes) in data {
        content[*offset as usize..*offset as usize + bytes.len()].copy_from_slice(bytes);
    }
    content
}

fn refused(parts: &[Vec<u8>]) -> String {
    match read(parts) {
        Err(error @ (Error::Layer(_) | Error::Limit(_))) => error.to_string(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn reads_what_layers_are_made_of() {
    let got = read(&[dir("d/", 0o4755), file("d/f", b"hello"), symlink("s", "d/f"), hardlink("h", "d/f"), end()]).unwrap();
    let kinds: Vec<_> = got.iter().map(|(entry, _)| (entry.path.as_slice(), entry.kind)).collect();
    assert_eq!(kinds, [(&b"d/"[..], Kind::Directory), (b"d/f", Kind::File), (b"s", Kind::Symlink), (b"h", Kind::Hardlink)]);
    assert_eq!(got[0].0.mode, 0o4755);
    assert_eq!(got[1].1, [(0, b"hello".to_vec())]);
    assert_eq!((got[2].0.link.as_slice(), got[1].0.mtime.seconds), (&b"d/f"[..], 1_400_000_000));
}

#[test]
fn long_names_of_both_kinds_and_the_ustar_prefix() {
    let long = "n".repeat(180);
    let gnu = extension(b'L', format!("{long}\0").as_bytes());
    assert_eq!(read(&[gnu, file("short", b"")]).unwrap()[0].0.path, long.as_bytes());
    assert_eq!(read(&[pax(&[("path", &long)]), file("short", b"")]).unwrap()[0].0.path, long.as_bytes());
    let mut header = Header::new("file", b'0', 0);
    header.set(345, b"some/dir");
    assert_eq!(read(&[header.bytes()]).unwrap()[0].0.path, b"some/dir/file");
    let mut header = Header::new("file", b'0', 0);
    header.set(257, b"ustar  \0");
    header.set(345, b"atime");
    assert_eq!(read(&[header.bytes()]).unwrap()[0].0.path, b"file", "GNU headers have no prefix");
}

/// C1, C2: the body is as long as PAX says; headers in it are content.
#[test]
fn the_pax_size_wins() {
    let nested = [file("smuggled", b"x"), end()].concat();
    let size = nested.len().to_string();
    for header_size in [0, 7] {
        let got =
            read(&[pax(&[("size", &size)]), Header::new("a", b'0', header_size).bytes(), nested.clone(), file("b", b""), end()]).unwrap();
        assert_eq!(got.len(), 2);
        assert_eq!(content(&got[0].1, got[0].0.size), nested);
    }
}

/// C3, C4, C5.
#[test]
fn broken_and_stray_extension_headers_are_refused() {
    let long = || extension(b'L', b"name\0");
    assert!(refused(&[extension(b'x', b"12 path=x"), file("a", b"")]).contains("PAX header"));
    assert!(refused(&[pax(&[("path", "a")]), pax(&[("path", "b")]), file("a", b"")]).contains("without an entry"));
    assert!(refused(&[long(), long(), file("a", b"")]).contains("without an entry"));
    assert!(refused(&[pax(&[("path", "a")]), long(), file("a", b"")]).contains("by GNU and by PAX"));
    assert!(refused(&[long(), end()]).contains("after an extension header"));
    assert!(refused(&[pax(&[("path", "a")])]).contains("after an extension header"));
    let mut hidden = pax(&[("path", "a")]);
    let at = 512 + record("path", "a").len();
    hidden[at..at + 9].copy_from_slice(b"9 path=b\n");
    assert!(refused(&[hidden, file("x", b"")]).contains("after an extension header"));
    assert!(refused(&[extension(b'L', b"na\0me\0"), file("a", b"")]).contains("malformed long name"));
    assert!(refused(&[extension(b'g', &record("path", "a")), file("a", b"")]).contains("global header sets `path`"));
    assert_eq!(read(&[extension(b'g', &record("comment", "c")), file("a", b"")]).unwrap().len(), 1);
    assert!(
        refused(&vec![extension(b'g', &record("comment", "c")); 3].into_iter().chain([long(), extension(b'g', b"")]).collect::<Vec<_>>())
            .contains("global")
    );
}

/// C7.
#[test]
fn extension_headers_are_bounded() {
    assert!(matches!(read(&[Header::new("x", b'L', 1 << 31).bytes()]), Err(Error::Limit(_))));
    let limits = Limits { max_entries: 3, ..Limits::default() };
    let archive = [file("a", b""), file("b", b""), file("c", b""), file("d", b"")].concat();
    assert!(matches!(read_in(&archive, 512, &limits), Err(Error::Limit(_))));
}

/// C8, C11.
#[test]
fn a_size_means_nothing_where_no_body_can_be_and_unknown_types_are_refused() {
    for flag in *b"123456" {
        let odd = || Header::new("a", flag, 600).link("t").bytes();
        let got = read(&[odd(), file("b", b"after")]).unwrap();
        assert_eq!((got.len(), got[0].0.size, &got[1].1), (2, 0, &vec![(0, b"after".to_vec())]), "{flag}");
        assert_eq!(read(&[pax(&[("size", "600")]), odd(), file("b", b"")]).unwrap().len(), 2);
        assert!(refused(&[odd(), padded(b"a body")]).contains("invalid tar header"));
    }
    assert!(refused(&[Header::new("a", b'Z', 0).bytes()]).contains("unknown entry type `Z`"));
    assert_eq!(read(&[Header::new("label", b'V', 0).bytes(), file("a", b"")]).unwrap().len(), 1, "a volume label is no entry");
    for flag in *b"\x0007" {
        assert_eq!(read(&[Header::new("a", flag, 1).bytes(), padded(b"x")]).unwrap()[0].0.kind, Kind::File);
    }
    assert_eq!(read(&[Header::new("a/", 0, 0).bytes()]).unwrap()[0].0.kind, Kind::Directory);
}

#[test]
fn what_is_no_archive_is_named() {
    for (start, name) in [
        (&b"\xfd7zXZ\0"[..], "xz"),
        (b"BZh91AY", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"PK\x03\x04", "zip"),
        (b"070701", "cpio"),
        (b"hsqs", "squashfs"),
    ] {
        for length in [40, 512, 5000] {
            let mut bytes = start.to_vec();
            bytes.resize(length, b'.');
            let text = refused(&[bytes]);
            assert!(text.starts_with(&format!("invalid tar header: this is {name}, not tar: ")), "{text}");
        }
    }
    // A name is not taken for a format, nor damage further on.
    assert_eq!(read(&[file("BZh", b"")]).unwrap().len(), 1);
    assert_eq!(refused(&[file("a", b""), padded(b"BZh")]), "invalid tar header");
}

/// C9.
#[test]
fn the_end_of_an_archive() {
    assert_eq!(read(&[]).unwrap().len(), 0);
    assert_eq!(read(&[end()]).unwrap().len(), 0);
    assert_eq!(read(&[file("a", b"x"), end(), vec![0; 10_240]]).unwrap().len(), 1);
    assert_eq!(read(&[file("a", b"x")]).unwrap().len(), 1, "real layers lack the end marker");
    assert_eq!(read(&[file("a", b"x"), vec![0; 512]]).unwrap().len(), 1);
    assert!(refused(&[file("a", b""), vec![0; 512], file("b", b"")]).contains("after a zero block"));
    assert!(refused(&[end(), file("b", b"")]).contains("after the end"));
    let limits = Limits { max_trailing: 1024, ..Limits::default() };
    assert!(matches!(read_in(&vec![0; 4096], 512, &limits), Err(Error::Limit(_))));
    // Whatever comes first is the reason, however the input is cut.
    for zeros in [2047, 2048, 2049] {
        let archive = [vec![0; zeros], vec![1; 4096]].concat();
        let whole = read_in(&archive, usize::MAX, &limits).unwrap_err().to_string();
        for piece in [1, 56, 512, 4096] {
            assert_eq!(read_in(&archive, piece, &limits).unwrap_err().to_string(), whole, "{zeros} zeros in pieces of {piece}");
        }
    }
}

#[test]
fn damaged_headers_are_refused() {
    let mut header = Header::new("a", b'0', 0).bytes();
    header[0] = b'b';
    assert!(refused(&[header]).contains("invalid tar header"));
    let mut header = Header::new("a", b'0', 0);
    header.set(124, b"0000000009x\0");
    assert!(refused(&[header.bytes()]).contains("size is not a number"));
    let mut header = Header::new("a", b'0', 0);
    header.set(124, &[0xff; 12]);
    assert!(refused(&[header.bytes()]).contains("negative size"));
    assert!(refused(&[Header::new("", b'0', 0).bytes()]).contains("without a name"));
    assert!(refused(&[pax(&[("path", &"x".repeat(5000))]), file("a", b"")]).contains("too long"));
}

/// C10: cut anywhere inside, it is refused; cut between entries it is an archive without an end marker.
#[test]
fn truncated_at_every_offset() {
    let archive = [pax(&[("mtime", "1.5")]), file("a", &[7; 700]), dir("d", 0o755), end()].concat();
    for cut in 0..archive.len() {
        // Between entries, and in the padding of the file (which may be missing together with the end marker).
        let whole = matches!(cut, 0 | 2236..=2560 | 3072 | 3584);
        assert_eq!(read_in(&archive[..cut], 100, &Limits::default()).is_ok(), whole, "cut at {cut}");
    }
}

/// C6.
#[test]
fn sparse_files_of_all_formats() {
    let data = |byte| vec![byte; 512];
    let want = |entry: &Entry, read: &[(u64, Vec<u8>)]| {
        let mut want = vec![0; 4096];
        want[1024..1536].fill(1);
        want[2048..2560].fill(2);
        assert!(entry.sparse);
        assert_eq!((entry.path.as_slice(), content(read, entry.size)), (&b"holes"[..], want));
    };
    let mut old = Header::new("holes", b'S', 1024);
    old.set(257, b"ustar  \0");
    for (slot, offset, len) in [(386, 1024, 512), (410, 2048, 512), (434, 4096, 0)] {
        old.octal(slot, 12, offset);
        old.octal(slot + 12, 12, len);
    }
    old.octal(483, 12, 4096);
    let map = padded(b"3\n1024\n512\n2048\n512\n4096\n0\n");
    let archives = [
        vec![old.bytes(), data(1), data(2)],
        vec![
            pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "holes"), ("GNU.sparse.realsize", "4096")]),
            Header::new("GNUSparseFile.0/holes", b'0', 1536).bytes(),
            map,
            data(1),
            data(2),
        ],
        vec![
            pax(&[("GNU.sparse.size", "4096"), ("GNU.sparse.numblocks", "2"), ("GNU.sparse.map", "1024,512,2048,512")]),
            Header::new("holes", b'0', 1024).bytes(),
            data(1),
            data(2),
        ],
        vec![
            pax(&[
                ("GNU.sparse.size", "4096"),
                ("GNU.sparse.offset", "1024"),
                ("GNU.sparse.numbytes", "512"),
                ("GNU.sparse.offset", "2048"),
                ("GNU.sparse.numbytes", "512"),
            ]),
            Header::new("holes", b'0', 1024).bytes(),
            data(1),
            data(2),
        ],
    ];
    for archive in archives {
        for piece in [1, 511, 4096] {
            let got = read_in(&[archive.concat(), end()].concat(), piece, &Limits::default()).unwrap();
            want(&got[0].0, &got[0].1);
        }
    }
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let sparse =
        |map: &str| [pax(&[("GNU.sparse.size", "4096"), ("GNU.sparse.map", map)]), Header::new("a", b'0', 512).bytes(), vec![1; 512]];
    for map in ["0,512,256,512", "4000,512", "0,100", "512,0,0,512"] {
        assert!(refused(&sparse(map)).contains("sparse map"), "{map}");
    }
    let tight = Limits { max_sparse_regions: 1, ..Limits::default() };
    assert!(matches!(read_in(&sparse("0,256,1024,256").concat(), 512, &tight), Err(Error::Limit(_))));
}

proptest! {
    /// However the bytes come, the events are the same.
    #[test]
    fn pieces_do_not_matter(
        files in proptest::collection::vec(("[a-z]{1,120}", proptest::collection::vec(any::<u8>(), 0..1500)), 0..6),
        piece in 1usize..2000,
    ) {
        let mut archive: Vec<u8> = files.iter().flat_map(|(name, content)| [pax(&[("path", name)]), file("x", content)].concat()).collect();
        archive.extend(end());
        let whole = read_in(&archive, usize::MAX, &Limits::default()).unwrap();
        let pieces = read_in(&archive, piece, &Limits::default()).unwrap();
        prop_assert_eq!(whole.len(), files.len());
        for (((one, one_data), (other, other_data)), (name, want)) in whole.iter().zip(&pieces).zip(&files) {
            prop_assert_eq!(one, other);
            prop_assert_eq!(&one.path, name.as_bytes());
            prop_assert_eq!(&content(one_data, one.size), want);
            prop_assert_eq!(&content(other_data, other.size), want);
        }
    }

    /// One changed byte gives another archive or a refusal, never a panic or an endless loop.
    #[test]
    fn damage_never_panics(at in 0usize..3000, byte: u8, piece in 1usize..600) {
        let mut archive = [pax(&[("path", "some/name"), ("mtime", "1.25")]), file("x", &[3; 600]), dir("d", 0o700), end()].concat();
        let at = at % archive.len();
        archive[at] = byte;
        let _ = read_in(&archive, piece, &Limits::default());
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = read_in(&noise, 512, &Limits::default());
    }
}
