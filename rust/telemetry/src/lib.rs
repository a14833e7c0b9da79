//! What a command tells about itself.
//!
//! ```text
//! lager        log lines as Cloud Foundry's lager writes them
//! metrics      the facade: what a command measures, for whoever wants it
//! dropsonde    metron's UDP datagrams
//! prometheus   the file for the node exporter's textfile collector; text: its format
//! ```
//!
//! A command opens a [`Logger`] and [`Metrics`] and calls `session`, `info`, `send`, and at its end `ended` and `close`. Nothing
//! here can fail a command or hold it up: what cannot be written or sent is a line in the log, or nothing.
//!
//! Both can be opened *held*: what is written and sent then waits in memory until `release`. A command that may still be handed
//! to another program, which tells all of it anew, drops the held ones and has told nothing.

use std::ffi::OsString;

mod dropsonde;
mod lager;
mod metrics;
mod prometheus;
mod text;

pub use lager::{Format, Level, Logger, Sink, new_correlation_id};
pub use metrics::{BYTES, Metrics, NANOS};
pub use prometheus::commits_of;

/// Whether traces are wanted, by the variables of the OpenTelemetry SDK (its specification, "Environment variables"): an endpoint is set,
/// or the exporter `otlp` is asked for by name. Only Python sends them.
pub fn wants_traces(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let text = |name| variable(name).and_then(|value| value.into_string().ok()).unwrap_or_default().trim().to_ascii_lowercase();
    if text("OTEL_SDK_DISABLED") == "true" {
        return false;
    }
    let exporters = text("OTEL_TRACES_EXPORTER");
    if !exporters.is_empty() {
        return exporters.split(',').any(|exporter| exporter.trim() == "otlp");
    }
    ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"].into_iter().any(|name| !text(name).is_empty())
}

/// The system's text for an error, without its number, as a log line carries it.
fn system_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_traces_are_wanted() {
        const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h");
        for (wanted, variables) in [
            (false, &[][..]),
            (true, &[ENDPOINT]),
            (false, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]),
            (true, &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://h/v1/traces")]),
            (false, &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]),
            (true, &[("OTEL_TRACES_EXPORTER", "console, otlp")]),
            (true, &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "")]),
            (false, &[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")]),
        ] {
            let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
            assert_eq!(wants_traces(variable), wanted, "{variables:?}");
        }
    }
}
