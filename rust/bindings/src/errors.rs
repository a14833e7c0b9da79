//! The one place where core errors become Python exceptions.

use groot_core::Error;
use groot_registry::Kind;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

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

/// The same for what is wrong with a registry, its name, or a file about it.
pub fn registry_error(py: Python<'_>, error: groot_registry::Error) -> PyErr {
    let class = match error.kind {
        Kind::Source => "SourceError",
        Kind::BadImage => "BadImage",
        Kind::Config => "ConfigError",
        Kind::Registry => "RegistryError",
    };
    let raise = || -> PyResult<PyErr> {
        let keywords = PyDict::new(py);
        keywords.set_item("hint", error.hint)?;
        if let Some(status) = error.status {
            keywords.set_item("status", status)?;
        }
        let class = py.import("groot_fast.errors")?.getattr(class)?;
        Ok(PyErr::from_value(class.call((error.message,), Some(&keywords))?))
    };
    raise().unwrap_or_else(|failure| failure)
}
