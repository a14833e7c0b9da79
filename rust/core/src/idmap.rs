//! Translation of ids in an archive to ids on the host.

use crate::error::{Error, Result};
use std::fmt;

/// One range: `size` ids from `inside` (as the archive says) become ids from `host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First id in the archive.
    pub inside: u32,
    /// First id on the host.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// A list of ranges; empty means "as they are".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMap(Vec<Range>);

impl IdMap {
    /// A map of these ranges, in the given order.
    #[must_use]
    pub fn new(ranges: Vec<Range>) -> Self {
        Self(ranges)
    }

    /// The host id for `id`, or `None` where no range holds it. `u32::MAX` is never an id: `chown` reads it as
    /// "leave unchanged", which would silently keep our own.
    #[must_use]
    pub fn translate(&self, id: u64) -> Option<u32> {
        let id = u32::try_from(id).ok().filter(|&id| id != u32::MAX)?;
        if self.0.is_empty() {
            return Some(id);
        }
        let host = self.0.iter().find_map(|range| {
            let offset = id.checked_sub(range.inside)?;
            if offset < range.size { range.host.checked_add(offset) } else { None }
        })?;
        (host != u32::MAX).then_some(host)
    }
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            let gap = if i == 0 { "" } else { " " };
            write!(f, "{gap}{}:{}:{}", range.inside, range.host, range.size)?;
        }
        Ok(())
    }
}

/// User and group maps of a store.
#[derive(Debug, Clone, Default)]
pub struct IdMaps {
    /// For user ids.
    pub uid: IdMap,
    /// For group ids.
    pub gid: IdMap,
}

impl IdMaps {
    /// Host owner for an entry. An id without a range is refused: giving the file to the host id of the same number
    /// would hand it to a stranger (contract, defect 16).
    pub fn owner(&self, uid: u64, gid: u64) -> Result<(u32, u32)> {
        Ok((host_id(&self.uid, "uid", uid)?, host_id(&self.gid, "gid", gid)?))
    }
}

fn host_id(map: &IdMap, kind: &str, id: u64) -> Result<u32> {
    map.translate(id).ok_or_else(|| {
        if map.0.is_empty() {
            Error::layer(format!("{kind} {id} is out of range"))
        } else {
            Error::layer(format!("{kind} {id} is not covered by the store's {kind} mappings ({map})"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(ranges: &[(u32, u32, u32)]) -> IdMap {
        IdMap::new(ranges.iter().map(|&(inside, host, size)| Range { inside, host, size }).collect())
    }

    #[test]
    fn follows_the_ranges() {
        let ids = map(&[(0, 1000, 1), (1, 100_000, 65_536)]);
        assert_eq!(ids.translate(0), Some(1000));
        assert_eq!(ids.translate(1), Some(100_000));
        assert_eq!(ids.translate(65_536), Some(165_535));
        assert_eq!(ids.translate(65_537), None);
        assert_eq!(map(&[(0, 200_000, 65_536)]).translate(33), Some(200_033));
    }

    #[test]
    fn never_gives_the_unchanged_marker() {
        assert_eq!(IdMap::default().translate(u64::from(u32::MAX)), None);
        assert_eq!(IdMap::default().translate(1 << 40), None);
        assert_eq!(map(&[(0, u32::MAX, 2)]).translate(0), None);
        assert_eq!(map(&[(0, u32::MAX, 2)]).translate(1), None);
    }

    #[test]
    fn refusal_names_id_and_map() {
        let ids = IdMaps { uid: map(&[(0, 1000, 1)]), gid: IdMap::default() };
        let text = ids.owner(900_000, 0).unwrap_err().to_string();
        assert!(text.contains("900000") && text.contains("0:1000:1"), "{text}");
    }

    proptest! {
        #[test]
        fn a_result_lies_in_a_range(inside: u32, host in 0u32..u32::MAX / 2, size in 1u32..100_000, id: u64) {
            if let Some(got) = map(&[(inside, host, size)]).translate(id) {
                prop_assert!(got >= host && u64::from(got) < u64::from(host) + u64::from(size));
                prop_assert_eq!(u64::from(got - host), id - u64::from(inside));
            }
        }
    }
}
