//! The state machine: blocks to events.

use super::BLOCK;
use super::entry::{Entry, Kind, Region, Time};
use super::foreign;
use super::number;
use super::pax::Pax;
use super::sparse::{self, MapText, Walk};
use crate::error::{Error, Result, printable};
use crate::limits::Limits;

/// What the reader found. `Data` belongs to the last `Entry` and ends with `End`.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A new entry. `End` follows, with `Data` before it if it is a file with content.
    Entry(Box<Entry>),
    /// Content of the entry.
    Data {
        /// Where in the file these bytes go.
        offset: u64,
        /// The bytes, never empty.
        bytes: &'a [u8],
    },
    /// The entry is complete.
    End,
}

#[derive(Debug)]
enum State {
    /// A header block comes next.
    Header,
    /// The body of an extension header.
    Extension {
        kind: u8,
        left: u64,
        padding: u64,
    },
    /// A further block of an old GNU sparse map.
    GnuMap {
        entry: Box<Entry>,
        stored: u64,
        map: Vec<Region>,
    },
    /// The map at the start of the data (PAX sparse 1.0).
    DataMap {
        entry: Box<Entry>,
        stored: u64,
        text: MapText,
    },
    /// Content, then padding.
    Data {
        left: u64,
        padding: u64,
        offset: u64,
    },
    /// The end of an entry was reached, its `End` is owed.
    Ending {
        padding: u64,
    },
    Padding {
        left: u64,
    },
    /// One zero block: a second one must follow, or nothing.
    OneZero,
    /// Behind the end marker: only zeros.
    Trailer,
}

/// Reads an archive piece by piece.
pub struct TarReader {
    limits: Limits,
    state: State,
    /// Start of a block that was split between two inputs.
    block: Vec<u8>,
    /// Body of the extension header being read.
    body: Vec<u8>,
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    extensions: u32,
    walk: Option<Walk>,
    trailing: u64,
    entries: u64,
}

