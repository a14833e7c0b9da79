//! The one place where core errors become Python exceptions.

use groot_core::Error;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

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
