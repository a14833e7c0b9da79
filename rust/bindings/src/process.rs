//! The process itself.

use crate::errors::to_python;
use groot_core::process;
use pyo3::prelude::*;

/// Enter a new user namespace. The process must have one thread.
#[pyfunction]
pub fn enter_user_namespace(py: Python<'_>) -> PyResult<()> {
    process::enter_user_namespace().map_err(|e| to_python(py, e))
}

/// Become root of the namespace, and end with the parent process.
#[pyfunction]
pub fn become_namespace_root(py: Python<'_>) -> PyResult<()> {
    process::become_namespace_root().map_err(|e| to_python(py, e))
}
