//! Unpacking.

use crate::errors::{store_error, to_python};
use crate::image::Blob;
use crate::store::{Listing, Neighbours};
use groot_core::blob::{Expected, Source, open_regular};
use groot_core::idmap::{IdMap, IdMaps, Range};
use groot_core::layer::{Options, Stats};
use groot_core::limits::Limits;
use groot_core::listing::Target;
use groot_core::{Error, Result, directory, spool, unpack as core_unpack, verify as core_verify};
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// How often a waiting call looks for signals.
const TICK: Duration = Duration::from_millis(50);

/// Id ranges as (inside, on the host, count).
pub type Ranges = Vec<(u32, u32, u32)>;
type Counted = (u64, u64, u64, BTreeMap<String, u64>, Vec<String>, BTreeMap<String, u64>);

/// A switch that stops the calls it was given to.
#[pyclass(frozen, module = "groot_fast._core")]
#[derive(Default)]
pub struct Cancel(pub Arc<AtomicBool>);

#[pymethods]
impl Cancel {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A blob that is still being downloaded into a file.
#[pyclass(frozen, module = "groot_fast._core")]
pub struct Spool(Arc<spool::Spool>);

#[pymethods]
impl Spool {
    #[new]
    fn new(path: PathBuf, written: u64) -> PyResult<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        file.set_len(written)?;
        Ok(Self(Arc::new(spool::Spool::new(file, written))))
    }

    fn write(&self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        py.detach(|| self.0.write(data)).map_err(|e| to_python(py, e))
    }

    #[getter]
    fn room(&self) -> usize {
        self.0.room()
    }

    #[getter]
    fn written(&self) -> u64 {
        self.0.written()
    }

    fn copy_to(&self, py: Python<'_>, descriptor: i32, cancel: &Cancel) -> PyResult<()> {
        let pipe = Source::from_descriptor(descriptor, None).map_err(|e| to_python(py, e))?;
        let Source::File(pipe) = pipe else { return Ok(()) };
        py.detach(|| self.0.copy_to(pipe, &|| cancel.0.load(Ordering::Relaxed))).map_err(|e| to_python(py, e))
    }

    #[getter]
    fn unread(&self) -> u64 {
        self.0.unread()
    }

    fn pass_on(&self) {
        self.0.pass_on();
    }

    fn save(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.save()).map_err(|e| to_python(py, e))
    }

    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.finish()).map_err(|e| to_python(py, e))
    }

    fn fail(&self, py: Python<'_>, reason: &str) {
        py.detach(|| self.0.fail(reason));
    }
}

fn id_maps(uids: Ranges, gids: Ranges) -> IdMaps {
    let map = |ranges: Ranges| IdMap::new(ranges.into_iter().map(|(inside, host, size)| Range { inside, host, size }).collect());
    IdMaps { uid: map(uids), gid: map(gids) }
}

fn target(listing: Option<&Listing>) -> Option<Target> {
    listing.and_then(Listing::take)
}

fn counted(stats: Stats, notes: Vec<String>) -> Counted {
    (stats.content, stats.removed, stats.entries, stats.left_out, notes, stats.cloned)
}

/// Run `work` in a thread with the GIL released; signals are handled meanwhile, and one that raises stops the work.
fn run<T: Send>(py: Python<'_>, cancel: &AtomicBool, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    attend(py, cancel, work, to_python, || Error::layer("internal error: thread panicked"))
}

/// The same for work on a store.
pub fn run_store<T: Send>(py: Python<'_>, cancel: &AtomicBool, work: impl FnOnce() -> groot_store::Result<T> + Send) -> PyResult<T> {
    attend(py, cancel, work, store_error, || groot_store::Error::store("internal error: thread panicked"))
}

