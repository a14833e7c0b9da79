//! Id mappings: their syntax, who owns a store because of them, and which of them root may trust (contract, section 12).

use crate::error::{Error, Kind, Result};
use groot_core::idmap::{IdMap, IdMaps, Range};
use std::fmt::Write;
use std::path::Path;

/// The last id; the one after it means "leave unchanged" to the kernel.
pub const MAX_ID: u64 = 0xFFFF_FFFE;

/// `size` ids from `inside` (in the image) are `host` and up on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mapping {
    /// First id in the image.
    pub inside: u32,
    /// First id on the host.
    pub host: u32,
    /// How many.
    pub size: u32,
}

impl std::fmt::Display for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.inside, self.host, self.size)
    }
}

impl Mapping {
    /// Parse `<namespace id>:<host id>:<size>`; the error has the original's words.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if parts.len() < 3 {
            let whole = parts.iter().filter(|part| !part.is_empty()).all(|part| is_number(part));
            return Err(if whole { "unexpected EOF" } else { "expected integer" }.to_owned());
        }
        if parts.len() > 3 || !parts.iter().all(|part| is_number(part)) {
            return Err("expected integer".to_owned());
        }
        let numbers: Vec<u64> = parts.iter().map(|part| part.parse().unwrap_or(u64::MAX)).collect();
        let &[inside, host, size] = &numbers[..] else { return Err("expected integer".to_owned()) };
        let end = |first: u64| first.checked_add(size).is_some_and(|end| end - 1 <= MAX_ID);
        if size == 0 || !end(inside) || !end(host) {
            return Err(format!("ids out of range: {text}"));
        }
        Ok(Self { inside: inside as u32, host: host as u32, size: size as u32 })
    }
}

/// The user and group mappings of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mappings {
    /// Of users.
    pub uids: Vec<Mapping>,
    /// Of groups.
    pub gids: Vec<Mapping>,
}

impl Mappings {
    /// Parse the values of `--uid-mapping` and `--gid-mapping`.
    pub fn parse(uids: &[String], gids: &[String]) -> Result<Self> {
        let all = |texts: &[String], kind: &str| -> Result<Vec<Mapping>> {
            let usage = |text: String| Error::new(Kind::Usage, text);
            let mappings = texts.iter().map(|text| Mapping::parse(text)).collect::<std::result::Result<Vec<_>, _>>();
            let mappings = mappings.map_err(|error| usage(format!("parsing {kind}-mapping: {error}")))?;
            check_overlap(&mappings).map_err(|(one, other)| usage(format!("{kind} mappings {one} and {other} overlap")))?;
            Ok(mappings)
        };
        Ok(Self { uids: all(uids, "uid")?, gids: all(gids, "gid")? })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// Host ids of the image's root if they have a mapping of size 1 of their own (contract, section 12.3).
    #[must_use]
    pub fn owner(&self) -> Option<(u32, u32)> {
        let root = |mappings: &[Mapping]| mappings.iter().find(|m| m.inside == 0 && m.size == 1).map(|m| m.host);
        Some((root(&self.uids)?, root(&self.gids)?))
    }

    /// As the extractor takes them.
    #[must_use]
    pub fn id_maps(&self) -> IdMaps {
        let map =
            |mappings: &[Mapping]| IdMap::new(mappings.iter().map(|m| Range { inside: m.inside, host: m.host, size: m.size }).collect());
        IdMaps { uid: map(&self.uids), gid: map(&self.gids) }
    }

    /// Whether the other holds the same, in any order.
    #[must_use]
    pub fn are_same(one: &[Mapping], other: &[Mapping]) -> bool {
        let sorted = |mappings: &[Mapping]| {
            let mut texts: Vec<String> = mappings.iter().map(ToString::to_string).collect();
            texts.sort();
            texts
        };
        sorted(one) == sorted(other)
    }

    /// What `meta/namespace.json` holds.
    #[must_use]
    pub fn document(&self) -> String {
        let list = |mappings: &[Mapping]| {
            let mut texts: Vec<String> = mappings.iter().map(|mapping| format!("\"{mapping}\"")).collect();
            texts.sort();
            texts.join(",")
        };
        let mut text = String::new();
        let _ = writeln!(text, "{{\"uid-mappings\":[{}],\"gid-mappings\":[{}]}}", list(&self.uids), list(&self.gids));
        text
    }

    /// What tells these mappings from others: all of them may be longer than an attribute can be.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("sha256:{}", groot_core::blob::sha256(self.document().as_bytes()))
    }