impl TarReader {
    /// A reader at the start of an archive.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Header,
            block: Vec::with_capacity(BLOCK),
            body: Vec::new(),
            pax: None,
            long_name: None,
            long_link: None,
            extensions: 0,
            walk: None,
            trailing: 0,
            entries: 0,
        }
    }

    /// Take bytes from the front of `input` until there is an event. `None` means that `input` is used up.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>> {
        loop {
            match &mut self.state {
                State::Ending { padding } => {
                    self.state = State::Padding { left: *padding };
                    return Ok(Some(Event::End));
                }
                State::Padding { left } => {
                    *left -= skip(input, *left);
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.state = State::Header;
                }
                State::Data { .. } => return Ok(self.data(input)),
                State::Extension { left, padding, .. } => {
                    let bytes = split_front(input, *left);
                    self.body.extend_from_slice(bytes);
                    *left -= bytes.len() as u64;
                    if *left == 0 {
                        let bytes = split_front(input, *padding);
                        // Some readers look for records up to the end of the block.
                        if bytes.iter().any(|&b| b != 0) {
                            return Err(Error::layer("tar: data after an extension header"));
                        }
                        *padding -= bytes.len() as u64;
                        if *padding == 0 {
                            self.finish_extension()?;
                            continue;
                        }
                    }
                    return Ok(None);
                }
                State::Trailer => {
                    self.trailer(input)?;
                    return Ok(None);
                }
                State::Header | State::OneZero | State::GnuMap { .. } | State::DataMap { .. } => {
                    let Some(block) = self.take_block(input) else { return Ok(None) };
                    if let Some(event) = self.take(&block)? {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    /// Right after `Event::Entry`: bytes of the input that its body takes up. The caller leaves them out, and `Event::End` comes
    /// next. `None` for a sparse file, whose body has to be read.
    pub fn skip_body(&mut self) -> Option<u64> {
        match self.state {
            State::Data { left, padding, offset: 0 } if self.walk.is_none() => {
                self.state = State::Ending { padding: 0 };
                Some(left + padding)
            }
            State::Ending { .. } => Some(0),
            _ => None,
        }
    }

    /// Call at the end of the input. A missing end marker is accepted (real layers lack it), a cut entry is not.
    pub fn finish(&self) -> Result<()> {
        let pending = self.pax.is_some() || self.long_name.is_some() || self.long_link.is_some();
        let cut = !matches!(self.state, State::Header | State::OneZero | State::Trailer) || !self.block.is_empty();
        // The padding of the last entry may be missing together with the end marker.
        if cut && !(matches!(self.state, State::Padding { .. }) && self.block.is_empty()) {
            let error = Error::layer("archive ends in the middle of an entry: unexpected EOF");
            return Err(self.explain(&self.block, error));
        }
        if pending {
            return Err(Error::layer("archive ends after an extension header"));
        }
        Ok(())
    }

    /// Of what is no archive from its first bytes on, say what it is.
    fn explain(&self, start: &[u8], error: Error) -> Error {
        let first = self.entries == 0 && self.extensions == 0;
        foreign::explain(start).filter(|_| first).map_or(error, Error::layer)
    }

    fn take_block(&mut self, input: &mut &[u8]) -> Option<[u8; BLOCK]> {
        let bytes = split_front(input, (BLOCK - self.block.len()) as u64);
        if self.block.is_empty() {
            if let Ok(block) = bytes.try_into() {
                return Some(block);
            }
        }
        self.block.extend_from_slice(bytes);
        let block = self.block.as_slice().try_into().ok()?;
        self.block.clear();
        Some(block)
    }

    fn take<'a>(&mut self, block: &[u8; BLOCK]) -> Result<Option<Event<'a>>> {
        match std::mem::replace(&mut self.state, State::Header) {
            State::OneZero => {
                if block.iter().any(|&b| b != 0) {
                    return Err(Error::layer("tar: data after a zero block"));
                }
                self.state = State::Trailer;
                Ok(None)
            }
            State::GnuMap { entry, stored, mut map } => {
                sparse::push_gnu_slots(&mut map, &block[..504], &self.limits)?;
                self.after_gnu_map(entry, stored, map, block[504] != 0)
            }
            State::DataMap { mut entry, stored, mut text } => {
                let left = stored.checked_sub(BLOCK as u64).ok_or_else(|| Error::layer("sparse map is longer than the data"))?;
                if text.feed(block, &self.limits)? {
                    sparse::check(&text.map, left, entry.size)?;
                    entry.sparse = true;
                    return Ok(Some(self.start_data(entry, left, Some(text.map))));
                }
                self.state = State::DataMap { entry, stored: left, text };
                Ok(None)
            }
            _ => self.header(block),
        }
    }

    fn header<'a>(&mut self, block: &[u8; BLOCK]) -> Result<Option<Event<'a>>> {
        if block.iter().all(|&b| b == 0) {
            self.finish()?; // no extension header may be pending
            self.state = State::OneZero;
            return Ok(None);
        }
        check_sum(block).map_err(|error| self.explain(block, error))?;
        let size = number::parse_unsigned(&block[124..136], "size")?;
        match block[156] {
            kind @ (b'x' | b'g' | b'L' | b'K') => self.start_extension(kind, size).map(|()| None),
            // A GNU volume label names the archive; it is no entry.
            b'V' => {
                self.state = State::Padding { left: padded(size)? };
                Ok(None)
            }
            flag => self.entry(block, flag, size),
        }
    }

    fn start_extension(&mut self, kind: u8, size: u64) -> Result<()> {
        if size > self.limits.max_extension {
            return Err(Error::Limit(format!("extension header of {size} bytes")));
        }
        self.extensions += 1;
        if self.extensions > self.limits.max_extensions_per_entry {
            return Err(Error::Limit("too many extension headers before one entry".into()));
        }
        let (repeated, name) = match kind {
            b'x' => (self.pax.is_some(), "PAX header"),
            b'L' => (self.long_name.is_some(), "long name"),
            b'K' => (self.long_link.is_some(), "long link"),
            // Global headers stand between entries; inside a chain readers disagree on what they reach.
            _ => (self.pax.is_some() || self.long_name.is_some() || self.long_link.is_some(), "extension header before a global one"),
        };
        if repeated {
            return Err(Error::layer(format!("tar: {name} without an entry of its own")));
        }
        self.body.clear();
        self.state = State::Extension { kind, left: size, padding: padded(size)? - size };
        Ok(())
    }

    fn finish_extension(&mut self) -> Result<()> {
        let State::Extension { kind, .. } = std::mem::replace(&mut self.state, State::Header) else { return Ok(()) };
        match kind {
            b'x' => self.pax = Some(Pax::parse(&self.body, &self.limits)?),
            b'g' => {
                Pax::check_global(&self.body)?;
                self.extensions = 0;
            }
            _ => {
                let name = until_nul(&self.body).to_vec();
                // Bytes after the terminating NUL are a second opinion about the name.
                if name.is_empty() || self.body[name.len()..].iter().any(|&b| b != 0) {
                    return Err(Error::layer("tar: malformed long name"));
                }
                *(if kind == b'L' { &mut self.long_name } else { &mut self.long_link }) = Some(name);
            }
        }
        Ok(())
    }

    fn entry<'a>(&mut self, block: &[u8; BLOCK], flag: u8, header_size: u64) -> Result<Option<Event<'a>>> {
        self.entries += 1;
        if self.entries > self.limits.max_entries {
            return Err(Error::Limit(format!("more than {} entries in one layer", self.limits.max_entries)));
        }
        self.extensions = 0;
        let pax = self.pax.take().unwrap_or_default();
        let path = self.name_of(block, pax.path)?;
        let kind = kind_of(flag, &path)?;
        let link = match (self.long_link.take(), pax.link) {
            (Some(_), Some(_)) => return Err(Error::layer("tar: link target given by GNU and by PAX headers")),
            (Some(link), None) | (None, Some(link)) => link,
            (None, None) => until_nul(&block[157..257]).to_vec(),
        };
        let mut entry = Box::new(Entry {
            path,
            kind,
            link,
            mode: (number::parse_unsigned(&block[100..108], "mode")? & 0o7777) as u32,
            uid: pax.uid.map_or_else(|| number::parse_unsigned(&block[108..116], "uid"), Ok)?,
            gid: pax.gid.map_or_else(|| number::parse_unsigned(&block[116..124], "gid"), Ok)?,
            mtime: match pax.mtime {
                Some(time) => time,
                None => Time { seconds: number::parse(&block[136..148], "mtime")?, nanos: 0 },
            },
            // The PAX size wins: reading the body by the other one lets it smuggle headers (CVE-2025-62518).
            size: pax.size.unwrap_or(header_size),
            xattrs: pax.xattrs,
            sparse: false,
        });
        self.check(&entry)?;
        if kind != Kind::File {
            // Some writers leave a size there (that of a link's file, 4096 for a directory); no body follows it. One that does
            // is no header.
            entry.size = 0;
            return Ok(Some(self.start_data(entry, 0, None)));
        }
        let stored = entry.size;
        if flag == b'S' {
            if pax.sparse.is_used() {
                return Err(Error::layer("sparse map given by GNU and by PAX headers"));
            }
            entry.size = number::parse_unsigned(&block[483..495], "sparse size")?;
            let mut map = Vec::new();
            sparse::push_gnu_slots(&mut map, &block[386..482], &self.limits)?;
            return self.after_gnu_map(entry, stored, map, block[482] != 0);
        }
        if pax.sparse.is_used() {
            if let Some(name) = pax.sparse.name {
                entry.path = name;
                self.check(&entry)?;
            }
            entry.size = pax.sparse.real_size.ok_or_else(|| Error::layer("sparse file without its size"))?;
            if pax.sparse.major.is_some_and(|major| major > 0) {
                if (pax.sparse.major, pax.sparse.minor.unwrap_or(0)) != (Some(1), 0) {
                    return Err(Error::layer("sparse format is newer than 1.0"));
                }
                self.state = State::DataMap { entry, stored, text: MapText::default() };
                // The map is counted as data: the padding after the content follows from the stored size.
                return Ok(None);
            }
            if pax.sparse.count.is_some_and(|count| count != pax.sparse.map.len() as u64) {
                return Err(Error::layer("sparse map has another length than announced"));
            }
            sparse::check(&pax.sparse.map, stored, entry.size)?;
            entry.sparse = true;
            return Ok(Some(self.start_data(entry, stored, Some(pax.sparse.map))));
        }
        Ok(Some(self.start_data(entry, stored, None)))
    }

    fn after_gnu_map<'a>(&mut self, mut entry: Box<Entry>, stored: u64, map: Vec<Region>, more: bool) -> Result<Option<Event<'a>>> {
        if more {
            self.state = State::GnuMap { entry, stored, map };
            return Ok(None);
        }
        sparse::check(&map, stored, entry.size)?;
        entry.sparse = true;
        Ok(Some(self.start_data(entry, stored, Some(map))))
    }

    fn start_data<'a>(&mut self, entry: Box<Entry>, stored: u64, map: Option<Vec<Region>>) -> Event<'a> {
        self.walk = map.map(Walk::new);
        let padding = stored.wrapping_neg() % BLOCK as u64;
        self.state = if stored == 0 { State::Ending { padding: 0 } } else { State::Data { left: stored, padding, offset: 0 } };
        Event::Entry(entry)
    }

    fn data<'a>(&mut self, input: &mut &'a [u8]) -> Option<Event<'a>> {
        let State::Data { left, padding, offset } = &mut self.state else { return None };
        let available = (*left).min(input.len() as u64);
        if available == 0 {
            return None;
        }
        // The map was checked to hold exactly the stored bytes, so it cannot end early.
        let (at, len) = match &mut self.walk {
            Some(walk) => walk.take(available)?,
            None => (*offset, available),
        };
        *offset += len;
        *left -= len;
        if *left == 0 {
            let padding = *padding;
            self.state = State::Ending { padding };
        }
        Some(Event::Data { offset: at, bytes: split_front(input, len) })
    }

    fn trailer(&mut self, input: &mut &[u8]) -> Result<()> {
        // What comes first is the reason, so that it does not depend on how the input was cut.
        let room = self.limits.max_trailing - self.trailing;
        let zeros = input.iter().position(|&byte| byte != 0).unwrap_or(input.len()) as u64;
        if zeros > room {
            return Err(Error::Limit("too many zeros after the end of the archive".into()));
        }
        if zeros < input.len() as u64 {
            return Err(Error::layer("tar: data after the end of the archive"));
        }
        self.trailing += zeros;
        *input = &[];
        Ok(())
    }

    fn name_of(&mut self, block: &[u8; BLOCK], pax: Option<Vec<u8>>) -> Result<Vec<u8>> {
        match (self.long_name.take(), pax) {
            (Some(_), Some(_)) => Err(Error::layer("tar: name given by GNU and by PAX headers")),
            (Some(name), None) | (None, Some(name)) => Ok(name),
            (None, None) => {
                let name = until_nul(&block[..100]);
                // Only POSIX ustar has a prefix; GNU keeps other fields in these bytes.
                let prefix = if &block[257..263] == b"ustar\0" { until_nul(&block[345..500]) } else { &[] };
                Ok(if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() })
            }
        }
    }

    fn check(&self, entry: &Entry) -> Result<()> {
        if entry.path.is_empty() {
            return Err(Error::layer("tar: entry without a name"));
        }
        for name in [&entry.path, &entry.link] {
            if name.len() > self.limits.max_path {
                return Err(Error::layer(format!("`{}`: file name too long", printable(name))));
            }
        }
        if i64::try_from(entry.size).is_err() {
            return Err(Error::layer(format!("`{}`: size is out of range", printable(&entry.path))));
        }
        Ok(())
    }
}

