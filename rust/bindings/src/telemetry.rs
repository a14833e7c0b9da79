//! Log and metrics.

use crate::documents::from_object;
use groot_core::error::os_text;
use groot_document::{Map, Value};
use groot_telemetry::{Format, Level};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where lines go.
#[pyclass(frozen)]
pub struct Sink(Arc<groot_telemetry::Sink>);

/// A sink for the options of the log.
#[pyfunction]
#[pyo3(signature = (path, level, time_format="unix-epoch"))]
pub fn open_sink(path: Option<PathBuf>, level: Option<OsString>, time_format: &str) -> PyResult<Sink> {
    let format = [Format::UnixEpoch, Format::Rfc3339].into_iter().find(|format| format.word() == time_format);
    let format = format.ok_or_else(|| PyValueError::new_err(format!("no format of times: {time_format}")))?;
    let path = path.unwrap_or_default();
    let opened = groot_telemetry::Sink::open(&path, &level.unwrap_or_default().to_string_lossy(), format);
    opened.map(Sink).map_err(|error| PyOSError::new_err((error.raw_os_error(), os_text(&error), path.into_os_string())))
}

/// A session of the log.
#[pyclass(frozen)]
pub struct Logger(pub groot_telemetry::Logger);

#[pymethods]
impl Logger {
    #[new]
    #[pyo3(signature = (sink, message, *, data=None))]
    fn new(sink: &Sink, message: String, data: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        Ok(Self(groot_telemetry::Logger::new(Arc::clone(&sink.0), message, object(data)?)))
    }

    #[staticmethod]
    fn silent() -> Self {
        Self(groot_telemetry::Logger::silent())
    }

    fn in_sink(&self, sink: &Sink) -> Self {
        Self(self.0.in_sink(Arc::clone(&sink.0)))
    }

    #[pyo3(signature = (name, /, **data))]
    fn session(&self, name: &str, data: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        Ok(Self(self.0.session(name, object(data)?)))
    }

    #[pyo3(signature = (action, /, **data))]
    fn debug(&self, py: Python<'_>, action: &str, data: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        if self.0.writes(Level::Debug) {
            let data = object(data)?;
            py.detach(|| self.0.debug(action, data));
        }
        Ok(())
    }

    #[pyo3(signature = (action, /, **data))]
    fn info(&self, py: Python<'_>, action: &str, data: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        if self.0.writes(Level::Info) {
            let data = object(data)?;
            py.detach(|| self.0.info(action, data));
        }
        Ok(())
    }

    #[pyo3(signature = (action, error, /, **data))]
    fn error(&self, action: &str, error: &Bound<'_, PyAny>, data: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        if self.0.writes(Level::Error) {
            let data = object(data)?;
            let text = from_object(error.str()?.as_any(), 0)?;
            error.py().detach(|| self.0.error(action, text.as_str().unwrap_or_default(), data));
        }
        Ok(())
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf.get().0.info("starting", Value::Null);
        slf
    }

    fn __exit__(&self, _kind: &Bound<'_, PyAny>, error: &Bound<'_, PyAny>, _trace: &Bound<'_, PyAny>) -> PyResult<()> {
        if !error.is_none() {
            self.error("failed", error, None)?;
        }
        self.0.info("ending", Value::Null);
        Ok(())
    }
}

fn object(data: Option<&Bound<'_, PyDict>>) -> PyResult<Value> {
    data.map_or_else(|| Ok(Value::Object(Map::new())), |data| from_object(data, 0))
}

/// What a command measures; made by Python it does nothing with it, and a subclass does what it likes.
#[pyclass(frozen, subclass)]
pub struct Metrics(pub groot_telemetry::Metrics);

#[pymethods]
impl Metrics {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self(groot_telemetry::Metrics::default())
    }

    #[getter]
    fn is_active(&self) -> bool {
        self.0.is_active()
    }

    fn send(&self, name: &str, value: f64, unit: &str) {
        self.0.send(name, value, unit);
    }

    fn send_apart(&self, name: &str, value: f64, adding: f64, unit: &str) {
        self.0.send_apart(name, value, adding, unit);
    }

    fn began(&self, command: &str) {
        self.0.began(command);
    }

    fn ended(&self, command: &str, code: u8, message: &Bound<'_, PyAny>) -> PyResult<()> {
        let text = from_object(message, 0)?;
        self.0.ended(command, code, text.as_str().unwrap_or_default());
        Ok(())
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}

/// The metrics of one command: to metron, into a file, or nowhere.
#[pyfunction]
pub fn open_metrics(endpoint: OsString, log: &Logger, file: PathBuf, store: OsString) -> Metrics {
    Metrics(groot_telemetry::Metrics::open(&endpoint, &file, OsStr::new(&store), &log.0))
}

/// Commits of a file system since it was mounted.
#[pyfunction]
pub fn commits_of(py: Python<'_>, path: PathBuf) -> Option<u64> {
    py.detach(|| groot_telemetry::commits_of(Path::new(&path)))
}

/// Whether traces are wanted, by the environment.
#[pyfunction]
pub fn wants_traces(environment: &Bound<'_, PyDict>) -> bool {
    groot_telemetry::wants_traces(|name| environment.get_item(name).ok().flatten()?.extract().ok())
}
