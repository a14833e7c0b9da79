//! PAX extended headers (POSIX.1-2017, pax, "pax Extended Header").

use super::entry::{Region, Time};
use crate::error::{Error, Result, printable};
use crate::limits::Limits;

/// What a PAX header sets. `None` leaves the ustar value.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Sparse,
}

/// The `GNU.sparse.*` keys of formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    pub count: Option<u64>,
    /// Regions of formats 0.0 and 0.1; format 1.0 has them in the data.
    pub map: Vec<Region>,
    /// Format 0.0 gives an offset and its length in two records.
    pending_offset: Option<u64>,
}

impl Sparse {
    pub(super) fn is_used(&self) -> bool {
        self.major.is_some() || self.count.is_some() || !self.map.is_empty() || self.real_size.is_some()
    }
}

impl Pax {
    /// Read the records of a per-entry header.
    pub(super) fn parse(body: &[u8], limits: &Limits) -> Result<Self> {
        let mut pax = Self::default();
        for record in Records(body) {
            let (key, value) = record?;
            pax.set(key, value, limits)?;
        }
        if pax.sparse.pending_offset.is_some() {
            return Err(bad("GNU.sparse.offset without GNU.sparse.numbytes"));
        }
        Ok(pax)
    }

    /// A global header may only say what does not touch the entries (comments, character sets): which entries it
    /// reaches differs between readers, so one that renames or resizes is refused.
    pub(super) fn check_global(body: &[u8]) -> Result<()> {
        for record in Records(body) {
            let (key, _) = record?;
            let touches = matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime")
                || key.starts_with(b"SCHILY.xattr.")
                || key.starts_with(b"GNU.sparse.");
            if touches {
                return Err(bad(format!("global header sets `{}`", printable(key))));
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<()> {
        match key {
            b"path" => self.path = name(key, value)?,
            b"linkpath" => self.link = name(key, value)?,
            b"size" => self.size = Some(number(key, value)?),
            b"uid" => self.uid = Some(number(key, value)?),
            b"gid" => self.gid = Some(number(key, value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {
                if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                    return self.set_xattr(attribute, value, limits);
                }
                if let Some(field) = key.strip_prefix(b"GNU.sparse.") {
                    return self.set_sparse(field, value, limits);
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, attribute: &[u8], value: &[u8], limits: &Limits) -> Result<()> {
        if attribute.is_empty() || attribute.contains(&0) {
            return Err(bad("extended attribute without a usable name"));
        }
        if value.len() > limits.max_xattr_value {
            return Err(Error::Limit(format!("extended attribute `{}` has {} bytes", printable(attribute), value.len())));
        }
        self.xattrs.retain(|(known, _)| known != attribute);
        if self.xattrs.len() >= limits.max_xattrs {
            return Err(Error::Limit(format!("more than {} extended attributes", limits.max_xattrs)));
        }
        let names = self.xattrs.iter().map(|(known, _)| known.len() + 1).sum::<usize>() + attribute.len() + 1;
        if names > limits.max_xattr_names {
            return Err(Error::Limit(format!("extended attributes whose names exceed {} bytes together", limits.max_xattr_names)));
        }
        self.xattrs.push((attribute.to_vec(), value.to_vec()));
        Ok(())
    }

    fn set_sparse(&mut self, field: &[u8], value: &[u8], limits: &Limits) -> Result<()> {
        let sparse = &mut self.sparse;
        match field {
            b"major" => sparse.major = Some(number(field, value)?),
            b"minor" => sparse.minor = Some(number(field, value)?),
            b"name" => sparse.name = name(field, value)?,
            b"size" | b"realsize" => sparse.real_size = Some(number(field, value)?),
            b"numblocks" => sparse.count = Some(number(field, value)?),
            b"offset" => {
                if sparse.pending_offset.replace(number(field, value)?).is_some() {
                    return Err(bad("two GNU.sparse.offset in a row"));
                }
            }
            b"numbytes" => {
                let offset = sparse.pending_offset.take().ok_or_else(|| bad("GNU.sparse.numbytes without its offset"))?;
                push_region(&mut sparse.map, Region { offset, len: number(field, value)? }, limits)?;
            }
            b"map" => {
                sparse.map.clear();
                let mut numbers = value.split(|&b| b == b',').map(|digits| number(field, digits));
                while let Some(offset) = numbers.next() {
                    let len = numbers.next().ok_or_else(|| bad("GNU.sparse.map has an odd number of values"))??;
                    push_region(&mut sparse.map, Region { offset: offset?, len }, limits)?;
                }
            }
            _ => return Err(bad(format!("unknown key `GNU.sparse.{}`", printable(field)))),
        }
        Ok(())
    }
}

pub(super) fn push_region(map: &mut Vec<Region>, region: Region, limits: &Limits) -> Result<()> {
    if map.len() >= limits.max_sparse_regions {
        return Err(Error::Limit(format!("sparse file with more than {} regions", limits.max_sparse_regions)));
    }
    map.push(region);
    Ok(())
}

fn bad(text: impl std::fmt::Display) -> Error {
    Error::layer(format!("PAX header: {text}"))
}

/// A name; an empty value deletes the override, as POSIX says.
fn name(key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
    if value.contains(&0) {
        return Err(bad(format!("`{}` contains a NUL", printable(key))));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn number(key: &[u8], value: &[u8]) -> Result<u64> {
    // `str::parse` would also take a leading `+`.
    let digits = (!value.is_empty() && value.iter().all(u8::is_ascii_digit)).then_some(value);
    digits
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok())
        .filter(|&n| i64::try_from(n).is_ok())
        .ok_or_else(|| bad(format!("`{}` is not a number: `{}`", printable(key), printable(value))))
}

/// Decimal seconds with an optional fraction; more than nine digits are cut off.
fn time(value: &[u8]) -> Result<Time> {
    parse_time(value).ok_or_else(|| bad(format!("`mtime` is not a time: `{}`", printable(value))))
}

fn parse_time(value: &[u8]) -> Option<Time> {
    let (negative, value) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
    let mut parts = value.splitn(2, |&b| b == b'.');
    let (whole, fraction) = (parts.next()?, parts.next().unwrap_or(b"0"));
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let seconds: i64 = std::str::from_utf8(whole).ok()?.parse().ok()?;
    let nanos = (0..9).fold(0, |n, i| n * 10 + fraction.get(i).map_or(0, |b| u32::from(b - b'0')));
    Some(match (negative, nanos) {
        (false, nanos) => Time { seconds, nanos },
        (true, 0) => Time { seconds: -seconds, nanos: 0 },
        (true, nanos) => Time { seconds: (-seconds).checked_sub(1)?, nanos: 1_000_000_000 - nanos },
    })
}

/// Iterator over `LENGTH KEY=VALUE\n` records. The length counts itself.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let result = split_record(self.0).map(|(key, value, rest)| {
            self.0 = rest;
            (key, value)
        });
        if result.is_none() {
            self.0 = &[];
        }
        Some(result.ok_or_else(|| bad("malformed record")))
    }
}

#[allow(clippy::type_complexity)]
fn split_record(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = body.iter().take(20).position(|&b| b == b' ')?;
    let digits = &body[..space];
    if digits.is_empty() || digits[0] == b'0' || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let record = body.get(..length)?;
    let pair = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|&b| b == b'=')?;
    if equals == 0 || pair[..equals].contains(&0) {
        return None;
    }
    Some((&pair[..equals], &pair[equals + 1..], &body[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(key: &str, value: &str) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        format!("{length} {key}={value}\n").into_bytes()
    }

    fn parse(body: &[u8]) -> Result<Pax> {
        Pax::parse(body, &Limits::default())
    }

    #[test]
    fn reads_the_known_keys() {
        let body = [
            record("path", "a=b/c"),
            record("size", "12"),
            record("uid", "3000000000"),
            record("mtime", "1234567890.123456"),
            record("SCHILY.xattr.user.colour", "green"),
            record("comment", "ignored"),
        ];
        let pax = parse(&body.concat()).unwrap();
        assert_eq!(pax.path.as_deref(), Some(b"a=b/c".as_slice()));
        assert_eq!((pax.size, pax.uid), (Some(12), Some(3_000_000_000)));
        assert_eq!(pax.mtime, Some(Time { seconds: 1_234_567_890, nanos: 123_456_000 }));
        assert_eq!(pax.xattrs, [(b"user.colour".to_vec(), b"green".to_vec())]);
    }

    #[test]
    fn times_before_the_epoch_count_upwards() {
        assert_eq!(parse_time(b"-1.25"), Some(Time { seconds: -2, nanos: 750_000_000 }));
        assert_eq!(parse_time(b"-3"), Some(Time { seconds: -3, nanos: 0 }));
        for bad in ["NaN", "", ".", "1.", ".5", "1e3", "99999999999999999999", "--1", "+1"] {
            assert_eq!(parse_time(bad.as_bytes()), None, "{bad}");
        }
    }

    /// C3: what looks like a record but is not ends the layer, it is never skipped.
    #[test]
    fn malformed_records_are_refused() {
        for body in [
            &b"9 path=ab"[..],
            b"8 path=a\n",
            b"path=a\n",
            b"0 path=a\n",
            b"09 path=a\n",
            b"7 patha\n",
            b"99999999999999999999 path=a\n",
            b"99 path=a\n",
            b"5 =a\n",
            b" path=a\n",
            b"-9 path=a\n",
            b"+9 path=a\n",
        ] {
            assert!(parse(body).is_err(), "{}", printable(body));
        }
        for (key, value) in [("size", "-1"), ("size", "+1"), ("size", ""), ("size", "9223372036854775808"), ("uid", "1x"), ("path", "a\0b")]
        {
            assert!(parse(&record(key, value)).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn sparse_keys_of_all_formats() {
        let pair = [record("GNU.sparse.offset", "1"), record("GNU.sparse.numbytes", "2")].concat();
        assert_eq!(parse(&pair).unwrap().sparse.map, [Region { offset: 1, len: 2 }]);
        assert_eq!(parse(&record("GNU.sparse.map", "1,2,5,6")).unwrap().sparse.map.len(), 2);
        for body in [record("GNU.sparse.map", "1,2,5"), record("GNU.sparse.offset", "1"), record("GNU.sparse.numbytes", "1")] {
            assert!(parse(&body).is_err());
        }
        let tight = Limits { max_sparse_regions: 1, ..Limits::default() };
        assert!(matches!(Pax::parse(&record("GNU.sparse.map", "1,2,5,6"), &tight), Err(Error::Limit(_))));
    }

    #[test]
    fn global_headers_may_not_touch_entries() {
        Pax::check_global(&record("comment", "x")).unwrap();
        for key in ["path", "size", "linkpath", "SCHILY.xattr.user.a", "GNU.sparse.map"] {
            assert!(Pax::check_global(&record(key, "1")).is_err(), "{key}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&body);
        }

        #[test]
        fn any_value_round_trips(value in "[^\0]{1,200}") {
            let pax = parse(&record("path", &value)).unwrap();
            prop_assert_eq!(pax.path.unwrap(), value.as_bytes());
        }
    }
}
