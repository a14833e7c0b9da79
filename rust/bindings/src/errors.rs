//! The one place where errors of Rust become Python exceptions.

use groot_cli::Failure;
use groot_core::Error;
use groot_store::Kind;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::ffi::OsStr;

/// A failed call, as the exception of its kind.
pub fn failure_to_python(py: Python<'_>, failure: &Failure) -> PyErr {
    raise(py, &format!("{:?}", failure.kind), &failure.message, failure.hint.as_deref(), None)
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
    raise(py, class, error.to_string().as_ref(), None, None)
}

/// The same for the errors of the store. One that came of a full disk says so by its cause.
pub fn store_error(py: Python<'_>, error: groot_store::Error) -> PyErr {
    let full = error.full;
    let raised = store_class(py, error);
    if full && !raised.is_instance_of::<PyOSError>(py) {
        let errno = rustix::io::Errno::NOSPC;
        raised.set_cause(py, Some(PyOSError::new_err((errno.raw_os_error(), groot_store::error::text_of(errno)))));
    }
    raised
}

fn store_class(py: Python<'_>, error: groot_store::Error) -> PyErr {
    let class = match error.kind {
        Kind::Os(errno) => return PyOSError::new_err((errno, error.text)),
        // Only for who has no helper, and so for nobody in Python.
        Kind::NeedsHelper => return PyOSError::new_err((rustix::io::Errno::PERM.raw_os_error(), error.text)),
        Kind::Store => "StoreError",
        Kind::LockTimeout => "LockTimeout",
        Kind::ImageExists => "ImageExists",
        Kind::ImageNotFound => "ImageNotFound",
        Kind::Quota => "QuotaError",
        Kind::Usage => "UsageError",
        Kind::Layer => "BadLayer",
        Kind::Cancelled => "Cancelled",
    };
    raise(py, class, error.text.as_ref(), error.hint.as_deref(), None)
}

/// The same for what is wrong with an image.
pub fn image_error(py: Python<'_>, error: groot_image::Error) -> PyErr {
    let class = match error.kind {
        groot_image::Kind::Source => "SourceError",
        groot_image::Kind::Image => "BadImage",
        groot_image::Kind::Blob => "BadBlob",
        groot_image::Kind::Limit => "LimitExceeded",
        groot_image::Kind::Config => "ConfigError",
    };
    raise(py, class, error.message.as_ref(), error.hint.as_deref(), None)
}

/// The same for what is wrong with a registry, its name, or a file about it.
pub fn registry_error(py: Python<'_>, error: groot_registry::Error) -> PyErr {
    let class = match error.kind {
        groot_registry::Kind::Source => "SourceError",
        groot_registry::Kind::BadImage => "BadImage",
        groot_registry::Kind::Config => "ConfigError",
        groot_registry::Kind::Registry => "RegistryError",
    };
    raise(py, class, error.message.as_ref(), error.hint.as_deref(), error.status)
}

/// `status` is the HTTP status of a refusal, which only a `RegistryError` has.
fn raise(py: Python<'_>, class: &str, text: &OsStr, hint: Option<&str>, status: Option<u16>) -> PyErr {
    let make = || -> PyResult<PyErr> {
        let class = py.import("groot_fast.errors")?.getattr(class)?;
        let kwargs = PyDict::new(py);
        kwargs.set_item("hint", hint)?;
        if let Some(status) = status {
            kwargs.set_item("status", status)?;
        }
        Ok(PyErr::from_value(class.call((text,), Some(&kwargs))?))
    };
    make().unwrap_or_else(|failure| failure)
}
