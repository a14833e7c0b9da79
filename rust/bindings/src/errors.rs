//! The one place where errors become Python exceptions.

use groot_core::Error;
use groot_image::Kind;
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
    exception(py, class, &error.to_string(), None)
}

/// The same for what is wrong with an image.
pub fn image_error(py: Python<'_>, error: groot_image::Error) -> PyErr {
    let class = match error.kind {
        Kind::Source => "SourceError",
        Kind::Image => "BadImage",
        Kind::Blob => "BadBlob",
        Kind::Limit => "LimitExceeded",
        Kind::Config => "ConfigError",
    };
    exception(py, class, &error.message, error.hint.as_deref())
}

fn exception(py: Python<'_>, class: &str, message: &str, hint: Option<&str>) -> PyErr {
    let raise = || -> PyResult<PyErr> {
        let class = py.import("groot_fast.errors")?.getattr(class)?;
        let keywords = PyDict::new(py);
        keywords.set_item("hint", hint)?;
        Ok(PyErr::from_value(class.call((message,), Some(&keywords))?))
    };
    raise().unwrap_or_else(|failure| failure)
}
