//! A small writer of archives whose every byte can be wrong.

#![allow(dead_code)] // each test file uses some of it

pub const T0: u64 = 1_400_000_000;

/// One header block; the checksum is right.
pub struct Header(pub [u8; 512]);

impl Header {
    pub fn new(name: &str, flag: u8, size: u64) -> Self {
        let mut header = Self([0; 512]);
        header.set(0, name.as_bytes());
        header.octal(100, 8, 0o644);
        header.octal(108, 8, 0);
        header.octal(116, 8, 0);
        header.octal(124, 12, size);
        header.octal(136, 12, T0);
        header.0[156] = flag;
        header.set(257, b"ustar\x0000");
        header
    }

    pub fn mode(mut self, mode: u64) -> Self {
        self.octal(100, 8, mode);
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.octal(108, 8, uid);
        self.octal(116, 8, gid);
        self
    }

    pub fn link(mut self, target: &str) -> Self {
        self.set(157, target.as_bytes());
        self
    }

    pub fn set(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn octal(&mut self, at: usize, width: usize, value: u64) {
        self.set(at, format!("{value:0width$o}\0", width = width - 1).as_bytes());
    }

    pub fn bytes(mut self) -> Vec<u8> {
        self.set(148, b"        ");
        let sum: u64 = self.0.iter().map(|&b| u64::from(b)).sum();
        self.set(148, format!("{sum:06o}\0 ").as_bytes());
        self.0.to_vec()
    }
}

pub fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub fn file(name: &str, content: &[u8]) -> Vec<u8> {
    [Header::new(name, b'0', content.len() as u64).bytes(), padded(content)].concat()
}

pub fn dir(name: &str, mode: u64) -> Vec<u8> {
    Header::new(name, b'5', 0).mode(mode).bytes()
}

pub fn symlink(name: &str, target: &str) -> Vec<u8> {
    Header::new(name, b'2', 0).link(target).bytes()
}

pub fn hardlink(name: &str, target: &str) -> Vec<u8> {
    Header::new(name, b'1', 0).link(target).bytes()
}

pub fn extension(flag: u8, body: &[u8]) -> Vec<u8> {
    [Header::new("ext", flag, body.len() as u64).bytes(), padded(body)].concat()
}

pub fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n").into_bytes()
}

pub fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    extension(b'x', &records.iter().flat_map(|(key, value)| record(key, value)).collect::<Vec<_>>())
}

pub fn end() -> Vec<u8> {
    vec![0; 1024]
}
