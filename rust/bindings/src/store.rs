//! The store for Python: the object that the native commands work on, thinly.

use crate::errors::store_error;
use crate::layers::{Cancel, Ranges, run_store};
use groot_btrfs::quota::{self, Accounting};
use groot_btrfs::subvolume;
use groot_store::clean::{self, Outcome};
use groot_store::folder::Folder;
use groot_store::images::{self, Wishes};
use groot_store::layout::{Options, Place};
use groot_store::mappings::{Mapping, Mappings};
use groot_store::records::{Dependencies, Image, VolumeSize};
use groot_store::volumes::Demand;
use groot_store::{Error, Helper, Kind, Level, Observer, Result, Unit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// A store that is open.
#[pyclass(frozen, module = "groot_fast._core")]
pub struct Store(Arc<groot_store::Store>);

/// A held lock.
#[pyclass(frozen, module = "groot_fast._core")]
pub struct Lock(Mutex<Option<Held>>);

enum Held {
    File(groot_store::locks::Lock),
    Folder(#[allow(dead_code)] Folder),
}

/// A turn to ask a registry.
#[pyclass(frozen, module = "groot_fast._core")]
pub struct Turn {
    #[pyo3(get)]
    answered: bool,
    waited: Option<Duration>,
    held: Mutex<Option<groot_store::turns::Turn>>,
}

#[pymethods]
impl Turn {
    /// Nanoseconds.
    #[getter]
    fn waited(&self) -> Option<u128> {
        self.waited.map(|waited| waited.as_nanos())
    }

    fn asking(&self) {
        if let Some(turn) = &mut *open(&self.held) {
            turn.asking();
        }
    }

    fn end(&self, answered: bool) {
        if let Some(turn) = open(&self.held).take()
            && answered
        {
            turn.answer();
        }
    }
}

/// A volume, with the locks on it and on those below.
#[pyclass(frozen, module = "groot_fast._core")]
pub struct Volume(Mutex<Option<groot_store::volumes::Volume>>);

fn open<T>(slot: &Mutex<T>) -> MutexGuard<'_, T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gone() -> Error {
    Error::store("the volume was handed on already")
}

/// Python's `log` and `metrics` as an observer. Either may be None.
struct PyObserver {
    log: Py<PyAny>,
    metrics: Py<PyAny>,
}

impl Observer for PyObserver {
    fn log(&self, level: Level, action: &str, data: &[(&str, &str)]) {
        let call = |py: Python<'_>| -> PyResult<()> {
            if self.log.is_none(py) {
                return Ok(());
            }
            let kwargs = PyDict::new(py);
            for (name, value) in data {
                kwargs.set_item(name, value)?;
            }
            let log = self.log.bind(py);
            if level == Level::Error {
                let error = kwargs.get_item("error")?;
                kwargs.del_item("error")?;
                log.call_method("error", (action, error), Some(&kwargs))?;
            } else {
                log.call_method(if level == Level::Info { "info" } else { "debug" }, (action,), Some(&kwargs))?;
            }
            Ok(())
        };
        // A line that cannot be written is no reason to fail.
        let _ = Python::attach(call);
    }

    fn measure(&self, name: &str, value: u64, unit: Unit) {
        let unit = if unit == Unit::Nanos { "nanos" } else { "bytes" };
        let _ = Python::attach(|py| {
            if self.metrics.is_none(py) { Ok(()) } else { self.metrics.bind(py).call_method1("send", (name, value, unit)).map(drop) }
        });
    }
}

/// A Python object that works in a user namespace.
struct PyHelper(Py<PyAny>);

fn from_python(py: Python<'_>, error: &PyErr) -> Error {
    let text = error.value(py).to_string();
    match error.value(py).getattr("errno").and_then(|errno| errno.extract::<i32>()) {
        Ok(errno) => {
            let said = error.value(py).getattr("strerror").and_then(|said| said.extract::<String>()).unwrap_or(text);
            Error::new(Kind::Os(errno), said)
        }
        Err(_) => Error::store(text),
    }
}

impl Helper for PyHelper {
    fn snapshot(&self, source: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &[u8], limit: Option<subvolume::Limit>) -> Result<()> {
        let limit = limit.map(|limit| (limit.bytes, limit.exclusive));
        Python::attach(|py| {
            let arguments = (source.as_raw_fd(), parent.as_raw_fd(), OsString::from_vec(name.to_vec()), limit);
            self.0.bind(py).call_method1("snapshot", arguments).map(drop).map_err(|error| from_python(py, &error))
        })
    }

    fn copy(&self, root: BorrowedFd<'_>, path: &[u8], target: BorrowedFd<'_>) -> Result<bool> {
        Python::attach(|py| {
            let arguments = (root.as_raw_fd(), OsString::from_vec(path.to_vec()), target.as_raw_fd());
            let copied = self.0.bind(py).call_method1("copy", arguments).and_then(|copied| copied.extract());
            copied.map_err(|error: PyErr| from_python(py, &error))
        })
    }

