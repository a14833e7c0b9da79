//! BTRFS subvolumes and quotas.

use crate::errors::to_python;
use groot_core::Result;
use groot_core::btrfs::quota::{self, Accounting};
use groot_core::btrfs::subvolume::{self, Limit};
use pyo3::prelude::*;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Run without the GIL and convert the error.
fn call<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(work).map_err(|e| to_python(py, e))
}

/// Make an empty subvolume.
#[pyfunction]
pub fn create_subvolume(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    call(py, || subvolume::create(&path))
}

/// Make a writable snapshot, with a limit from the first moment under simple accounting.
#[pyfunction]
#[pyo3(signature = (source, path, *, limit=None, exclusive=false))]
pub fn snapshot(py: Python<'_>, source: PathBuf, path: PathBuf, limit: Option<u64>, exclusive: bool) -> PyResult<()> {
    let limit = limit.map(|bytes| Limit { bytes, exclusive });
    call(py, || subvolume::snapshot(&source, &path, limit))
}

/// Delete a subvolume and those nested in it.
#[pyfunction]
pub fn delete_subvolume(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    call(py, || subvolume::delete(&path))
}

/// Whether `path` is the root of a subvolume.
#[pyfunction]
pub fn is_subvolume(py: Python<'_>, path: PathBuf) -> PyResult<bool> {
    call(py, || subvolume::is_subvolume(&path))
}

/// Id of the subvolume that `path` is in.
#[pyfunction]
pub fn subvolume_id(py: Python<'_>, path: PathBuf) -> PyResult<u64> {
    call(py, || subvolume::id(&path))
}

/// Whether there is a level-1 group with this number.
#[pyfunction]
pub fn has_group(py: Python<'_>, path: PathBuf, id: u64) -> PyResult<bool> {
    call(py, || quota::has_group(&path, id))
}

/// Ids of the subvolume and of those nested in it.
#[pyfunction]
pub fn subvolume_ids(py: Python<'_>, path: PathBuf) -> PyResult<Vec<u64>> {
    call(py, || subvolume::ids(&path))
}

/// Whether a subvolume with this id exists.
#[pyfunction]
pub fn subvolume_exists(py: Python<'_>, path: PathBuf, id: u64) -> PyResult<bool> {
    call(py, || subvolume::exists(&path, id))
}

/// Commit the file system.
#[pyfunction]
pub fn sync(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    call(py, || groot_core::btrfs::sync(&path))
}

/// Begin a commit of the file system.
#[pyfunction]
pub fn start_sync(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    call(py, || groot_core::btrfs::start_sync(&path))
}

/// UUID of the file system.
#[pyfunction]
pub fn uuid(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    call(py, || groot_core::btrfs::uuid(groot_core::btrfs::open_dir(&path)?))
}

/// Accounting mode: `simple`, `full` or None.
#[pyfunction]
pub fn accounting(py: Python<'_>, path: PathBuf) -> PyResult<Option<&'static str>> {
    Ok(match call(py, || quota::accounting(&path))? {
        Accounting::Off => None,
        Accounting::Full => Some("full"),
        Accounting::Simple => Some("simple"),
    })
}

/// Turn accounting on.
#[pyfunction]
pub fn enable_quota(py: Python<'_>, path: PathBuf, simple: bool) -> PyResult<()> {
    call(py, || quota::enable(&path, simple))
}

/// Turn accounting off.
#[pyfunction]
pub fn disable_quota(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    call(py, || quota::disable(&path))
}

/// Limits on referenced and on exclusive bytes.
#[pyfunction]
pub fn limits(py: Python<'_>, path: PathBuf) -> PyResult<(Option<u64>, Option<u64>)> {
    call(py, || quota::limits(&path))
}

/// Referenced and exclusive bytes, or None where nobody counts.
#[pyfunction]
pub fn usage(py: Python<'_>, path: PathBuf) -> PyResult<Option<(u64, u64)>> {
    Ok(call(py, || quota::usage(&path))?.map(|usage| (usage.referenced, usage.exclusive)))
}

/// Set the limit of an existing subvolume.
#[pyfunction]
pub fn set_limit(py: Python<'_>, path: PathBuf, limit: u64, exclusive: bool) -> PyResult<()> {
    call(py, || quota::set_limit(&path, Limit { bytes: limit, exclusive }))
}

/// Remove the limits of a subvolume and of its enclosing group.
#[pyfunction]
pub fn lift_limits(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    call(py, || quota::lift_limits(&path))
}

/// Charge nested subvolumes too.
#[pyfunction]
pub fn enclose(py: Python<'_>, path: PathBuf, limit: u64, exclusive: bool) -> PyResult<()> {
    call(py, || quota::enclose(&path, Limit { bytes: limit, exclusive }))
}

/// Undo `enclose`.
#[pyfunction]
pub fn disband_group(py: Python<'_>, path: PathBuf, id: u64, members: Vec<u64>) -> PyResult<()> {
    call(py, || quota::disband(&path, id, &members))
}

/// Remove the groups of subvolumes that are gone.
#[pyfunction]
pub fn remove_stale_groups(py: Python<'_>, path: PathBuf) -> PyResult<u64> {
    call(py, || quota::remove_stale_groups(&path))
}

/// Stale groups as (level, id).
#[pyfunction]
pub fn stale_groups(py: Python<'_>, path: PathBuf) -> PyResult<Vec<(u16, u64)>> {
    call(py, || quota::stale_groups(&path))
}

/// Whether accounting has lost count.
#[pyfunction]
pub fn is_inconsistent(py: Python<'_>, path: PathBuf) -> PyResult<bool> {
    call(py, || quota::is_inconsistent(&path))
}

/// Paths of the subvolumes below a directory, relative to it.
#[pyfunction]
pub fn list_subvolumes(py: Python<'_>, path: PathBuf) -> PyResult<Vec<OsString>> {
    Ok(call(py, || subvolume::list_below(&path))?.into_iter().map(OsString::from_vec).collect())
}
