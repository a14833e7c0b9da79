//! The small files below `meta/`: what an image is made of, how large a volume is, which name gave which volumes.
//!
//! One damaged record never stops anything: it reads as missing, and `clean` goes on.

use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::layout::{Place, Store};
use groot_core::blob::sha256;
use groot_core::listing;
use groot_document::{Value, format_json, json, parse_json};
use groot_image::Digest;
use groot_image::chain::chain_ids;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Bytes of a record.
pub const MAX_RECORD: u64 = 1 << 20;
const SIZE: &str = "volume-";

/// What a create has to know of an image besides its layers' bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Names of the volumes, bottom to top.
    pub chain_ids: Vec<String>,
    /// The configuration, as it goes to `image.json`.
    pub config: Vec<u8>,
    /// Variables of its configuration.
    pub env: Vec<String>,
    /// Paths that its configuration declares as volumes, sorted.
    pub volumes: Vec<String>,
    /// Bytes of all blobs as the manifest gives them.
    pub compressed: u64,
    /// Digest of the manifest or index that a registry had under the image's name.
    pub named: Option<String>,
}

/// Bytes of file content: of the layer itself, and of the whole tree in its volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSize {
    /// Of the layer.
    pub layer: u64,
    /// Of the tree; None in records of the original.
    pub tree: Option<u64>,
    /// Nobody compared the bytes with their digests (`--skip-layer-validation`).
    pub unvalidated: bool,
    /// What tells the local file that the layer was from another one of the same name and time.
    pub file: Option<String>,
    /// How many layers of images are in it, above the volume that it was built on.
    pub layers: u64,
    /// When it was unpacked, in nanoseconds since 1970; 0 if that is not known.
    pub made: u64,
    /// Of the layer, bytes that were cloned then, by the volume that had them.
    pub cloned: BTreeMap<String, u64>,
}

impl Default for VolumeSize {
    fn default() -> Self {
        Self { layer: 0, tree: None, unvalidated: false, file: None, layers: 1, made: 0, cloned: BTreeMap::new() }
    }
}

fn parse(data: &[u8]) -> Option<Value> {
    parse_json(data).ok()
}

/// The strings of an array of strings; None for anything else.
pub(crate) fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

/// The numbers of an object of numbers; None for anything else.
fn numbers(value: &Value) -> Option<BTreeMap<String, u64>> {
    value.as_object()?.iter().map(|(name, number)| Some((name.clone(), number.as_u64()?))).collect()
}

/// Bytes of layers. Whoever owns the store can write any numbers into its records.
pub(crate) fn sum(sizes: impl Iterator<Item = VolumeSize>) -> u64 {
    sizes.fold(0, |total, size| size.layer.saturating_add(total))
}

fn remove(folder: &Folder, name: &[u8]) -> Result<()> {
    match folder.unlink(name) {
        Ok(()) => Ok(()),
        // Something that is no record; if it is not empty it stays.
        Err(Errno::ISDIR) => {
            let _ = folder.rmdir(name);
            Ok(())
        }
        Err(errno) => Err(Error::os(format!("unlink {}", folder.path_of(name).display()), errno)),
    }
}

/// Id of the image whose record has this name; None for the name of something else.
#[must_use]
pub fn recorded_image(name: &[u8]) -> Option<&[u8]> {
    name.strip_prefix(b"image:")?.strip_suffix(b".json")
}

/// Chain id of the volume whose record has this name; None for the name of something else.
#[must_use]
pub fn recorded_volume(name: &str) -> Option<&str> {
    name.strip_prefix(SIZE).or_else(|| name.strip_prefix(listing::PREFIX))
}

fn dependency_name(id: &[u8]) -> Vec<u8> {
    [b"image:", id, b".json"].concat()
}

fn source_name(image: &str) -> Vec<u8> {
    format!("{}.json", sha256(image.as_bytes())).into_bytes()
}

impl Store {
    fn write_json(&self, place: Place, name: &[u8], value: &Value, end: &str) -> Result<()> {
        let place = self.place_record(place, name, 0o644)?;
        Ok(groot_core::record::write(&place, (format_json(value) + end).as_bytes())?)
    }

    fn read_json(&self, place: Place, name: &[u8]) -> Option<Value> {
        parse(&self.folder(place).ok()?.read(name, MAX_RECORD)?)
    }