    fn remove(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u64>> {
        Python::attach(|py| {
            let arguments = (parent.as_raw_fd(), OsString::from_vec(name.to_vec()));
            let ids = self.0.bind(py).call_method1("remove", arguments).and_then(|ids| ids.extract());
            ids.map_err(|error: PyErr| from_python(py, &error))
        })
    }
}

fn options(drax: OsString, helper: Option<Py<PyAny>>) -> Options {
    Options { drax, helper: helper.map(|helper| Arc::new(PyHelper(helper)) as Arc<dyn Helper>) }
}

fn mappings((uids, gids): (Ranges, Ranges)) -> Mappings {
    let all = |ranges: Ranges| ranges.into_iter().map(|(inside, host, size)| Mapping { inside, host, size }).collect();
    Mappings { uids: all(uids), gids: all(gids) }
}

fn ranges(mappings: &[Mapping]) -> Ranges {
    mappings.iter().map(|m| (m.inside, m.host, m.size)).collect()
}

/// What Python's `Created` and sources know an image by: chain ids, configuration, variables, volumes, bytes of all blobs,
/// digest that a registry has under its name.
pub type ImageParts = (Vec<String>, Vec<u8>, Vec<String>, Vec<String>, u64, Option<String>);

fn image((chain_ids, config, env, volumes, compressed, named): ImageParts) -> Image {
    Image { chain_ids, config, env, volumes, compressed, named }
}

/// Validated, and of which local file.
type Needs = (bool, Option<String>);

fn of_needs((validated, file): Needs) -> Demand {
    Demand { validated, file }
}

fn name(bytes: Vec<u8>) -> OsString {
    OsString::from_vec(bytes)
}

fn place(folder: &str) -> Result<Place> {
    let all =
        [Place::Images, Place::Volumes, Place::Meta, Place::Locks, Place::Temporary, Place::Dependencies, Place::Sources, Place::Proofs];
    all.into_iter().find(|place| place.path() == folder).ok_or_else(|| Error::store(format!("a store has no folder `{folder}`")))
}

/// (mode, uid, gid, size, modification time in seconds)
type Stat = (u32, u32, u32, u64, f64);

impl Store {
    fn call<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&groot_store::Store) -> Result<T> + Send) -> PyResult<T> {
        py.detach(|| work(&self.0)).map_err(|error| store_error(py, error))
    }

    fn image(&self, id: &OsString) -> Result<Folder> {
        let images = self.0.folder(Place::Images)?;
        images.folder(id.as_bytes()).map_err(|errno| Error::os(format!("open {}", images.path_of(id.as_bytes()).display()), errno))
    }
}

#[pymethods]
impl Store {
    /// Open a store.
    #[staticmethod]
    #[pyo3(signature = (path, *, drax, helper=None))]
    fn open(py: Python<'_>, path: PathBuf, drax: OsString, helper: Option<Py<PyAny>>) -> PyResult<Self> {
        let options = options(drax, helper);
        let store = py.detach(|| groot_store::Store::open(&path, options)).map_err(|error| store_error(py, error))?;
        Ok(Self(Arc::new(store)))
    }

    /// Open as much of a store as there is.
    #[staticmethod]
    fn open_any(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let store = py.detach(|| groot_store::Store::open_any(&path, Options::default()));
        store.map(|store| Self(Arc::new(store))).map_err(|error| store_error(py, error))
    }

    /// Make a directory a store.
    #[staticmethod]
    fn initialise(py: Python<'_>, path: PathBuf, maps: (Ranges, Ranges)) -> PyResult<Self> {
        let made = py.detach(|| groot_store::Store::initialise(&path, mappings(maps), Options::default()));
        made.map(|store| Self(Arc::new(store))).map_err(|error| store_error(py, error))
    }

    /// Whether everything that makes a store is there.
    #[staticmethod]
    fn is_initialised(py: Python<'_>, path: PathBuf) -> PyResult<bool> {
        groot_store::Store::is_there(&path).map_err(|error| store_error(py, error))
    }

    #[getter]
    fn path(&self) -> OsString {
        self.0.path().as_os_str().to_owned()
    }

    #[getter]
    fn owner(&self) -> Option<(u32, u32)> {
        self.0.mappings().owner()
    }

    #[getter]
    fn uids(&self) -> Ranges {
        ranges(&self.0.mappings().uids)
    }

    #[getter]
    fn gids(&self) -> Ranges {
        ranges(&self.0.mappings().gids)
    }

    // -- locks ---------------------------------------------------------------

    #[pyo3(signature = (key, *, shared=false))]
    fn try_lock(&self, py: Python<'_>, key: &str, shared: bool) -> PyResult<Option<Lock>> {
        Ok(self.call(py, |store| store.try_lock(key, shared))?.map(Lock::of))
    }

    fn observe(&self, py: Python<'_>, key: &str) -> PyResult<Option<Lock>> {
        Ok(self.call(py, |store| store.observe(key))?.map(Lock::of))
    }

    #[pyo3(signature = (key, *, shared=false, deadline, cancel))]
    fn lock(&self, py: Python<'_>, key: &str, shared: bool, deadline: f64, cancel: &Cancel) -> PyResult<Lock> {
        let deadline = Duration::try_from_secs_f64(deadline).unwrap_or(Duration::MAX);
        run_store(py, &cancel.0, || self.0.lock(key, shared, deadline, &cancel.0)).map(Lock::of)
    }

    fn discard_lock(&self, py: Python<'_>, key: &str, lock: &Lock) -> PyResult<()> {
        match open(&lock.0).take() {
            Some(Held::File(held)) => self.call(py, |store| store.discard(key, held)),
            _ => Ok(()),
        }
    }

    fn lock_missing(&self, py: Python<'_>, chain_id: &str, demand: Needs, log: Py<PyAny>, cancel: &Cancel) -> PyResult<Option<Lock>> {
        let demand = of_needs(demand);
        let observer = PyObserver { log, metrics: py.None() };
        Ok(run_store(py, &cancel.0, || self.0.lock_missing(chain_id, &demand, &observer, &cancel.0))?.map(Lock::of))
    }

    fn lock_image(&self, py: Python<'_>, id: OsString) -> PyResult<Option<Lock>> {
        let held = self.call(py, |store| store.lock_image(id.as_bytes()))?;
        Ok(held.map(|folder| Lock(Mutex::new(Some(Held::Folder(folder))))))
    }

    // -- images --------------------------------------------------------------

    fn check_new_image(&self, py: Python<'_>, id: OsString) -> PyResult<()> {
        self.call(py, |store| store.check_new_image(id.as_bytes()))
    }

    fn has_image(&self, py: Python<'_>, id: OsString) -> PyResult<bool> {
        self.call(py, |store| store.has_image(id.as_bytes()))
    }

    fn images(&self, py: Python<'_>) -> PyResult<Vec<OsString>> {
        Ok(self.call(py, groot_store::Store::images)?.into_iter().map(name).collect())
    }

    fn image_is_copy(&self, py: Python<'_>, id: OsString) -> PyResult<bool> {
        self.call(py, |store| store.image_is_copy(id.as_bytes()))
    }