fn kind_of(flag: u8, path: &[u8]) -> Result<Kind> {
    Ok(match flag {
        // Before POSIX a directory was a file whose name ends in a slash.
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => return Err(Error::layer(format!("`{}`: unknown entry type `{}`", printable(path), printable(&[flag])))),
    })
}

/// The checksum counts the field itself as blanks. Old writers summed signed bytes.
fn check_sum(block: &[u8; BLOCK]) -> Result<()> {
    let bytes = || block.iter().enumerate().map(|(i, &b)| if (148..156).contains(&i) { b' ' } else { b });
    let unsigned: i64 = bytes().map(i64::from).sum();
    let stored = number::parse(&block[148..156], "checksum").map_err(|_| bad_header())?;
    if stored == unsigned || stored == bytes().map(|b| i64::from(b.cast_signed())).sum::<i64>() {
        return Ok(());
    }
    Err(bad_header())
}

fn bad_header() -> Error {
    Error::layer("invalid tar header")
}

fn padded(size: u64) -> Result<u64> {
    size.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| Error::layer("tar header: size is out of range"))
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|&b| b == 0).unwrap_or(field.len())]
}

fn split_front<'a>(input: &mut &'a [u8], most: u64) -> &'a [u8] {
    let (front, rest) = input.split_at(most.min(input.len() as u64) as usize);
    *input = rest;
    front
}

fn skip(input: &mut &[u8], most: u64) -> u64 {
    split_front(input, most).len() as u64
}