    /// Make one of the folders in `meta` that the original does not have, unless it is there.
    pub(crate) fn make_in_meta(&self, place: Place, mode: u32) -> Result<()> {
        if self.folder(place).is_ok() {
            return Ok(());
        }
        let name = place.path().trim_start_matches("meta/");
        match self.folder(Place::Meta)?.make(name.as_bytes(), mode, self.owner()) {
            Ok(_) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(Error::os(format!("mkdir {}", place.path()), errno)),
        }
    }

    // -- images --------------------------------------------------------------

    /// Record the volumes of an image, bottom to top (contract, section 11.3).
    pub fn write_dependencies(&self, id: &[u8], chain_ids: &[String]) -> Result<()> {
        self.write_json(Place::Dependencies, &dependency_name(id), &json!(chain_ids), "")
    }

    /// The volumes of an image; None if there is no usable record.
    #[must_use]
    pub fn read_dependencies(&self, id: &[u8]) -> Option<Vec<String>> {
        strings(&self.read_json(Place::Dependencies, &dependency_name(id))?)
    }

    /// The volumes of an image as its configuration names them; None if it does not say any.
    #[must_use]
    pub fn configured_volumes(&self, id: &[u8]) -> Option<Vec<String>> {
        let image = self.folder(Place::Images).ok()?.folder(id).ok()?;
        let document = parse(&image.read(b"image.json", MAX_RECORD)?)?;
        let texts = strings(document.get("rootfs")?.get("diff_ids")?)?;
        let diff_ids: Vec<Digest> = texts.iter().map(|text| Digest::parse(text).ok()).collect::<Option<_>>()?;
        Some(chain_ids(&diff_ids))
    }

    /// Forget the volumes of an image. Missing is fine.
    pub fn remove_dependencies(&self, id: &[u8]) -> Result<()> {
        remove(self.folder(Place::Dependencies)?, &dependency_name(id))
    }

    /// Ids of all images that have a record.
    pub fn recorded_images(&self) -> Result<Vec<Vec<u8>>> {
        let names = self.folder(Place::Dependencies)?.names()?;
        Ok(names.iter().filter_map(|name| recorded_image(name)).map(<[u8]>::to_vec).collect())
    }

    // -- volumes -------------------------------------------------------------

    /// Record the size of a volume.
    pub fn write_size(&self, chain_id: &str, size: VolumeSize) -> Result<()> {
        let mut value = match size.tree {
            Some(tree) => json!({"Size": size.layer, "TreeSize": tree}),
            None => json!({"Size": size.layer}),
        };
        if size.unvalidated {
            value["Unvalidated"] = json!(true);
        }
        if let Some(file) = size.file {
            value["File"] = json!(file);
        }
        if size.layers > 1 {
            value["Layers"] = json!(size.layers);
        }
        if size.made > 0 {
            value["Made"] = json!(size.made);
        }
        if !size.cloned.is_empty() {
            value["Cloned"] = json!(size.cloned);
        }
        self.write_json(Place::Meta, format!("{SIZE}{chain_id}").as_bytes(), &value, "\n")
    }

    /// The size of a volume; None if there is no usable record.
    #[must_use]
    pub fn read_size(&self, chain_id: &str) -> Option<VolumeSize> {
        let value = self.read_json(Place::Meta, format!("{SIZE}{chain_id}").as_bytes())?;
        Some(VolumeSize {
            layer: value.get("Size")?.as_u64()?,
            tree: value.get("TreeSize").and_then(Value::as_u64),
            unvalidated: value.get("Unvalidated").and_then(Value::as_bool).unwrap_or(false),
            file: value.get("File").and_then(Value::as_str).map(str::to_owned),
            layers: value.get("Layers").and_then(Value::as_u64).unwrap_or(1),
            made: value.get("Made").and_then(Value::as_u64).unwrap_or(0),
            cloned: value.get("Cloned").and_then(numbers).unwrap_or_default(),
        })
    }

    /// Bytes of all files in an image. If the original made the top volume, the sum of its layers (an upper bound).
    #[must_use]
    pub fn tree_size(&self, chain_ids: &[String]) -> u64 {
        if let Some(tree) = chain_ids.last().and_then(|top| self.read_size(top)).and_then(|size| size.tree) {
            return tree;
        }
        sum(chain_ids.iter().filter_map(|chain_id| self.read_size(chain_id)))
    }

    /// The head of a volume's listing; None if there is no usable one.
    #[must_use]
    pub fn read_listing_head(&self, chain_id: &str) -> Option<listing::Head> {
        let data = self.folder(Place::Meta).ok()?.read(listing::file_name(chain_id).as_bytes(), listing::Head::MOST)?;
        Some(listing::Head::parse(&data)?.0)
    }