    fn image_tree(&self, py: Python<'_>, id: OsString) -> PyResult<Option<String>> {
        let found = self.call(py, |store| store.image_tree(id.as_bytes()))?;
        Ok(found.map(|(_, tree)| String::from_utf8_lossy(tree).into_owned()))
    }

    #[pyo3(signature = (volume, id, image_parts, *, limit, exclude_image, without_mount, without_volumes, idmapped, source, log, metrics, cancel))]
    #[allow(clippy::too_many_arguments)]
    fn create_image(
        &self,
        py: Python<'_>,
        volume: &Volume,
        id: OsString,
        image_parts: ImageParts,
        limit: u64,
        exclude_image: bool,
        without_mount: bool,
        without_volumes: bool,
        idmapped: Option<(Ranges, Ranges)>,
        source: &str,
        log: Py<PyAny>,
        metrics: Py<PyAny>,
        cancel: &Cancel,
    ) -> PyResult<OsString> {
        let observer = PyObserver { log, metrics };
        let wishes = Wishes { limit, exclude_image, without_mount, idmapped: idmapped.map(mappings), without_volumes };
        let image = image(image_parts);
        let volume = open(&volume.0).take().ok_or_else(|| store_error(py, gone()))?;
        let work = || self.0.create_image(volume, id.as_bytes(), &image, &wishes, source, &observer, &cancel.0);
        run_store(py, &cancel.0, work).map(PathBuf::into_os_string)
    }

    fn delete_image(&self, py: Python<'_>, id: OsString, cancel: &Cancel) -> PyResult<()> {
        run_store(py, &cancel.0, || self.0.delete_image(id.as_bytes(), &cancel.0))
    }

    fn image_usage(&self, py: Python<'_>, id: OsString) -> PyResult<(u64, u64)> {
        self.call(py, |store| store.image_usage(id.as_bytes())).map(|used| (used.total, used.exclusive))
    }

    fn counted_usage(&self, py: Python<'_>, id: OsString) -> PyResult<(u64, u64)> {
        self.call(py, |store| store.counted_usage(id.as_bytes())).map(|used| (used.total, used.exclusive))
    }

    fn image_size(&self, py: Python<'_>, id: OsString) -> PyResult<u64> {
        self.call(py, |store| store.image_size(id.as_bytes()))
    }

    fn image_limit(&self, py: Python<'_>, id: OsString) -> PyResult<Option<u64>> {
        self.call(py, |store| store.image_limit(id.as_bytes()))
    }

    fn kernel_limits(&self, py: Python<'_>, id: OsString) -> PyResult<(Option<u64>, Option<u64>)> {
        self.call(py, |store| match store.image_tree(id.as_bytes())? {
            Some((image, tree)) => store.limits_of(&image, tree),
            None => Ok((None, None)),
        })
    }

    fn committed_limits(&self, py: Python<'_>) -> PyResult<u64> {
        self.call(py, groot_store::Store::committed_limits)
    }

    fn committed_to(&self, py: Python<'_>, id: OsString) -> PyResult<u64> {
        self.call(py, |store| store.committed_to(id.as_bytes()))
    }

