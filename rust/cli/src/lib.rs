//! The command line of `groot_fast`: one table of options, for the installed `grootfs` and for Python alike.
//!
//! ```text
//! options      THE table: commands, their options, the keys of the configuration file
//! advice       what somebody may have meant
//! era          THE other table: where the releases of the original differ
//! arguments    argv in Go's syntax -> options and positional arguments
//! configuration   the YAML file -> values
//! site         the one beside the program
//! settings     file, options and environment joined, checked: `Settings`
//! call         argv + environment -> `Call`, or the `Answer` to give instead (help, version, a wrong call)
//! hot          the commands that are done here
//! run          a call from `starting` to its exit code: log, metrics, stdout
//! help, completion, manual   texts made from the table
//! program      becoming the Python program, which does all other commands
//! failure      why a call failed: the texts, hints and exit codes
//! sys          signal handlers
//! stdout       writing a result so that nothing is lost silently
//! ```
//!
//! # For who adds a hot command
//!
//! [`hot::run`] gets a [`Call`]: the `command` of the table, checked `settings`, what was `given` (by option name: presence counts
//! for some), `positional` arguments as bytes, the command's session of the `log` and its `metrics`. It gives `None` if the
//! command is not done here; then Python does it, with the same argv. Until [`Call::undertake`] nothing that the call logs or
//! measures leaves the process, so that Python can tell it anew; after it, the result must be `Some`: the text for stdout
//! (`OsString`, without the last line break; empty for nothing) or a [`Failure`]. `run` does all the rest: `failed` and
//! `ending` in the log, the counters of the metrics, the text with its hint on stdout, the exit code.
//!
//! Ids, paths and texts of messages are bytes (`OsStr`): names on disk need not be text.

// One document shows all settings (`Settings::public`).
#![recursion_limit = "256"]

pub mod advice;
pub mod arguments;
pub mod call;
pub mod completion;
pub mod configuration;
pub mod era;
pub mod failure;
pub mod help;
pub mod hot;
pub mod manual;
pub mod options;
pub mod output;
pub mod program;
pub mod run;
pub mod settings;
pub mod site;
pub mod stdout;
mod sys;

pub use call::{Answer, Call, Environment, Given};
pub use failure::{Failure, Kind};
pub use settings::{Settings, Value, Values};

/// What `--version` prints, unless an era has its own.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
