//! clean, and the one after a create.

use super::{Done, Told, done, failure, missing_store, open, send_layers, send_usage, session, timed};
use crate::call::Call;
use crate::failure::{Failure, Kind, message};
use crate::settings::Settings;
use groot_core::error::os_text;
use groot_document::{Value as Json, json};
use groot_store::clean::{Outcome, Wishes};
use groot_store::{Error, Store};
use groot_telemetry::{Logger, Sink};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Remove unused layers.
pub fn clean(call: &Call) -> Done {
    if let Some(text) = missing_store(call) {
        return Some(Ok(text));
    }
    Some(match sweep(call, None)? {
        Ok(Outcome::BelowThreshold) => Ok("threshold not reached: skipping clean".into()),
        // The original's waits for the other one, and says the same.
        Ok(Outcome::Running) if call.settings.rules().hints => Ok("another clean is running: leaving it to that one".into()),
        Ok(_) => Ok("clean completed".into()),
        Err(error) => Err(error),
    })
}

/// Clean, after a create in the store that it has open; None if that needs Python.
pub fn sweep(call: &Call, created_in: Option<&Store>) -> Option<Result<Outcome, Failure>> {
    let on_create = created_in.is_some();
    let log = match log_of(call, on_create) {
        Ok(log) => log,
        Err(failure) => return Some(Err(failure)),
    };
    done(session(&log, "groot-cleaning", Json::Null, |log| {
        let attempt = || -> Result<Outcome, Error> {
            let opened;
            let store = if let Some(store) = created_in {
                store
            } else {
                opened = open(call)?;
                &opened
            };
            let ignore_images = call.settings.ignore_images.iter().map(|image| image.to_string_lossy().into_owned()).collect();
            let rules = call.settings.rules();
            let wishes = Wishes {
                threshold: call.settings.threshold,
                free: call.settings.clean_free,
                free_percent: call.settings.clean_free_percent,
                keep: call.settings.clean_keep,
                counts_limits: rules.counts_limits,
                spares_equal: rules.spares_equal,
                ignore_images,
                on_create,
            };
            let told = Told { log, metrics: &call.metrics };
            let outcome = timed(&call.metrics, "ImageCleanTime", || store.clean(&wishes, &told, super::signals::stopped()))?;
            if !on_create {
                // The newest measures its disk on create alone.
                if outcome != Outcome::BelowThreshold && !rules.measures_newly {
                    send_usage(store, call);
                }
                send_layers(store, call);
            }
            Ok(outcome)
        };
        attempt().map_err(failure)
    }))
}

/// The log of a clean: that of the command, or the one that was wished for the clean after a create.
fn log_of(call: &Call, on_create: bool) -> Result<Logger, Failure> {
    let (settings, path) = (&call.settings, &call.settings.clean_log_file);
    if !on_create || path.as_os_str().is_empty() {
        return Ok(call.log.clone());
    }
    let sink = Sink::open(path, &settings.log_level.to_string_lossy(), settings.log_time_format).map_err(|error| {
        let reason = os_text(&error);
        Failure::new(Kind::GrootError, message(["open ".as_ref(), path.as_os_str(), ": ".as_ref(), reason.as_ref()]))
    })?;
    Ok(call.log.in_sink(sink))
}

/// Start a clean as a process of its own (`program` and its first arguments) and do not wait for it: it can neither fail a create nor
/// hold it up. Its log goes where the one of the clean is to go, or that of the command; never to stderr, which whoever called the
/// create may read to its end. It is in a process group of its own, which a signal for the create does not reach.
pub fn start_clean(settings: &Settings, log: &Logger, program: &[OsString]) {
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).args(["--compatibility", settings.rules().word, "--log-time-format", settings.log_time_format.word()]);
    let log_file = if settings.clean_log_file.as_os_str().is_empty() { &settings.log_file } else { &settings.clean_log_file };
    for (option, value) in [
        ("--config", settings.config.as_os_str()),
        ("--store", settings.store.as_os_str()),
        ("--log-level", &settings.log_level),
        ("--log-file", log_file.as_os_str()),
        ("--metron-endpoint", &settings.metron_endpoint),
        ("--metrics-file", settings.metrics_file.as_os_str()),
        ("--drax-bin", settings.drax_bin.as_os_str()),
        ("--newuidmap-bin", settings.newuidmap_bin.as_os_str()),
        ("--newgidmap-bin", settings.newgidmap_bin.as_os_str()),
        ("--correlation-id", settings.correlation_id.as_ref()),
    ] {
        if !value.is_empty() {
            command.arg(option).arg(value);
        }
    }
    command.args(["clean", "--threshold-bytes", &settings.threshold.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    match command.spawn() {
        Ok(child) => log.debug("clean-started", json!({"pid": child.id()})),
        Err(error) => log.error("failed-to-start-clean", os_text(&error), Json::Null),
    }
}