    fn committed_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        self.call(py, groot_store::Store::committed_bytes)
    }

    fn measured_bytes(&self, py: Python<'_>, counts_limits: bool) -> PyResult<u64> {
        self.call(py, |store| store.measured_bytes(counts_limits))
    }

    fn image_attribute<'py>(&self, py: Python<'py>, id: OsString, attribute: &str) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let value = self.call(py, |_| Ok(self.image(&id)?.attribute(attribute)))?;
        Ok(value.map(|value| PyBytes::new(py, &value)))
    }

    fn image_number(&self, py: Python<'_>, id: OsString, attribute: &str) -> PyResult<Option<u64>> {
        self.call(py, |_| Ok(self.image(&id)?.number(attribute)))
    }

    fn set_image_attribute(&self, py: Python<'_>, id: OsString, attribute: &str, value: Option<Vec<u8>>) -> PyResult<()> {
        self.call(py, |_| {
            let image = self.image(&id)?;
            match value {
                Some(value) => image.set_attribute(attribute, &value),
                None => rustix::fs::fremovexattr(&image, attribute)
                    .map_err(|errno| Error::os(format!("removing {attribute} of {}", image.path().display()), errno)),
            }
        })
    }

    fn remove_unfinished(&self, py: Python<'_>) -> PyResult<Vec<(OsString, String)>> {
        Ok(told(self.call(py, groot_store::Store::remove_unfinished)?))
    }

    fn is_mounted(&self, py: Python<'_>, id: OsString) -> PyResult<bool> {
        self.call(py, |_| Ok(subvolume::is_mount(self.image(&id)?, b"rootfs").unwrap_or(false)))
    }

    // -- volumes -------------------------------------------------------------

    fn has_volume(&self, py: Python<'_>, volume: &str) -> PyResult<bool> {
        self.call(py, |store| store.has_volume(volume))
    }

    fn volumes(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        Ok(self.call(py, groot_store::Store::volumes)?.into_iter().collect())
    }

    fn unused_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        self.call(py, groot_store::Store::unused_bytes)
    }

    fn has_usable(&self, py: Python<'_>, chain_id: &str, demand: Needs) -> PyResult<bool> {
        self.call(py, |store| store.has_usable(chain_id, &of_needs(demand)))
    }

    fn existing_volume(&self, py: Python<'_>, chain_ids: Vec<String>, demand: Needs, cancel: &Cancel) -> PyResult<Option<Volume>> {
        let demand = of_needs(demand);
        let found = run_store(py, &cancel.0, || self.0.existing_volume(&chain_ids, &demand, &cancel.0))?;
        Ok(found.map(|volume| Volume(Mutex::new(Some(volume)))))
    }

    fn make_volume(&self, py: Python<'_>, chain_id: &str, below: Option<&Volume>) -> PyResult<Volume> {
        let made = self.call(py, |store| {
            let below = below.map(|below| open(&below.0));
            let below = match &below {
                Some(slot) => Some(slot.as_ref().ok_or_else(gone)?),
                None => None,
            };
            store.make_volume(chain_id, below)
        })?;
        Ok(Volume(Mutex::new(Some(made))))
    }

    fn destroy_incomplete(&self, py: Python<'_>, volume: &Volume, full: bool, cancel: &Cancel) -> PyResult<()> {
        let Some(volume) = open(&volume.0).take() else { return Ok(()) };
        self.call(py, |store| store.destroy_incomplete(volume, full, &cancel.0))
    }

    fn publish(&self, py: Python<'_>, volume: &Volume, durable: bool) -> PyResult<()> {
        self.call(py, |store| open(&volume.0).as_mut().ok_or_else(gone)?.publish(store, durable))
    }

    fn joined(&self, py: Python<'_>, chain_ids: Vec<String>) -> PyResult<BTreeSet<String>> {
        self.call(py, |store| Ok(store.joined(&chain_ids)))
    }

    #[pyo3(signature = (chain_id, below, *, goes_on))]
    fn listing(&self, py: Python<'_>, chain_id: &str, below: Option<&str>, goes_on: bool) -> PyResult<Listing> {
        let target = self.call(py, |store| store.new_listing(chain_id, below, goes_on))?;
        Ok(Listing { owner: target.place.owner, target: Mutex::new(Some(target)) })
    }

    fn neighbours(&self, py: Python<'_>, recent: &Recent, below: Option<&str>, bytes: u64) -> PyResult<Option<Neighbours>> {
        let found = self.call(py, |store| store.neighbours(&recent.0, below, bytes))?;
        Ok(found.map(|found| Neighbours(Mutex::new(Some(found)))))
    }

    fn record_missing_sizes(&self, py: Python<'_>, cancel: &Cancel) -> PyResult<()> {
        run_store(py, &cancel.0, || self.0.record_missing_sizes(&cancel.0))
    }

    /// How many entries, how many different, what of the first; None if the volume cannot be verified.
    fn open_listings(&self, py: Python<'_>, volume: &str) -> PyResult<Option<Vec<(String, i32)>>> {
        let found = self.call(py, |store| Ok(store.open_listings(volume)))?;
        Ok(found.map(|files| files.into_iter().map(|(name, file)| (name, file.into_raw_fd())).collect()))
    }

    fn open_volume(&self, py: Python<'_>, volume: &str) -> PyResult<i32> {
        self.call(py, |store| duplicate(&store.open_volume(volume)?))
    }

    fn content_of_volume(&self, py: Python<'_>, volume: &str, cancel: &Cancel) -> PyResult<u64> {
        run_store(py, &cancel.0, || groot_store::volumes::content(&self.0.open_volume(volume)?, &cancel.0))
    }

    fn content_of_image(&self, py: Python<'_>, id: OsString, cancel: &Cancel) -> PyResult<u64> {
        run_store(py, &cancel.0, || {
            let Some((image, tree)) = self.0.image_tree(id.as_bytes())? else { return Ok(0) };
            let tree = image.folder(tree).map_err(|errno| Error::os(format!("open {}", image.path_of(tree).display()), errno))?;
            groot_store::volumes::content(&tree, &cancel.0)
        })
    }

    // -- records -------------------------------------------------------------

    fn read_size(&self, py: Python<'_>, chain_id: &str) -> PyResult<Option<(u64, Option<u64>, u64)>> {
        let cloned = |size: &VolumeSize| size.cloned.values().fold(0u64, |sum, &bytes| sum.saturating_add(bytes)).min(size.layer);
        self.call(py, |store| Ok(store.read_size(chain_id).map(|size| (size.layer, size.tree, cloned(&size)))))
    }

    #[pyo3(signature = (chain_id, layer, tree, made, cloned, layers))]
    #[allow(clippy::too_many_arguments)]
    fn write_size(
        &self,
        py: Python<'_>,
        chain_id: &str,
        layer: u64,
        tree: Option<u64>,
        made: Needs,
        cloned: BTreeMap<String, u64>,
        layers: u64,
    ) -> PyResult<()> {
        let (validated, file) = made;
        let now = groot_store::layout::nanos_now() as u64;
        let size = VolumeSize { layer, tree, unvalidated: !validated, file, layers, made: now, cloned };
        self.call(py, |store| store.write_size(chain_id, size))
    }

    fn read_dependencies(&self, py: Python<'_>, id: OsString) -> PyResult<Option<Vec<String>>> {
        self.call(py, |store| Ok(store.read_dependencies(id.as_bytes())))
    }

    fn write_dependencies(&self, py: Python<'_>, id: OsString, chain_ids: Vec<String>) -> PyResult<()> {
        self.call(py, |store| store.write_dependencies(id.as_bytes(), &chain_ids))
    }

    fn configured_volumes(&self, py: Python<'_>, id: OsString) -> PyResult<Option<Vec<String>>> {
        self.call(py, |store| Ok(store.configured_volumes(id.as_bytes())))
    }

    fn recorded_images(&self, py: Python<'_>) -> PyResult<Vec<OsString>> {
        Ok(self.call(py, groot_store::Store::recorded_images)?.into_iter().map(name).collect())
    }

    fn used_volumes(&self, py: Python<'_>) -> PyResult<std::collections::HashSet<String>> {
        self.call(py, |store| Dependencies::default().volumes(store))
    }

    fn recall(&self, py: Python<'_>, source: &str) -> PyResult<Option<ImageParts>> {
        let found = self.call(py, |store| Ok(store.recall(source)))?;
        Ok(found.map(|image| (image.chain_ids, image.config, image.env, image.volumes, image.compressed, image.named)))
    }

    fn damaged_sources(&self, py: Python<'_>) -> PyResult<Vec<OsString>> {
        self.call(py, |store| Ok(store.damaged_sources().into_iter().map(name).collect()))
    }

    fn remove_source(&self, py: Python<'_>, file: OsString) -> PyResult<()> {
        self.call(py, |store| store.remove_source(file.as_bytes()))
    }

    fn has_proof(&self, py: Python<'_>, shown: Vec<String>, lifetime: u64) -> PyResult<bool> {
        self.call(py, |store| Ok(store.has_proof(&shown, Duration::from_secs(lifetime))))
    }

    fn keep_proof(&self, py: Python<'_>, shown: Vec<String>, lifetime: u64) -> PyResult<()> {
        self.call(py, |store| store.keep_proof(&shown, Duration::from_secs(lifetime)))
    }

    fn turn(&self, py: Python<'_>, question: &str, cancel: &Cancel) -> PyResult<Turn> {
        let turn = run_store(py, &cancel.0, || self.0.turn(question, &cancel.0))?;
        Ok(Turn { answered: turn.answered, waited: turn.waited(), held: Mutex::new(Some(turn)) })
    }

    // -- upkeep --------------------------------------------------------------

    #[pyo3(signature = (*, conditions, keep, rules, ignore_images, on_create, log, metrics, cancel))]
    #[allow(clippy::too_many_arguments)]
    fn clean(
        &self,
        py: Python<'_>,
        conditions: (u64, u64, u64),
        keep: u64,
        rules: &crate::calls::Rules,
        ignore_images: Vec<String>,
        on_create: bool,
        log: Py<PyAny>,
        metrics: Py<PyAny>,
        cancel: &Cancel,
    ) -> PyResult<&'static str> {
        let observer = PyObserver { log, metrics };
        let (counts_limits, spares_equal) = (rules.0.counts_limits, rules.0.spares_equal);
        let (threshold, free, free_percent) = conditions;
        let wishes = clean::Wishes { threshold, free, free_percent, keep, counts_limits, spares_equal, ignore_images, on_create };
        Ok(match run_store(py, &cancel.0, || self.0.clean(&wishes, &observer, &cancel.0))? {
            Outcome::Done => "done",
            Outcome::BelowThreshold => "below threshold",
            Outcome::Running => "running",
        })
    }

    fn doom(&self, py: Python<'_>, volumes: Vec<String>, log: Py<PyAny>) -> PyResult<()> {
        let observer = PyObserver { log, metrics: py.None() };
        self.call(py, |store| {
            let mut dependencies = Dependencies::default();
            volumes.iter().try_for_each(|volume| store.doom(volume, &mut dependencies, &observer))
        })
    }

    fn destroy_marked(&self, py: Python<'_>, log: Py<PyAny>, cancel: &Cancel) -> PyResult<Vec<(OsString, String)>> {
        let observer = PyObserver { log, metrics: py.None() };
        Ok(told(run_store(py, &cancel.0, || self.0.destroy_marked(true, &observer, &cancel.0))?))
    }

    fn drop_stale_records(&self, py: Python<'_>, log: Py<PyAny>) -> PyResult<()> {
        let observer = PyObserver { log, metrics: py.None() };
        self.call(py, |store| store.drop_stale_records(&observer))
    }

    fn prune_volumes(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, |store| store.prune_volumes(&store.volumes()?))
    }

    fn remove_lock_files(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, |store| store.remove_lock_files(&store.volumes()?))
    }

    fn remove_temporary(&self, py: Python<'_>, alone: bool, keep_downloads: f64) -> PyResult<()> {
        self.call(py, |store| store.remove_temporary(alone, Duration::from_secs_f64(keep_downloads)))
    }

    fn keep_limits(&self, py: Python<'_>, for_root: bool) -> PyResult<()> {
        self.call(py, |store| store.keep_limits(for_root))
    }

    fn check_removable(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, groot_store::Store::check_removable)
    }

    fn unmount_images(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, groot_store::Store::unmount_images)
    }

    fn take_apart(&self, py: Python<'_>, cancel: &Cancel) -> PyResult<Vec<(OsString, String)>> {
        Ok(told(run_store(py, &cancel.0, || self.0.take_apart(&cancel.0))?))
    }

    fn forget_mappings(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, groot_store::Store::forget_mappings)
    }

    // -- what is there -------------------------------------------------------

    fn names(&self, py: Python<'_>, folder: &str) -> PyResult<Vec<OsString>> {
        let found = self.call(py, |store| match folder {
            "" => store.top().names(),
            _ => store.folder(place(folder)?)?.names(),
        })?;
        Ok(found.into_iter().map(name).collect())
    }

    fn stat(&self, py: Python<'_>, folder: &str, entry: OsString) -> PyResult<Option<Stat>> {
        let found = self.call(py, |store| {
            let folder = if folder.is_empty() { store.top() } else { store.folder(place(folder)?)? };
            let stat = if entry.is_empty() { rustix::fs::fstat(folder).map(Some) } else { folder.stat(entry.as_bytes()) };
            stat.map_err(|errno| Error::os(format!("stat {}", folder.path_of(entry.as_bytes()).display()), errno))
        })?;
        #[allow(clippy::cast_precision_loss)] // as Python's own `st_mtime`
        let time = |stat: &rustix::fs::Stat| stat.st_mtime as f64 + stat.st_mtime_nsec as f64 / 1e9;
        Ok(found.map(|stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size.cast_unsigned(), time(&stat))))
    }

    fn is_subvolume(&self, py: Python<'_>, folder: &str, entry: OsString) -> PyResult<bool> {
        self.call(py, |store| store.folder(place(folder)?)?.has_subvolume(entry.as_bytes()))
    }

    /// Whether the caller may make images.
    fn may_write(&self, py: Python<'_>) -> PyResult<bool> {
        let access = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        self.call(py, |store| {
            let flags = rustix::fs::AtFlags::empty();
            Ok(store.folder(Place::Images).is_ok_and(|images| rustix::fs::accessat(images, ".", access, flags).is_ok()))
        })
    }

    fn is_locked(&self, py: Python<'_>, folder: &str, entry: OsString) -> PyResult<bool> {
        self.call(py, |store| {
            let folder = store.folder(place(folder)?)?;
            let name = entry.as_bytes();
            // A download, or the directory of an image that is being made.
            let opened = if folder.has_directory(name) {
                folder.folder(name).and_then(|dir| dir.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE))
            } else {
                folder.file(name, OFlags::RDONLY).map(Into::into)
            };
            match opened {
                Ok(opened) => {
                    let fail = |errno| Error::os(format!("locking {}", folder.path_of(name).display()), errno);
                    let held = groot_store::locks::flock(&opened, true).map_err(fail)?;
                    Ok(!(held && groot_store::locks::is_at(&opened, folder, name)))
                }
                Err(errno) => Ok(errno == Errno::NOENT),
            }
        })
    }

    fn nested_in_volume(&self, py: Python<'_>, volume: &str) -> PyResult<Vec<OsString>> {
        self.call(py, |store| nested(&store.open_volume(volume)?))
    }

    fn subvolumes(&self, py: Python<'_>) -> PyResult<Vec<OsString>> {
        self.call(py, |store| nested(store.top()))
    }

    fn open_download(&self, py: Python<'_>, digest: &str) -> PyResult<i32> {
        self.call(py, |store| {
            let folder = store.folder(Place::Temporary)?;
            let entry = format!("blob-{digest}");
            let fail = |errno| Error::os(format!("open {}", folder.path_of(entry.as_bytes()).display()), errno);
            match folder.open_or_make(entry.as_bytes(), store.owner()) {
                Err(Errno::INVAL) => Err(Error::store(format!("{} is not a download", folder.path_of(entry.as_bytes()).display()))),
                other => Ok(other.map_err(fail)?.into_raw_fd()),
            }
        })
    }

    fn is_download_at(&self, py: Python<'_>, digest: &str, descriptor: i32) -> PyResult<bool> {
        self.call(py, |store| {
            let file = groot_core::process::duplicate(descriptor)?;
            Ok(groot_store::locks::is_at(&file, store.folder(Place::Temporary)?, format!("blob-{digest}").as_bytes()))
        })
    }

    fn remove_download(&self, py: Python<'_>, digest: &str, inode: u64) -> PyResult<()> {
        self.call(py, |store| {
            let folder = store.folder(Place::Temporary)?;
            let entry = format!("blob-{digest}");
            let remove = || match folder.stat(entry.as_bytes())? {
                Some(stat) if stat.st_ino == inode => folder.unlink(entry.as_bytes()),
                _ => Ok(()),
            };
            remove().map_err(|errno| Error::os(format!("unlink {}", folder.path_of(entry.as_bytes()).display()), errno))
        })
    }

    fn open_nameless_download(&self, py: Python<'_>) -> PyResult<i32> {
        self.call(py, |store| {
            let folder = store.folder(Place::Temporary)?;
            Ok(folder.nameless().map_err(|errno| Error::os(format!("open a file in {}", folder.path().display()), errno))?.into_raw_fd())
        })
    }

    fn space(&self, py: Python<'_>) -> PyResult<(u64, u64, u64, Option<u64>, bool)> {
        let room = self.call(py, groot_store::Store::room)?;
        Ok((room.size, room.free, room.available, room.below, room.is_read_only))
    }

    fn reach(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.call(py, groot_store::Store::room)?.reach())
    }

    // -- the file system -----------------------------------------------------

    fn sync(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, groot_store::Store::sync)
    }

    fn accounting(&self, py: Python<'_>) -> PyResult<Option<&'static str>> {
        self.call(py, groot_store::Store::accounting).map(mode)
    }

    fn uuid(&self, py: Python<'_>) -> PyResult<String> {
        self.call(py, |store| groot_btrfs::uuid(store.top()).map_err(|errno| Error::os("BTRFS_IOC_FS_INFO", errno)))
    }

    fn is_inconsistent(&self, py: Python<'_>) -> PyResult<bool> {
        self.call(py, |store| Ok(store.groups()?.is_inconsistent()))
    }

    fn stale_groups(&self, py: Python<'_>) -> PyResult<Vec<(u64, u64)>> {
        self.call(py, |store| {
            let found = store.groups()?.stale(store.folder(Place::Volumes)?);
            found.map_err(|errno| Error::os("looking for quota groups without a subvolume", errno))
        })
    }

    fn is_own_group(&self, py: Python<'_>, id: u64) -> PyResult<bool> {
        self.call(py, |store| {
            quota::is_ours(store.folder(Place::Volumes)?, id).map_err(|errno| Error::os(format!("looking at quota group 1/{id}"), errno))
        })
    }

    fn remove_stale_groups(&self, py: Python<'_>) -> PyResult<u64> {
        self.call(py, groot_store::Store::remove_stale_groups)
    }

    fn subvolumes_of_image(&self, py: Python<'_>, id: OsString) -> PyResult<Vec<u64>> {
        self.call(py, |store| {
            let Some((image, tree)) = store.image_tree(id.as_bytes())? else { return Ok(Vec::new()) };
            let mut names = groot_store::Store::declared_in(&image)?;
            names.push(tree.to_vec());
            let number = |name: &Vec<u8>| groot_btrfs::open_below(&image, name).and_then(subvolume::id_of);
            let failed = |name: &Vec<u8>, errno| Error::os(format!("open {}", image.path_of(name).display()), errno);
            names.iter().map(|name| number(name).map_err(|errno| failed(name, errno))).collect()
        })
    }

    fn subvolume_exists(&self, py: Python<'_>, id: u64) -> PyResult<bool> {
        self.call(py, |store| {
            subvolume::exists(store.folder(Place::Volumes)?, id).map_err(|errno| Error::os(format!("looking up subvolume {id}"), errno))
        })
    }

    /// Let an image that is there grow by so many bytes and no more (simple accounting).
    fn restrict(&self, py: Python<'_>, id: OsString, left: u64) -> PyResult<()> {
        self.call(py, |store| {
            let Some((image, tree)) = store.image_tree(id.as_bytes())? else { return Ok(()) };
            let fail = |errno| Error::os(format!("limiting {}", image.path_of(tree).display()), errno);
            let number = groot_btrfs::open_below(&image, tree).and_then(subvolume::id_of).map_err(fail)?;
            let limit = subvolume::Limit { bytes: left, exclusive: false };
            quota::limit_group(&image, number, limit).map_err(fail)?;
            match quota::enclose(&image, number, limit) {
                Err(Errno::EXIST) => Ok(()),
                other => other.and_then(|()| store.enclose_declared(&image, number)).map_err(fail),
            }
        })
    }
}

