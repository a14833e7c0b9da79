//! What a command measures, for whoever wants it: metron (`dropsonde`), Prometheus (`prometheus`).
//!
//! Traces are not here: they are sent by OpenTelemetry's Python library, and a command that wants them is a Python program.

use crate::dropsonde::Metron;
use crate::lager::Logger;
use crate::prometheus::MetricsFile;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

/// Unit of times.
pub const NANOS: &str = "nanos";
/// Unit of sizes.
pub const BYTES: &str = "bytes";

/// Takes values for all who want them, or for nobody. Usable from any thread; a clone takes them for the same.
#[derive(Debug, Default, Clone)]
pub struct Metrics {
    metron: Option<Arc<Metron>>,
    file: Option<Arc<MetricsFile>>,
}

impl Metrics {
    /// The metrics of one command: to metron at `endpoint` (`host:port`), and into `file` for Prometheus with `store` as a label.
    /// What is empty is not wanted; what makes no sense is a line in `log`, which must be the command's session.
    #[must_use]
    pub fn open(endpoint: &OsStr, file: &Path, store: &OsStr, log: &Logger) -> Self {
        let metron = (!endpoint.is_empty()).then(|| Metron::open(&endpoint.to_string_lossy(), log).map(Arc::new)).flatten();
        let file = (!file.as_os_str().is_empty()).then(|| Arc::new(MetricsFile::new(file, store, log.clone())));
        Self { metron, file }
    }

    /// Whether values that cost something to find out are wanted.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.metron.is_some() || self.file.is_some()
    }

    /// Report one value: `unit` is `NANOS` or `BYTES`.
    pub fn send(&self, name: &str, value: f64, unit: &str) {
        if let Some(metron) = &self.metron {
            metron.send(name, value, unit);
        }
        if let Some(file) = &self.file {
            file.send(name, value, unit);
        }
    }

    /// Report what is a value of its own for metron, and adds up for Prometheus.
    pub fn send_apart(&self, name: &str, value: f64, adding: f64, unit: &str) {
        if let Some(metron) = &self.metron {
            metron.send(name, value, unit);
        }
        if let Some(file) = &self.file {
            file.send(name, adding, unit);
        }
    }

    /// A command begins.
    pub fn began(&self, command: &str) {
        if let Some(metron) = &self.metron {
            metron.began(command);
        }
    }

    /// A command ended with this exit code; `failure` says why, if it failed.
    pub fn ended(&self, command: &str, code: u8, failure: &str) {
        if let Some(metron) = &self.metron {
            metron.ended(command, code, failure);
        }
        if let Some(file) = &self.file {
            file.ended(command, code);
        }
    }

    /// From here on datagrams wait in memory (the file is written by `close` anyway).
    pub fn hold(&self) {
        if let Some(metron) = &self.metron {
            metron.hold();
        }
    }

    /// Send what waits; from here on datagrams are sent at once.
    pub fn release(&self) {
        if let Some(metron) = &self.metron {
            metron.release();
        }
    }

    /// No more values will come. Call it after the caller has its answer: it may wait a moment, for a name server or for others
    /// that write the file.
    pub fn close(&self) {
        if let Some(metron) = &self.metron {
            metron.close();
        }
        if let Some(file) = &self.file {
            file.close();
        }
    }
}
