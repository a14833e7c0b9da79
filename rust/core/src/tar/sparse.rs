//! Sparse maps: old GNU headers, the map inside the data of PAX format 1.0, and the walk over the regions.

use super::entry::Region;
use super::number;
use super::pax::push_region;
use crate::error::{Error, Result};
use crate::limits::Limits;

/// Add the `count` (offset, length) pairs of an old GNU header. An empty slot ends the list.
pub(super) fn push_gnu_slots(map: &mut Vec<Region>, slots: &[u8], limits: &Limits) -> Result<()> {
    for slot in slots.chunks_exact(24) {
        if slot[0] == 0 {
            break;
        }
        let offset = number::parse_unsigned(&slot[..12], "sparse offset")?;
        let len = number::parse_unsigned(&slot[12..], "sparse length")?;
        push_region(map, Region { offset, len }, limits)?;
    }
    Ok(())
}

/// The map at the start of the data in format 1.0: decimal numbers, a newline after each, padded to a block.
#[derive(Debug, Default)]
pub(super) struct MapText {
    number: Option<u64>,
    digits: usize,
    count: Option<usize>,
    offset: Option<u64>,
    pub map: Vec<Region>,
}

impl MapText {
    /// Take one block; true when the map is complete.
    pub(super) fn feed(&mut self, block: &[u8], limits: &Limits) -> Result<bool> {
        for &byte in block {
            match byte {
                b'0'..=b'9' => {
                    self.digits += 1;
                    let value = self.number.unwrap_or(0);
                    let next = value.checked_mul(10).and_then(|n| n.checked_add(u64::from(byte - b'0')));
                    self.number = Some(next.filter(|_| self.digits <= 19).ok_or_else(malformed)?);
                }
                b'\n' => {
                    self.digits = 0;
                    let value = self.number.take().ok_or_else(malformed)?;
                    if self.push(value, limits)? {
                        return Ok(true);
                    }
                }
                _ => return Err(malformed()),
            }
        }
        Ok(false)
    }

    fn push(&mut self, value: u64, limits: &Limits) -> Result<bool> {
        let Some(count) = self.count else {
            let count = value as usize;
            if count > limits.max_sparse_regions {
                return Err(Error::Limit(format!("sparse file with more than {} regions", limits.max_sparse_regions)));
            }
            self.count = Some(count);
            return Ok(count == 0);
        };
        match self.offset.take() {
            None => self.offset = Some(value),
            Some(offset) => push_region(&mut self.map, Region { offset, len: value }, limits)?,
        }
        Ok(self.map.len() == count)
    }
}

fn malformed() -> Error {
    Error::layer("sparse map in the data is malformed")
}

/// Regions must ascend, not overlap, lie inside the file, and add up to the stored bytes.
pub(super) fn check(map: &[Region], stored: u64, real_size: u64) -> Result<()> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for region in map {
        let next = region.offset.checked_add(region.len).filter(|&next| region.offset >= end && next <= real_size);
        end = next.ok_or_else(|| Error::layer("sparse map: regions overlap or lie outside the file"))?;
        sum += region.len; // cannot overflow: regions are disjoint below `real_size`
    }
    if sum != stored {
        return Err(Error::layer(format!("sparse map: regions hold {sum} bytes, the archive has {stored}")));
    }
    if i64::try_from(real_size).is_err() {
        return Err(Error::layer("sparse map: file size is out of range"));
    }
    Ok(())
}

/// Gives each piece of data its offset in the file.
#[derive(Debug, Default)]
pub(super) struct Walk {
    map: std::vec::IntoIter<Region>,
    current: Option<Region>,
}

impl Walk {
    pub(super) fn new(map: Vec<Region>) -> Self {
        Self { map: map.into_iter(), current: None }
    }

    /// Offset and length of the next piece, at most `available` bytes long.
    pub(super) fn take(&mut self, available: u64) -> Option<(u64, u64)> {
        while self.current.is_none_or(|region| region.len == 0) {
            self.current = Some(self.map.next()?);
        }
        let region = self.current.as_mut()?;
        let (offset, len) = (region.offset, region.len.min(available));
        region.offset += len;
        region.len -= len;
        Some((offset, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(pairs: &[(u64, u64)]) -> Vec<Region> {
        pairs.iter().map(|&(offset, len)| Region { offset, len }).collect()
    }

    #[test]
    fn maps_are_held_against_the_file() {
        check(&regions(&[(0, 5), (5, 5), (20, 0)]), 10, 20).unwrap();
        for (map, stored, size) in [
            (regions(&[(5, 5), (0, 5)]), 10, 20),
            (regions(&[(0, 6), (5, 5)]), 11, 20),
            (regions(&[(18, 5)]), 5, 20),
            (regions(&[(u64::MAX, 5)]), 5, 20),
            (regions(&[(0, 5)]), 6, 20),
            (regions(&[]), 0, u64::MAX),
        ] {
            assert!(check(&map, stored, size).is_err(), "{map:?}");
        }
    }

    #[test]
    fn map_text_may_be_split_anywhere() {
        let text = b"2\n8192\n4096\n1048576\n4096\n";
        for split in 0..text.len() {
            let mut map = MapText::default();
            let limits = Limits::default();
            assert!(!map.feed(&text[..split], &limits).unwrap());
            assert!(map.feed(&text[split..], &limits).unwrap());
            assert_eq!(map.map, regions(&[(8192, 4096), (1_048_576, 4096)]));
        }
        for bad in [&b"\n"[..], b"x\n", b"99999999999999999999\n", b"1\n-1\n"] {
            assert!(MapText::default().feed(bad, &Limits::default()).is_err());
        }
    }

    #[test]
    fn walk_splits_at_region_ends() {
        let mut walk = Walk::new(regions(&[(10, 4), (50, 0), (100, 3)]));
        let steps: Vec<_> = std::iter::from_fn(|| walk.take(3)).collect();
        assert_eq!(steps, [(10, 3), (13, 1), (100, 3)]);
    }
}