fn told(left: Vec<(PathBuf, Error)>) -> Vec<(OsString, String)> {
    left.into_iter().map(|(path, error)| (path.into_os_string(), error.text)).collect()
}

fn duplicate(fd: &impl AsFd) -> Result<i32> {
    fd.as_fd().try_clone_to_owned().map(IntoRawFd::into_raw_fd).map_err(|_| Error::os("dup", Errno::MFILE))
}

fn nested(dir: &Folder) -> Result<Vec<OsString>> {
    // The kernel says the same of what lies elsewhere in the subvolume and of what may not be seen.
    let found = subvolume::nested(dir, &[Errno::NOENT, Errno::ACCESS]);
    let found = found.map_err(|errno| Error::os(format!("listing subvolumes in {}", dir.path().display()), errno))?;
    Ok(found.into_iter().map(|nested| name(nested.path())).collect())
}

fn mode(accounting: Accounting) -> Option<&'static str> {
    match accounting {
        Accounting::Off => None,
        Accounting::Full => Some("full"),
        Accounting::Simple => Some("simple"),
    }
}

impl Lock {
    fn of(lock: groot_store::locks::Lock) -> Self {
        Self(Mutex::new(Some(Held::File(lock))))
    }
}

#[pymethods]
impl Lock {
    /// Nanoseconds that it took to get it.
    #[getter]
    fn waited(&self) -> u64 {
        match &*open(&self.0) {
            Some(Held::File(lock)) => lock.waited.as_nanos() as u64,
            _ => 0,
        }
    }

