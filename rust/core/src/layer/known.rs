//! Files that other volumes of a store hold already, so that a layer's can be cloned from them instead of being written.
//!
//! What a volume holds stands in its listing: size and hash of every file. That is only where to look. The filler compares the bytes
//! (`twin`), so neither a listing that is wrong nor two contents with one hash bring anything into a layer that is not its own.

use super::twin::Twin;
use crate::listing::{self, Step};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Smaller files stand in the tree itself (`max_inline`), with their metadata: there is nothing to clone.
const LEAST: u64 = 2049;
/// Files up to this size are kept in memory until their hash is known. Of larger ones the size must do.
pub(super) const KEPT: u64 = 1 << 20;
/// How many larger files of one size are compared with.
const TWINS: usize = 4;
/// A listing's steps are at most this many times as large as the file they stand in.
const RATIO: u64 = 16;
/// Bytes of a path, with the name of the volume: what the kernel takes (`PATH_MAX`).
const PATH: usize = 4096;
/// Layers in one volume.
const LAYERS: usize = 512;

/// Volumes whose files may be cloned.
#[derive(Debug)]
pub struct Neighbours {
    /// The directory that the volumes are in, by the names that `names` gives.
    pub volumes: OwnedFd,
    /// The directory that their listings are in (`listing::file_name`).
    pub listings: OwnedFd,
    /// Names of volumes, the most promising first.
    pub names: Vec<String>,
    /// Bytes of listings that may be read: reading them must cost next to nothing beside unpacking the layer.
    pub budget: u64,
}

/// A layer of some volume.
struct Layer {
    /// Name of the volume whose top it is.
    name: String,
    ident: String,
    steps: Vec<u8>,
    below: Option<usize>,
    /// Where the directories stand that it made, by number.
    directories: HashMap<u64, u32>,
}

/// What the neighbours hold.
pub(super) struct Known {
    volumes: Arc<OwnedFd>,
    layers: Vec<Layer>,
    /// Layer and place in its steps, by size and hash, of files up to `KEPT`.
    by_content: HashMap<(u64, u64), (u32, u32)>,
    sizes: HashSet<u64>,
    /// The same for larger ones, by size.
    by_size: HashMap<u64, Vec<(u32, u32)>>,
}

impl Known {
    /// Read listings, as many as the budget allows. One that is missing or damaged says nothing.
    pub(super) fn read(neighbours: Neighbours) -> Self {
        let Neighbours { volumes, listings, names, mut budget } = neighbours;
        let mut known = Self {
            volumes: Arc::new(volumes),
            layers: Vec::new(),
            by_content: HashMap::new(),
            sizes: HashSet::new(),
            by_size: HashMap::new(),
        };
        let mut seen = HashMap::new();
        for name in names {
            known.add(&listings, name, &mut seen, &mut budget);
        }
        known
    }

    /// Name of a volume.
    pub(super) fn name(&self, volume: usize) -> &str {
        &self.layers[volume].name
    }

    /// Whether a file of this size may be known by its content.
    pub(super) fn may_hold(&self, size: u64) -> bool {
        self.sizes.contains(&size)
    }

    /// The file of this size and hash.
    pub(super) fn with_content(&self, size: u64, content: u64) -> Option<Twin> {
        let &(layer, place) = self.by_content.get(&(size, content))?;
        self.twin(layer, place)
    }

    /// Files of this size, which is larger than `KEPT`.
    pub(super) fn with_size(&self, size: u64) -> Vec<Twin> {
        let places = self.by_size.get(&size).into_iter().flatten();
        places.filter_map(|&(layer, place)| self.twin(layer, place)).collect()
    }

    /// Add a volume's layer and those below it, from the bottom up: names of its directories may stand there.
    fn add(&mut self, listings: &OwnedFd, name: String, seen: &mut HashMap<String, Option<usize>>, budget: &mut u64) {
        let mut stack = Vec::new();
        let mut at = Some(name);
        while let Some(name) = at.take() {
            if seen.contains_key(&name) {
                break;
            }
            // Until it is read: a circle ends here, and what cannot be read is not tried again.
            seen.insert(name.clone(), None);
            let Some((file, bytes)) = open_listing(listings, &name) else { break };
            if bytes > *budget || stack.len() == LAYERS {
                break;
            }
            *budget -= bytes;
            let Some((head, steps)) = listing::read_some(&file, bytes * RATIO) else { break };
            at.clone_from(&head.parent);
            stack.push((name, head, steps));
        }
        while let Some((name, head, steps)) = stack.pop() {
            let below = head.parent.as_ref().map(|parent| seen.get(parent).copied().flatten());
            let below = match below {
                None => None,
                Some(Some(below)) if Some(&self.layers[below].ident) == head.parent_ident.as_ref() => Some(below),
                // Without those below, its directories have no names.
                Some(_) => continue,
            };
            seen.insert(name.clone(), Some(self.layers.len()));
            self.index(Layer { name, ident: head.ident, steps, below, directories: HashMap::new() });
        }
    }

    fn index(&mut self, mut layer: Layer) {
        let number = self.layers.len() as u32;
        for (place, step) in listing::numbered(&layer.steps) {
            match step {
                Step::File { size, content, sparse: false, .. } if (LEAST..=KEPT).contains(&size) => {
                    self.by_content.entry((size, content)).or_insert((number, place));
                    self.sizes.insert(size);
                }
                Step::File { size, sparse: false, .. } if size > KEPT => {
                    let places = self.by_size.entry(size).or_default();
                    if places.len() < TWINS {
                        places.push((number, place));
                    }
                }
                Step::Directory { dir, .. } => drop(layer.directories.insert(dir, place)),
                _ => {}
            }
        }
        self.layers.push(layer);
    }

    fn twin(&self, number: u32, place: u32) -> Option<Twin> {
        let volume = number as usize;
        let Some(Step::File { at: (mut dir, name), size, .. }) = listing::step_at(&self.layers[volume].steps, place) else { return None };
        let mut parts = vec![name];
        let mut length = name.len() + self.layers[volume].name.len() + 1;
        while let Some((above, name)) = self.directory(volume, dir) {
            length += name.len() + 1;
            if length > PATH {
                return None;
            }
            parts.push(name);
            dir = above;
        }
        parts.push(self.layers[volume].name.as_bytes());
        parts.reverse();
        Some(Twin { volumes: Arc::clone(&self.volumes), path: parts.join(&b'/'), size, volume })
    }

    /// What a directory is in, and its name there; None for the root.
    fn directory(&self, volume: usize, dir: u64) -> Option<(u64, &[u8])> {
        let mut at = Some(volume);
        while let Some(layer) = at.map(|number| &self.layers[number]) {
            if let Some(&place) = layer.directories.get(&dir) {
                let Some(Step::Directory { at, .. }) = listing::step_at(&layer.steps, place) else { return None };
                return Some(at);
            }
            at = layer.below;
        }
        None
    }
}

/// A volume's listing and its size in bytes.
fn open_listing(listings: impl AsFd, name: &str) -> Option<(File, u64)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = File::from(groot_btrfs::open(listings, listing::file_name(name).as_bytes(), flags, Mode::empty(), resolve).ok()?);
    let found = file.metadata().ok()?;
    found.is_file().then_some((file, found.len()))
}
