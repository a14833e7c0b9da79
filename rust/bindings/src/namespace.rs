//! Working inside a user namespace.

use crate::errors::to_python;
use pyo3::prelude::*;

/// Enter a new user namespace. The process must have one thread.
#[pyfunction]
pub fn enter_user_namespace(py: Python<'_>) -> PyResult<()> {
    groot_core::namespace::enter().map_err(|e| to_python(py, e))
}

/// Become root of the namespace, and end with the parent process.
#[pyfunction]
pub fn become_namespace_root(py: Python<'_>) -> PyResult<()> {
    groot_core::namespace::become_root().map_err(|e| to_python(py, e))
}