    fn release(&self) {
        drop(open(&self.0).take());
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(&self, _kind: &Bound<'_, PyAny>, _error: &Bound<'_, PyAny>, _trace: &Bound<'_, PyAny>) {
        self.release();
    }
}

#[pymethods]
impl Volume {
    #[getter]
    fn chain_id(&self, py: Python<'_>) -> PyResult<String> {
        Ok(open(&self.0).as_ref().ok_or_else(|| store_error(py, gone()))?.chain_id.clone())
    }

    /// Descriptor of its root directory; valid as long as the volume is not handed on.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        Ok(open(&self.0).as_ref().ok_or_else(|| store_error(py, gone()))?.dir.as_fd().as_raw_fd())
    }

    /// Hold `lock` on it, and the locks that `below` has.
    fn hold(&self, py: Python<'_>, lock: &Lock, below: Option<&Volume>) -> PyResult<()> {
        let mut locks = Vec::new();
        if let Some(Held::File(lock)) = open(&lock.0).take() {
            locks.push(lock);
        }
        if let Some(below) = below
            && let Some(below) = open(&below.0).as_mut()
        {
            locks.extend(below.give_locks());
        }
        open(&self.0).as_mut().ok_or_else(|| store_error(py, gone()))?.take_locks(locks);
        Ok(())
    }