    /// Read such a document. Raises Store.
    pub fn read_document(bytes: &[u8]) -> Result<Self> {
        let invalid = |text: String| Error::store(text);
        let document = groot_document::parse_json(bytes).map_err(|error| invalid(format!("invalid namespace file: {error}")))?;
        let document = document.as_object().ok_or_else(|| invalid("invalid namespace file: not an object".into()))?;
        let all = |kind: &str| -> Result<Vec<Mapping>> {
            let Some(value) = document.get(&format!("{kind}-mappings")).filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
            let texts = crate::records::strings(value)
                .ok_or_else(|| invalid(format!("invalid namespace file: {kind}-mappings is not a list of strings")))?;
            let parsed = texts.iter().map(|text| Mapping::parse(text)).collect::<std::result::Result<Vec<_>, _>>();
            parsed.map_err(|error| invalid(format!("invalid {kind} mappings format: {error}")))
        };
        Ok(Self { uids: all("uid")?, gids: all("gid")? })
    }

    /// Whether every host id in them is the store owner's: its own, or one that `/etc/subuid` and `/etc/subgid` give to it.
    /// If not, the first mapping that goes further, and the file that does not allow it.
    pub fn check_subordinate(&self) -> std::result::Result<(), (Mapping, &'static str)> {
        let Some((uid, gid)) = self.owner() else {
            // Without an owner all of the store is root's, and so is what it says.
            return Ok(());
        };
        if uid == 0 {
            return Ok(());
        }
        let name = user_name(uid);
        for (file, own, mappings) in [("/etc/subuid", uid, &self.uids), ("/etc/subgid", gid, &self.gids)] {
            let allowed: Vec<(u64, u64)> = read_ranges(Path::new(file))
                .into_iter()
                .filter(|(who, ..)| *who == uid.to_string() || Some(who) == name.as_ref())
                .map(|(_, start, count)| (start, start + count))
                .collect();
            for &mapping in mappings {
                if !is_allowed(mapping, own, &allowed) {
                    return Err((mapping, file));
                }
            }
        }
        Ok(())
    }
}

fn is_allowed(mapping: Mapping, own: u32, allowed: &[(u64, u64)]) -> bool {
    let (first, end) = (u64::from(mapping.host), u64::from(mapping.host) + u64::from(mapping.size));
    if mapping.size == 1 && mapping.host == own {
        return true;
    }
    // Ranges that follow each other are one.
    let mut at = first;
    while let Some(&(_, stop)) = allowed.iter().find(|(start, stop)| *start <= at && at < *stop) {
        if stop >= end {
            return true;
        }
        at = stop;
    }
    false
}

/// The two mappings of a list that share ids on either side, if any do: which one would count depends on the reader.
fn check_overlap(mappings: &[Mapping]) -> std::result::Result<(), (Mapping, Mapping)> {
    let meet = |a: u32, a_size: u32, b: u32, b_size: u32| {
        let (a, b) = (u64::from(a), u64::from(b));
        a < b + u64::from(b_size) && b < a + u64::from(a_size)
    };
    for (i, one) in mappings.iter().enumerate() {
        for other in &mappings[i + 1..] {
            if meet(one.inside, one.size, other.inside, other.size) || meet(one.host, one.size, other.host, other.size) {
                return Err((*one, *other));
            }
        }
    }
    Ok(())
}

