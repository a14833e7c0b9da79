//! The installed `grootfs`. Where a server listens, it runs the call there; else the program runs it, at once.
//!
//! No store logic: what is here finds the socket, sends the call with its descriptors, and ends the way the call ended.
//! Whatever goes wrong before the descriptors are sent, nothing has run yet, and the program does the work.

mod options;
mod server;
mod sys;

use server::Outcome;
use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The program, from the directory that this executable is in.
const PROGRAM: &str = "../lib/groot_fast/grootfs-program";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let outcome = match options::find_socket(&arguments, env::var_os("GROOTFS_SOCKET")) {
        Some(socket) => server::run(Path::new(&socket), &arguments),
        None => Outcome::NotRun,
    };
    match outcome {
        Outcome::Exited(code) => ExitCode::from(code),
        Outcome::Killed(signal) => sys::end_by(signal),
        Outcome::Lost => {
            println!("the grootfs server ended before the command did; run the command again");
            ExitCode::FAILURE
        }
        Outcome::NotRun => run_program(&arguments),
    }
}

/// Become the program. Only returns where that fails.
fn run_program(arguments: &[OsString]) -> ExitCode {
    // Rust ignores it, and the program would inherit that.
    sys::restore_sigpipe();
    let program = program();
    let error = Command::new(&program).args(arguments).exec();
    println!("{}: {error}", program.display());
    ExitCode::FAILURE
}

fn program() -> PathBuf {
    let front = env::current_exe().unwrap_or_default();
    front.parent().unwrap_or(Path::new("/")).join(PROGRAM)
}