    fn release(&self) {
        drop(open(&self.0).take());
    }
}

/// Directory and name, directory and name of the temporary file, what the volume was built on.
type ListingParts = ((i32, OsString), (i32, OsString), String, bool);
/// Mount point, type, source, options.
type Mount = (OsString, String, OsString, Vec<String>);

/// Where the listing of a layer goes.
#[pyclass(frozen, module = "groot_fast._core")]
pub struct Listing {
    owner: Option<(u32, u32)>,
    target: Mutex<Option<groot_core::listing::Target>>,
}

impl Listing {
    /// The target, once.
    pub fn take(&self) -> Option<groot_core::listing::Target> {
        open(&self.target).take()
    }
}

#[pymethods]
impl Listing {
    /// From the descriptors of its directory and of the one for temporary files, for a process in a user namespace.
    #[new]
    fn new(py: Python<'_>, at: (i32, OsString), temporary: (i32, OsString), parent: String, goes_on: bool) -> PyResult<Self> {
        let held = |(descriptor, name): (i32, OsString)| -> PyResult<_> {
            let fd = groot_core::process::duplicate(descriptor).map_err(|error| crate::errors::to_python(py, error))?;
            Ok((fd, name.into_vec()))
        };
        let place = groot_core::record::Place { at: held(at)?, temporary: held(temporary)?, mode: 0o644, owner: None };
        Ok(Self { owner: None, target: Mutex::new(Some(groot_core::listing::Target { place, parent, goes_on })) })
    }

    /// (directory, name), (directory, temporary name), parent, whether it goes on: what `Listing` takes; the descriptors are valid as long as this.
    fn parts(&self) -> Option<ListingParts> {
        let target = open(&self.target);
        let target = target.as_ref()?;
        let part = |(fd, entry): &(std::os::fd::OwnedFd, Vec<u8>)| (fd.as_raw_fd(), name(entry.clone()));
        Some((part(&target.place.at), part(&target.place.temporary), target.parent.clone(), target.goes_on))
    }

    #[getter]
    fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }
}

/// The volumes that were used last, when somebody has asked.
#[pyclass(frozen, module = "groot_fast._core")]
#[derive(Default)]
pub struct Recent(OnceLock<Vec<String>>);

#[pymethods]
impl Recent {
    #[new]
    fn new() -> Self {
        Self::default()
    }
}

/// Volumes whose files may be cloned.
#[pyclass(frozen, module = "groot_fast._core")]
pub struct Neighbours(Mutex<Option<groot_core::layer::Neighbours>>);

impl Neighbours {
    /// They, once.
    pub fn take(&self) -> Option<groot_core::layer::Neighbours> {
        open(&self.0).take()
    }
}

#[pymethods]
impl Neighbours {
    /// From the descriptors of the directories of volumes and of listings, for a process in a user namespace.
    #[new]
    fn new(py: Python<'_>, volumes: i32, listings: i32, names: Vec<String>, budget: u64) -> PyResult<Self> {
        let held = |descriptor| groot_core::process::duplicate(descriptor).map_err(|error| crate::errors::to_python(py, error));
        let found = groot_core::layer::Neighbours { volumes: held(volumes)?, listings: held(listings)?, names, budget };
        Ok(Self(Mutex::new(Some(found))))
    }