/// The lines of `/etc/subuid` or `/etc/subgid` as (user, first id, count); broken lines are left out.
#[must_use]
pub fn read_ranges(path: &Path) -> Vec<(String, u64, u64)> {
    let text = std::fs::read(path).unwrap_or_default();
    let parse = |line: &str| {
        let mut parts = line.trim().split(':');
        let (who, start, count) = (parts.next()?, parts.next()?, parts.next()?);
        let (start, count): (u32, u32) = (start.parse().ok()?, count.parse().ok()?);
        (parts.next().is_none() && count > 0).then(|| (who.to_owned(), u64::from(start), u64::from(count)))
    };
    String::from_utf8_lossy(&text).lines().filter_map(parse).collect()
}

/// The name of a user by `/etc/passwd`.
#[must_use]
pub fn user_name(uid: u32) -> Option<String> {
    name_in("/etc/passwd", uid)
}

/// The name of a group by `/etc/group`.
#[must_use]
pub fn group_name(gid: u32) -> Option<String> {
    name_in("/etc/group", gid)
}

/// The first name of an id in a file that has names in its first field and ids in its third.
fn name_in(path: &str, id: u32) -> Option<String> {
    let text = std::fs::read(path).ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_parsed_with_the_words_of_the_original() {
        assert_eq!(Mapping::parse("0:1000:1"), Ok(Mapping { inside: 0, host: 1000, size: 1 }));
        assert_eq!(Mapping::parse("1:2"), Err("unexpected EOF".into()));
        for text in ["a:b:c", "0:1000:1:2", "0:-1:5", "0:1000:", "+1:2:3"] {
            assert_eq!(Mapping::parse(text), Err("expected integer".into()), "{text}");
        }
        for text in ["0:0:0", "0:1:4294967295", "0:0:99999999999999999999999"] {
            assert!(Mapping::parse(text).unwrap_err().starts_with("ids out of range"), "{text}");
        }
    }

    #[test]
    fn an_owner_needs_a_mapping_of_its_own() {
        let parse = |uids: &[&str], gids: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
            Mappings::parse(&owned(uids), &owned(gids)).unwrap()
        };
        assert_eq!(parse(&["0:1000:1", "1:100000:9"], &["0:50:1"]).owner(), Some((1000, 50)));
        assert_eq!(parse(&["0:1000:2"], &["0:50:1"]).owner(), None);
        assert_eq!(parse(&[], &["0:50:1"]).owner(), None);
    }

    #[test]
    fn what_overlaps_is_refused() {
        let error = Mappings::parse(&["0:1000:2".into(), "1:5000:1".into()], &[]).unwrap_err();
        assert_eq!(error.text, "uid mappings 0:1000:2 and 1:5000:1 overlap");
        assert!(Mappings::parse(&["0:1000:2".into(), "2:1002:1".into()], &[]).is_ok());
    }

    #[test]
    fn a_document_is_read_as_it_was_written() {
        let mappings = Mappings::parse(&["1:100000:65535".into(), "0:1000:1".into()], &["0:1000:1".into()]).unwrap();
        let text = mappings.document();
        assert_eq!(text, "{\"uid-mappings\":[\"0:1000:1\",\"1:100000:65535\"],\"gid-mappings\":[\"0:1000:1\"]}\n");
        let read = Mappings::read_document(text.as_bytes()).unwrap();
        assert!(Mappings::are_same(&read.uids, &mappings.uids));
        assert!(Mappings::read_document(b"[]").is_err());
    }

    #[test]
    fn host_ids_of_others_are_not_allowed() {
        let allowed = [(100_000, 165_536), (165_536, 200_000)];
        let mapping = |host, size| Mapping { inside: 1, host, size };
        assert!(is_allowed(mapping(1000, 1), 1000, &allowed));
        assert!(is_allowed(mapping(100_000, 65_536), 1000, &allowed));
        assert!(is_allowed(mapping(150_000, 30_000), 1000, &allowed));
        assert!(!is_allowed(mapping(0, 65_536), 1000, &allowed));
        assert!(!is_allowed(mapping(1000, 2), 1000, &allowed));
        assert!(!is_allowed(mapping(150_000, 60_000), 1000, &allowed));
    }
}