    /// Where the listing of a layer goes that is unpacked over the volume `below`, and into a volume that other layers were unpacked
    /// into before if it `goes_on`.
    pub fn new_listing(&self, chain_id: &str, below: Option<&str>, goes_on: bool) -> Result<listing::Target> {
        let head = below.and_then(|below| self.read_listing_head(below));
        let parent = format!("{} {}", below.unwrap_or("-"), head.map_or_else(|| "-".to_owned(), |head| head.ident));
        let place = self.place_record(Place::Meta, listing::file_name(chain_id).as_bytes(), 0o644)?;
        Ok(listing::Target { place, parent, goes_on })
    }

    /// Of these chain ids, bottom to top, those that are in no volume of their own: in one with others above them.
    #[must_use]
    pub fn joined(&self, chain_ids: &[String]) -> BTreeSet<String> {
        let mut joined = BTreeSet::new();
        for (at, chain_id) in chain_ids.iter().enumerate() {
            let layers = self.read_size(chain_id).map_or(1, |size| size.layers);
            let first = at.saturating_sub(usize::try_from(layers.saturating_sub(1)).unwrap_or(at));
            joined.extend(chain_ids[first..at].iter().cloned());
        }
        joined
    }

    /// The listings of a volume's layers, bottom to top, each open and with the path that messages call it by; None if one is
    /// missing, or speaks of another volume below.
    #[must_use]
    pub fn open_listings(&self, chain_id: &str) -> Option<Vec<(String, std::fs::File)>> {
        let meta = self.folder(Place::Meta).ok()?;
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut at = chain_id.to_owned();
        let mut head = self.read_listing_head(&at)?;
        while seen.insert(at.clone()) {
            let name = listing::file_name(&at);
            let file = meta.file(name.as_bytes(), rustix::fs::OFlags::RDONLY).ok()?;
            found.push((meta.path_of(name.as_bytes()).display().to_string(), file));
            let Some(parent) = head.parent else {
                found.reverse();
                return Some(found);
            };
            let below = self.read_listing_head(&parent)?;
            if Some(&below.ident) != head.parent_ident.as_ref() {
                return None;
            }
            (at, head) = (parent, below);
        }
        None
    }

    /// Forget size and content of a volume. Missing is fine.
    pub fn remove_volume_records(&self, chain_id: &str) -> Result<()> {
        let meta = self.folder(Place::Meta)?;
        remove(meta, format!("{SIZE}{chain_id}").as_bytes())?;
        remove(meta, listing::file_name(chain_id).as_bytes())
    }

    /// Drop the records of volumes that are gone. Only while nobody builds any: the records come before the volume.
    pub fn prune_volumes(&self, volumes: &BTreeSet<String>) -> Result<()> {
        for name in self.folder(Place::Meta)?.names()? {
            if let Some(chain_id) = std::str::from_utf8(&name).ok().and_then(recorded_volume)
                && !volumes.contains(chain_id)
            {
                self.remove_volume_records(chain_id)?;
            }
        }
        Ok(())
    }

    // -- names of images -----------------------------------------------------

    /// Record what an image name stood for, unless that is what the record already says.
    ///
    /// For `clean --ignore-image`, and for pulls that need not ask the registry. It need not be there after a crash.
    pub fn write_source(&self, name: &str, image: &Image) -> Result<()> {
        let config = (image.config.len() as u64 <= MAX_RECORD / 4).then(|| String::from_utf8_lossy(&image.config).into_owned());
        let value = json!({
            "image": name,
            "volumes": image.chain_ids,
            "compressed": image.compressed,
            "config": config,
            "env": image.env,
            "declared": image.volumes,
            "named": image.named,
        });
        let file = source_name(name);
        if self.read_json(Place::Sources, &file).as_ref() == Some(&value) {
            return Ok(());
        }
        self.make_in_meta(Place::Sources, 0o755)?;
        self.write_json(Place::Sources, &file, &value, "")
    }

    /// The volumes an image name stood for when it was last created.
    #[must_use]
    pub fn read_source(&self, name: &str) -> Vec<String> {
        let value = self.read_json(Place::Sources, &source_name(name));
        value.and_then(|value| strings(value.get("volumes")?)).unwrap_or_default()
    }

