//! The one place where errors of Rust become Python exceptions.

use groot_cli::Failure;
use groot_core::Error;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// A failed call, as the exception of its kind.
pub fn failure_to_python(py: Python<'_>, failure: &Failure) -> PyErr {
    let raise = || -> PyResult<PyErr> {
        let class = py.import("groot_fast.errors")?.getattr(format!("{:?}", failure.kind))?;
        let hint = PyDict::new(py);
        hint.set_item("hint", &failure.hint)?;
        Ok(PyErr::from_value(class.call((&failure.message,), Some(&hint))?))
    };
    raise().unwrap_or_else(|error| error)
}

/// Classes live in `groot_fast.errors`; an operating system failure is an `OSError` with its `errno` (Python picks the
/// subclass), whose text is the whole message.
pub fn to_python(py: Python<'_>, error: Error) -> PyErr {
    let class = match &error {
        Error::Io { source, .. } => {
            return match source.raw_os_error() {
                Some(errno) => PyOSError::new_err((errno, error.to_string())),
                None => PyOSError::new_err(error.to_string()),
            };
        }
        Error::Layer(_) => "BadLayer",
        Error::Blob(_) => "BadBlob",
        Error::Limit(_) => "LimitExceeded",
        Error::Cancelled => "Cancelled",
    };
    let raise = || -> PyResult<PyErr> {
        let class = py.import("groot_fast.errors")?.getattr(class)?;
        Ok(PyErr::from_value(class.call1((error.to_string(),))?))
    };
    raise().unwrap_or_else(|failure| failure)
}