fn attend<T: Send, E: Send>(
    py: Python<'_>,
    cancel: &AtomicBool,
    work: impl FnOnce() -> std::result::Result<T, E> + Send,
    convert: fn(Python<'_>, E) -> PyErr,
    panicked: fn() -> E,
) -> PyResult<T> {
    std::thread::scope(|scope| {
        let (done_in, mut done_out) = sync_channel(1);
        scope.spawn(move || done_in.send(work()));
        let mut raised = None;
        let result = loop {
            // The receiver is not `Sync`, so it moves into the closure and back.
            let waited;
            (done_out, waited) = py.detach(move || {
                let waited = done_out.recv_timeout(TICK);
                (done_out, waited)
            });
            match waited {
                Ok(result) => break result,
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = py.check_signals() {
                        cancel.store(true, Ordering::Relaxed);
                        raised.get_or_insert(error);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break Err(panicked()),
            }
        };
        match (raised, result) {
            (Some(error), _) => Err(error),
            (None, result) => result.map_err(|e| convert(py, e)),
        }
    })
}

/// Unpack one layer into the directory `root`.
#[pyfunction]
#[pyo3(signature = (root, blob, *, digest, size, diff_id, media_type, base, uids, gids, max_content, listing, cancel, neighbours=None, length=None))]
#[allow(clippy::too_many_arguments)]
pub fn unpack(
    py: Python<'_>,
    root: i32,
    blob: &Bound<'_, PyAny>,
    digest: Option<String>,
    size: Option<u64>,
    diff_id: Option<String>,
    media_type: String,
    base: PathBuf,
    uids: Ranges,
    gids: Ranges,
    max_content: Option<u64>,
    listing: Option<&Listing>,
    cancel: &Cancel,
    neighbours: Option<&Neighbours>,
    length: Option<u64>,
) -> PyResult<Counted> {
    let source = if let Ok(spool) = blob.cast::<Spool>() {
        Source::Spool(Arc::clone(&spool.get().0))
    } else if let Ok(blob) = blob.cast::<Blob>() {
        Source::from_descriptor(blob.get().fileno(), blob.get().length()).map_err(|e| to_python(py, e))?
    } else if let Ok(descriptor) = blob.extract::<i32>() {
        Source::from_descriptor(descriptor, length).map_err(|e| to_python(py, e))?
    } else {
        let path = blob.extract::<PathBuf>()?;
        Source::File(open_regular(&path).map_err(|e| to_python(py, Error::io(format!("open {}", path.display()), e)))?.0)
    };
    let options = Options {
        base: base.into_os_string().into_encoded_bytes(),
        ids: id_maps(uids, gids),
        limits: Limits { max_content, ..Limits::default() },
        literal_names: false,
        listing: target(listing),
        neighbours: neighbours.and_then(Neighbours::take),
    };
    let root = groot_core::process::duplicate(root).map_err(|e| to_python(py, e))?;
    let job = core_unpack::Job { source, expected: Expected { digest, size, diff_id }, media_type, root, options };
    let report = run(py, &cancel.0, || core_unpack::unpack(job, &cancel.0))?;
    Ok(counted(report.stats, report.notes))
}

/// Copy the tree below `source` into the directory `root`.
#[pyfunction]
#[pyo3(signature = (root, source, *, uids, gids, listing, cancel))]
pub fn copy_directory(
    py: Python<'_>,
    root: i32,
    source: PathBuf,
    uids: Ranges,
    gids: Ranges,
    listing: Option<&Listing>,
    cancel: &Cancel,
) -> PyResult<Counted> {
    let options = Options { ids: id_maps(uids, gids), listing: target(listing), ..Options::default() };
    let root = groot_core::process::duplicate(root).map_err(|e| to_python(py, e))?;
    let stats = run(py, &cancel.0, || directory::copy(&source, root, options, &cancel.0))?;
    Ok(counted(stats, Vec::new()))
}

/// Compare the volume `root` with the listings of its layers.
#[pyfunction]
#[pyo3(signature = (root, listings, *, uids, gids, cancel))]
pub fn verify(
    py: Python<'_>,
    root: i32,
    listings: Vec<(String, i32)>,
    uids: Ranges,
    gids: Ranges,
    cancel: &Cancel,
) -> PyResult<(u64, u64, Vec<String>)> {
    let ids = id_maps(uids, gids);
    let held = |descriptor| groot_core::process::duplicate(descriptor).map_err(|e| to_python(py, e));
    let root = held(root)?;
    let listings = listings.into_iter().map(|(name, file)| Ok((name, File::from(held(file)?)))).collect::<PyResult<Vec<_>>>()?;
    let report = run(py, &cancel.0, || core_verify::verify(&root, &listings, &ids, &cancel.0))?;
    Ok((report.entries, report.different, report.told))
}

/// Hash over names and metadata of the tree below `path`.
#[pyfunction]
pub fn fingerprint(py: Python<'_>, path: PathBuf, cancel: &Cancel) -> PyResult<String> {
    run(py, &cancel.0, || directory::fingerprint(&path, &cancel.0))
}
