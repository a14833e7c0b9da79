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

mod dropsonde;
mod lager;
mod metrics;
mod prometheus;
mod text;

pub use lager::{Format, Level, Logger, Sink, new_correlation_id};
pub use metrics::{BYTES, Metrics, NANOS};
pub use prometheus::commits_of;

/// The system's text for an error, without its number, as a log line carries it.
fn system_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
