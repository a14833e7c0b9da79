//! What people hand us for an archive that is none, by its first bytes.

/// First bytes, what such a file is, and what to do with it.
const FORMATS: [(&[u8], &str, &str); 12] = [
    (b"\xfd7zXZ\0", "xz", COMPRESS),
    (b"BZh", "bzip2", COMPRESS),
    (b"\x04\x22\x4d\x18", "lz4", COMPRESS),
    (b"\x02\x21\x4c\x18", "lz4", COMPRESS),
    (b"\x5d\0\0", "lzma", COMPRESS),
    (b"PK\x03\x04", "zip", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "7z", UNPACK),
    (b"07070", "cpio", UNPACK),
    (b"\xc7\x71", "cpio", UNPACK),
    (b"hsqs", "squashfs", "unpack it (unsquashfs) and pass the directory, or a tar of it"),
    (b"\xed\xab\xee\xdb", "rpm", "install it into a directory and pass that"),
    (b"!<arch>\n", "ar", UNPACK),
];

const COMPRESS: &str = "decompress it, or compress it with gzip or zstd instead";
const UNPACK: &str = "unpack it and pass the directory, or a tar of it";

/// One line for what starts like this, if it is known.
pub(super) fn explain(start: &[u8]) -> Option<String> {
    let (_, format, cure) = FORMATS.iter().find(|(magic, ..)| start.starts_with(magic))?;
    Some(format!("invalid tar header: this is {format}, not tar: {cure}"))
}