    /// The image a name stood for when it was last created, as far as it can be used without its source. None if the record
    /// does not say everything.
    #[must_use]
    pub fn recall(&self, name: &str) -> Option<Image> {
        let value = self.read_json(Place::Sources, &source_name(name))?;
        if value.get("image")?.as_str()? != name {
            return None;
        }
        let texts = |key: &str| strings(value.get(key)?);
        let image = Image {
            chain_ids: texts("volumes")?,
            config: value.get("config")?.as_str()?.as_bytes().to_vec(),
            env: texts("env")?,
            volumes: texts("declared")?,
            compressed: value.get("compressed")?.as_u64()?,
            named: value.get("named").and_then(Value::as_str).map(str::to_owned),
        };
        (!image.chain_ids.is_empty()).then_some(image)
    }

    /// Names in `meta/sources` that are no such record.
    #[must_use]
    pub fn damaged_sources(&self) -> Vec<Vec<u8>> {
        let Ok(folder) = self.folder(Place::Sources) else { return Vec::new() };
        let is_source = |name: &[u8]| {
            let value = folder.read(name, MAX_RECORD).and_then(|data| parse(&data));
            value.is_some_and(|value| value.get("image").is_some_and(Value::is_string) && value.get("volumes").and_then(strings).is_some())
        };
        let names = folder.names().unwrap_or_default();
        names.into_iter().filter(|name| !is_source(name) && folder.has(name)).collect()
    }

    /// Remove a record of a name.
    pub fn remove_source(&self, name: &[u8]) -> Result<()> {
        remove(self.folder(Place::Sources)?, name)
    }

    /// Drop the records of names none of whose volumes exist any more.
    pub fn prune_sources(&self, volumes: &BTreeSet<String>) -> Result<()> {
        let Ok(folder) = self.folder(Place::Sources) else { return Ok(()) };
        for name in folder.names()? {
            let data = folder.read(&name, MAX_RECORD);
            if data.is_none() && matches!(folder.try_read(&name, 1), Err(Errno::IO)) {
                continue; // the disk refuses to read it now, which says nothing of what it holds
            }
            let kept = data.and_then(|data| strings(parse(&data)?.get("volumes")?)).unwrap_or_default();
            if !kept.iter().any(|volume| volumes.contains(volume)) {
                remove(folder, &name)?;
            }
        }
        Ok(())
    }
}

/// The records of all images, kept up to date. A record is replaced, never changed, and BTRFS gives no inode number twice,
/// so each inode is read once. A cell runs thousands of images of a few stacks: each stack is parsed once.
#[derive(Default)]
pub struct Dependencies {
    known: HashMap<u64, Vec<u8>>,
    parsed: HashMap<Vec<u8>, Vec<String>>,
}

impl Dependencies {
    /// Volumes that the records name now, and for an image whose record cannot be used its configuration. If that says
    /// nothing either, the image uses nothing: its tree does not depend on its volumes, so the worst is that they are pulled
    /// again (contract, defect 15).
    pub fn volumes(&mut self, store: &Store) -> Result<HashSet<String>> {
        let folder = store.folder(Place::Dependencies)?;
        let mut known = HashMap::new();
        for entry in folder.entries()? {
            let Some(id) = recorded_image(&entry.name) else { continue };
            let stack = match self.known.remove(&entry.inode) {
                Some(stack) => stack,
                None => self.read(store, folder, id, &entry.name),
            };
            known.insert(entry.inode, stack);
        }
        self.known = known;
        let stacks: HashSet<&Vec<u8>> = self.known.values().collect();
        Ok(stacks.into_iter().flat_map(|stack| self.parsed[stack].iter().cloned()).collect())
    }

    /// What an image's record holds, or what it should hold; a key of `parsed`.
    fn read(&mut self, store: &Store, folder: &Folder, id: &[u8], name: &[u8]) -> Vec<u8> {
        let data = folder.read(name, MAX_RECORD).unwrap_or_default();
        if self.parsed.contains_key(&data) {
            return data;
        }
        if let Some(volumes) = parse(&data).as_ref().and_then(strings) {
            self.parsed.insert(data.clone(), volumes);
            return data;
        }
        let volumes = store.configured_volumes(id).unwrap_or_default();
        let data = format_json(&json!(volumes)).into_bytes();
        self.parsed.insert(data.clone(), volumes);
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_known_by_their_names() {
        assert_eq!(recorded_image(b"image:a.json"), Some(&b"a"[..]));
        assert_eq!(recorded_image(b"baseimage:a.json"), None);
        assert_eq!(recorded_volume("volume-x"), Some("x"));
        assert_eq!(recorded_volume("listing-x"), Some("x"));
        assert_eq!(recorded_volume("namespace.json"), None);
    }
}