    /// What `Neighbours` takes; the descriptors are valid as long as this.
    fn parts(&self) -> Option<(i32, i32, Vec<String>, u64)> {
        let found = open(&self.0);
        let found = found.as_ref()?;
        Some((found.volumes.as_raw_fd(), found.listings.as_raw_fd(), found.names.clone(), found.budget))
    }
}

/// Parse the values of `--uid-mapping` and `--gid-mapping`.
#[pyfunction]
pub fn parse_mappings(py: Python<'_>, uids: Vec<String>, gids: Vec<String>) -> PyResult<(Ranges, Ranges)> {
    let parsed = Mappings::parse(&uids, &gids).map_err(|error| store_error(py, error))?;
    Ok((ranges(&parsed.uids), ranges(&parsed.gids)))
}

/// The id that an argument of delete or stats names.
#[pyfunction]
pub fn image_id_of(py: Python<'_>, store: PathBuf, argument: OsString) -> PyResult<OsString> {
    groot_store::Store::id_of_argument(&store, &argument).map(name).map_err(|error| store_error(py, error))
}

/// Refuse a limit that the blobs of an image alone exceed.
#[pyfunction]
pub fn check_compressed(py: Python<'_>, compressed: u64, limit: u64, exclude_image: bool) -> PyResult<()> {
    let image = Image { compressed, ..Image::default() };
    let wishes = Wishes { limit, exclude_image, ..Wishes::default() };
    images::check_compressed(&image, &wishes).map_err(|error| store_error(py, error))
}

/// The partial runtime specification of an image, as JSON.
#[pyfunction]
pub fn describe_image(image_parts: ImageParts, path: PathBuf, mounted: bool, rules: &crate::calls::Rules) -> String {
    let shape = groot_store::spec::Shape { mounted, volumes: rules.0.has_volumes, args: rules.0.has_args };
    groot_document::format_json(&groot_store::spec::describe(&image(image_parts), &path, shape))
}

/// What is mounted where: (mount point, type, source, options) each.
#[pyfunction]
pub fn mounts(py: Python<'_>) -> PyResult<Vec<Mount>> {
    let found = py.detach(groot_store::mounts::all)?;
    Ok(found.into_iter().map(|m| (m.point.into_os_string(), m.kind, m.source.into_os_string(), m.options)).collect())
}

/// The lines of a file like `/etc/subuid`.
#[pyfunction]
pub fn read_ranges(path: PathBuf) -> Vec<(String, u64, u64)> {
    groot_store::mappings::read_ranges(&path)
}

fn path_error(doing: &str, path: &std::path::Path, errno: Errno) -> Error {
    Error::os(format!("{doing} {}", path.display()), errno)
}

fn on_path<T: Send>(
    py: Python<'_>,
    path: &std::path::Path,
    doing: &str,
    work: impl FnOnce(Folder) -> rustix::io::Result<T> + Send,
) -> PyResult<T> {
    let done = py.detach(|| Folder::open_path(path).and_then(work));
    done.map_err(|errno| store_error(py, path_error(doing, path, errno)))
}

/// UUID of the file system at `path`.
#[pyfunction]
pub fn uuid(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    on_path(py, &path, "BTRFS_IOC_FS_INFO", groot_btrfs::uuid)
}

/// How the file system at `path` counts.
#[pyfunction]
pub fn accounting(py: Python<'_>, path: PathBuf) -> PyResult<Option<&'static str>> {
    on_path(py, &path, "looking at quotas of", |dir| quota::Groups::of(dir)?.accounting()).map(mode)
}

/// Make the file system at `path` `bytes` large.
#[pyfunction]
pub fn resize(py: Python<'_>, path: PathBuf, bytes: u64) -> PyResult<()> {
    on_path(py, &path, "resizing", |dir| groot_btrfs::resize(dir, bytes))
}

/// Turn accounting on.
#[pyfunction]
pub fn enable_quota(py: Python<'_>, path: PathBuf, simple: bool) -> PyResult<()> {
    on_path(py, &path, "enabling quotas on", |dir| quota::enable(dir, simple))
}

/// Turn accounting off.
#[pyfunction]
pub fn disable_quota(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    on_path(py, &path, "disabling quotas on", quota::disable)
}

/// In a user namespace: snapshot a tree by descriptors.
#[pyfunction]
pub fn snapshot(py: Python<'_>, source: i32, parent: i32, name: OsString, limit: Option<(u64, bool)>) -> PyResult<()> {
    let (source, parent) = descriptors(py, source, parent)?;
    let limit = limit.map(|(bytes, exclusive)| subvolume::Limit { bytes, exclusive });
    let done = py.detach(|| subvolume::snapshot(source, parent, name.as_bytes(), limit));
    done.map_err(|errno| store_error(py, Error::os(format!("snapshot {}", name.to_string_lossy()), errno)))
}

fn descriptors(py: Python<'_>, one: i32, other: i32) -> PyResult<(std::os::fd::OwnedFd, std::os::fd::OwnedFd)> {
    let held = |descriptor| groot_core::process::duplicate(descriptor).map_err(|error| crate::errors::to_python(py, error));
    Ok((held(one)?, held(other)?))
}

/// In a user namespace: copy a directory of a tree into another, by descriptors.
#[pyfunction]
pub fn copy_inside(py: Python<'_>, root: i32, path: OsString, target: i32) -> PyResult<bool> {
    let (root, target) = descriptors(py, root, target)?;
    let never = std::sync::atomic::AtomicBool::new(false);
    let done =
        py.detach(|| groot_core::directory::copy_inside(root, path.as_bytes(), target, groot_core::idmap::IdMaps::default(), &never));
    done.map_err(|error| crate::errors::to_python(py, error))
}

/// In a user namespace: remove what is called `name` in a directory, whatever it is.
#[pyfunction]
pub fn remove_entry(py: Python<'_>, parent: i32, name: OsString) -> PyResult<Vec<u64>> {
    let parent = groot_core::process::duplicate(parent).map_err(|error| crate::errors::to_python(py, error))?;
    let done = py.detach(|| groot_btrfs::removal::remove_entry(parent, name.as_bytes()));
    done.map_err(|refusal| store_error(py, Error::refusal(name.to_string_lossy(), &refusal)))
}
