//! The hot commands, done here if the store is warm. See the crate's text for who adds one.
//!
//! ```text
//! create.rs    an image whose volumes are all there
//! registry.rs  what a name means, asked of its registry
//! image.rs     delete, stats, list
//! sweep.rs     clean, also after a create
//! signals.rs   SIGINT, SIGTERM and SIGHUP stop a command where it waits
//! ```
//!
//! One rule says who does a call: whatever is not certain here, is Python's. That is a missing layer, a source that has to be
//! fetched, an image that cannot be read (Python finds out the same, and says so), work that needs a user namespace, and options
//! that only Python knows.

mod create;
mod image;
mod registry;
pub mod signals;
mod sweep;

pub use sweep::start_clean;

use crate::call::Call;
use crate::failure::{Failure, Kind, message};
use groot_document::{Map, Value as Json};
use groot_store::layout::Options;
use groot_store::{Error, Level, Observer, Store, Unit};
use groot_telemetry::{BYTES, Logger, Metrics, NANOS};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

/// What a hot command gives: None is for Python.
pub type Done = Option<Result<OsString, Failure>>;

/// Do the call here; `None` if Python has to do it, before anything of it is done.
#[must_use]
pub fn run(call: &Call) -> Done {
    if call.settings.driver != "btrfs" {
        return None;
    }
    let work: fn(&Call) -> Done = match call.command.name {
        "create" => create::create,
        "delete" => image::delete,
        "stats" => image::stats,
        "list" => image::list,
        "clean" => sweep::clean,
        _ => return None,
    };
    signals::catch();
    work(call)
}

/// The store of a call.
fn open(call: &Call) -> Result<Store, Error> {
    let options = Options { drax: call.settings.drax_bin.clone().into(), helper: None };
    Store::open(&call.settings.store, options)
}

/// A failure of the store; None if Python can go on where this program cannot.
fn failure(error: Error) -> Option<Failure> {
    use groot_store::Kind as Of;
    let kind = match error.kind {
        Of::NeedsHelper => return None,
        Of::Store | Of::LockTimeout => Kind::StoreError,
        Of::ImageExists => Kind::ImageExists,
        Of::ImageNotFound => Kind::ImageNotFound,
        Of::Quota => Kind::QuotaError,
        Of::Usage => Kind::UsageError,
        Of::Cancelled => return Some(Failure::new(Kind::Cancelled, signals::text())),
        Of::Os(_) | Of::Layer => Kind::GrootError,
    };
    let failure = Failure::new(kind, error.text);
    Some(match error.hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    })
}

/// Some work of a hot command; the failure None says that Python has to do it.
type Work<T> = Result<T, Option<Failure>>;

/// What a hot command gives for it.
fn done<T>(work: Work<T>) -> Option<Result<T, Failure>> {
    match work {
        Ok(value) => Some(Ok(value)),
        Err(failure) => failure.map(Err),
    }
}

/// A session of the log around some work, as Python's `with`: `starting`, `failed` with the reason, `ending`.
fn session<T>(log: &Logger, name: &str, data: Json, work: impl FnOnce(&Logger) -> Work<T>) -> Work<T> {
    let log = log.session(name, data);
    log.info("starting", Json::Null);
    let result = work(&log);
    if let Err(failure) = &result {
        log.error("failed", failure.as_ref().map(|failure| failure.message.to_string_lossy()).unwrap_or_default(), Json::Null);
    }
    log.info("ending", Json::Null);
    result
}

/// Report how long some work took, whether it succeeds or not; nothing if there was nothing to work on.
fn timed<T>(metrics: &Metrics, name: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let begun = Instant::now();
    let result = work();
    if !matches!(&result, Err(error) if error.kind == groot_store::Kind::ImageNotFound) {
        send_time(metrics, name, begun);
    }
    result
}

#[allow(clippy::cast_precision_loss)] // metrics are floating point on the wire
fn send_time(metrics: &Metrics, name: &str, since: Instant) {
    metrics.send(name, since.elapsed().as_nanos() as f64, NANOS);
}

#[allow(clippy::cast_precision_loss)]
fn send_bytes(metrics: &Metrics, name: &str, bytes: u64) {
    metrics.send(name, bytes as f64, BYTES);
}

/// What a store says while it works.
struct Told<'a> {
    log: &'a Logger,
    metrics: &'a Metrics,
}

impl Observer for Told<'_> {
    fn log(&self, level: Level, action: &str, data: &[(&str, &str)]) {
        let object = |data: &[(&str, &str)]| {
            let pairs = data.iter().filter(|(name, _)| *name != "error" || level != Level::Error);
            Json::Object(pairs.map(|(name, value)| ((*name).to_owned(), Json::from(*value))).collect::<Map<_, _>>())
        };
        match level {
            Level::Debug => self.log.debug(action, object(data)),
            Level::Info => self.log.info(action, object(data)),
            Level::Error => {
                let error = data.iter().find(|(name, _)| *name == "error").map_or("", |(_, text)| *text);
                self.log.error(action, error, object(data));
            }
        }
    }

    fn measure(&self, name: &str, value: u64, unit: Unit) {
        #[allow(clippy::cast_precision_loss)]
        self.metrics.send(name, value as f64, if unit == Unit::Nanos { NANOS } else { BYTES });
    }
}

/// Bytes that the file system of a store has in use.
fn send_usage(store: &Store, call: &Call) {
    let name = if call.settings.rules().measures_newly { "UsedBackingStoreInBytes" } else { "StoreUsage" };
    if let Ok(space) = rustix::fs::fstatvfs(store.top()) {
        send_bytes(&call.metrics, name, space.f_blocks.saturating_sub(space.f_bfree) * space.f_frsize);
    }
}

/// Bytes of layers that nobody uses, and of those that somebody does. The sums cost a look at every record, so only if somebody wants
/// them.
fn send_layers(store: &Store, call: &Call) {
    if !call.metrics.is_active() {
        return;
    }
    let Ok(unused) = store.unused_bytes() else { return };
    send_bytes(&call.metrics, "UnusedLayersSize", unused);
    if call.settings.rules().measures_newly
        && let Ok(all) = store.cached_bytes()
    {
        send_bytes(&call.metrics, "UsedLayersSize", all.saturating_sub(unused));
    }
}

fn usage_error(text: &str) -> Failure {
    Failure::new(Kind::UsageError, text)
}

/// The text that a store that is not there gets from `list` and `clean`, and the line that goes with it.
fn missing_store(call: &Call) -> Option<OsString> {
    let store = &call.settings.store;
    // That its file is not mounted is said by who opens it.
    if std::fs::symlink_metadata(store).is_ok() || groot_store::mounts::check_mounted(store).is_err() {
        return None;
    }
    let text = message(["no store found at ".as_ref(), store.as_os_str()]);
    let data = groot_document::json!({"storePath": store.to_string_lossy()});
    call.log.error("store-path-failed", text.to_string_lossy(), data);
    Some(text)
}

fn bytes(text: &OsStr) -> &[u8] {
    text.as_bytes()
}
