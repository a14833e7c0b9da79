//! The installed `grootfs`: reads the call, does it here if it can, and else becomes the Python program.

mod start;

use groot_cli::failure::{catch_panics, of_panic};
use groot_cli::program::become_program;
use groot_cli::{Call, Environment, hot, run, stdout};
use std::ffi::OsString;
use std::panic::catch_unwind;
use std::process::ExitCode;

fn main() -> ExitCode {
    start::reset_child_signal();
    catch_panics();
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let failure = match catch_unwind(|| done(&arguments)) {
        Ok(Some(code)) => return code.into(),
        Ok(None) => hot::signals::ended().unwrap_or_else(|| become_program(&arguments)),
        Err(panic) => of_panic(&*panic),
    };
    let mut text = failure.text();
    text.push("\n");
    stdout::say(&text, failure.code()).into()
}

/// The exit code of a call that is done here.
fn done(arguments: &[OsString]) -> Option<u8> {
    match Call::read(arguments.to_vec(), &Environment::of(|name| std::env::var_os(name))) {
        Ok(call) => run::run(&call),
        Err(answer) => Some(run::answer(&answer)),
    }
}
