//! Content that several volumes share: where a new layer may find what it holds, and how many bytes there are, each counted once.

use crate::error::Result;
use crate::layout::{Place, Store};
use crate::records::VolumeSize;
use groot_core::layer::Neighbours;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

/// Blobs of fewer bytes are unpacked before one has looked for what they hold.
const SMALL: u64 = 128 << 10;
/// How many volumes are looked at.
const VOLUMES: usize = 256;
/// Of a blob's bytes, the part that listings may have which are read for it: unpacking a byte of blob takes some thirty times as long
/// as reading one of a listing.
const PART: u64 = 32;
/// And no more than this, which is some hundred thousand files and takes some twenty megabytes of memory.
const MOST: u64 = 4 << 20;

impl Store {
    /// The volumes that were used last, the latest first, as many as are worth looking at.
    fn recent(&self) -> Result<Vec<String>> {
        let mut names: Vec<_> = self.volumes()?.into_iter().filter(|name| crate::volumes::is_chain_id(name)).collect();
        names.sort_by_cached_key(|name| Reverse(self.last_use(name)));
        names.truncate(VOLUMES);
        Ok(names)
    }

    /// Volumes that may hold what a layer of `bytes` compressed bytes does which is unpacked over the volume `below`: that one; those
    /// of the `recent` ones that were unpacked over the same one, as the layers of an application that is pushed again; the others.
    /// None if looking is not worth while. Which are recent is looked up once for all layers of an image: in a store of thousands of
    /// volumes it takes milliseconds.
    pub fn neighbours(&self, recent: &OnceLock<Vec<String>>, below: Option<&str>, bytes: u64) -> Result<Option<Neighbours>> {
        if bytes < SMALL {
            return Ok(None);
        }
        if recent.get().is_none() {
            let _ = recent.set(self.recent()?);
        }
        let recent = recent.get().map_or(&[][..], Vec::as_slice);
        let is_related = |name: &&String| self.read_listing_head(name).is_some_and(|head| head.parent.as_deref() == below);
        let (related, others): (Vec<_>, Vec<_>) = recent.iter().partition(is_related);
        let names: Vec<_> = below.map(str::to_owned).into_iter().chain(related.into_iter().chain(others).cloned()).collect();
        if names.is_empty() {
            return Ok(None);
        }
        let open = |place| self.folder(place)?.duplicate();
        Ok(Some(Neighbours { volumes: open(Place::Volumes)?, listings: open(Place::Meta)?, names, budget: MOST.min(bytes / PART) }))
    }

    /// The sizes of all finished volumes.
    pub fn ledger(&self) -> Result<Ledger> {
        let sizes = self.volumes()?.into_iter().filter_map(|name| Some((self.read_size(&name)?, name)));
        Ok(Ledger { sizes: sizes.map(|(size, name)| (name, size)).collect() })
    }

    /// Bytes of file content in all cached layers, used or not: what thresholds are compared with.
    pub fn cached_bytes(&self) -> Result<u64> {
        Ok(self.ledger()?.total())
    }

    /// Bytes of file content in the layers that no image uses, and in no other: what removing them would give back.
    pub fn unused_bytes(&self) -> Result<u64> {
        let used = crate::records::Dependencies::default().volumes(self)?;
        if self.volumes()?.iter().all(|name| used.contains(name)) {
            return Ok(0);
        }
        let mut ledger = self.ledger()?;
        let all = ledger.total();
        ledger.sizes.retain(|name, _| used.contains(name));
        Ok(all.saturating_sub(ledger.total()))
    }
}

/// Sizes of volumes, by name.
pub struct Ledger {
    sizes: BTreeMap<String, VolumeSize>,
}

impl Ledger {
    /// Bytes in all of them. What one cloned from another is counted with that one. If that one is gone, or was made anew since, it is
    /// counted once: with the volume that cloned most of it, because how much of that others have too was not recorded. Whoever
    /// owns the store can write any numbers into its records.
    #[must_use]
    pub fn total(&self) -> u64 {
        let mut total = 0u64;
        let mut orphaned: HashMap<&str, u64> = HashMap::new();
        for size in self.sizes.values() {
            let mut own = size.layer;
            for (source, &bytes) in &size.cloned {
                let cloned = bytes.min(own);
                own -= cloned;
                if self.sizes.get(source).is_none_or(|source| source.made >= size.made) {
                    let most = orphaned.entry(source).or_default();
                    *most = cloned.max(*most);
                }
            }
            total = total.saturating_add(own);
        }
        orphaned.values().fold(total, |total, &bytes| total.saturating_add(bytes))
    }

    /// The volume is gone.
    pub fn remove(&mut self, name: &str) {
        self.sizes.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Sizes<'a> = &'a [(&'a str, u64, u64, &'a [(&'a str, u64)])];

    fn ledger(sizes: Sizes<'_>) -> Ledger {
        let size = |made, layer, cloned: &[(&str, u64)]| VolumeSize {
            layer,
            made,
            cloned: cloned.iter().map(|&(name, bytes)| (name.to_owned(), bytes)).collect(),
            ..VolumeSize::default()
        };
        Ledger { sizes: sizes.iter().map(|&(name, made, layer, cloned)| (name.to_owned(), size(made, layer, cloned))).collect() }
    }

    #[test]
    fn shared_content_is_counted_once() {
        let mut all = ledger(&[("a", 0, 100, &[]), ("b", 2, 100, &[("a", 80)]), ("c", 3, 90, &[("a", 60), ("b", 10)])]);
        assert_eq!(all.total(), 100 + 20 + 20);
        // What b and c have of it is still on the disk: 80 at least.
        all.remove("a");
        assert_eq!(all.total(), 20 + 20 + 80);
        all.remove("b");
        assert_eq!(all.total(), 20 + 60 + 10);
        all.remove("c");
        assert_eq!(all.total(), 0);
    }

    #[test]
    fn a_volume_that_was_made_anew_is_not_the_one_that_was_cloned_from() {
        // The second a has what b kept of the first.
        assert_eq!(ledger(&[("a", 9, 100, &[("b", 80)]), ("b", 2, 100, &[("a", 80)])]).total(), 20 + 20 + 80);
    }

    #[test]
    fn any_numbers_are_added_up() {
        let all =
            ledger(&[("a", 0, u64::MAX, &[("x", u64::MAX), ("y", u64::MAX)]), ("b", 1, u64::MAX, &[("b", u64::MAX)]), ("c", 2, 5, &[])]);
        assert_eq!(all.total(), u64::MAX);
    }
}
