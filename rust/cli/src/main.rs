//! The installed `grootfs`: reads the call, does it here if it can, and else becomes the Python program.

mod start;

use groot_cli::failure::{catch_panics, of_panic};
use groot_cli::program::become_program;
use groot_cli::{Call, Environment, hot, run, stdout};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

fn main() -> ExitCode {
    start::reset_child_signal();
    raise_descriptors();
    catch_panics();
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let failure = match catch_unwind(AssertUnwindSafe(|| done(&mut arguments))) {
        Ok(Ok(code)) => return code.into(),
        Ok(Err(password)) => hot::signals::ended().unwrap_or_else(|| become_program(&arguments, password)),
        Err(panic) => of_panic(&*panic),
    };
    let mut text = failure.text();
    text.push("\n");
    stdout::say(&text, failure.code()).into()
}

/// A tree is walked with a descriptor a level, and a server has many connections: what the caller may have is no more than a default.
fn raise_descriptors() {
    let limits = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits });
}

/// The exit code of a call that is done here; else its password, which is not in the arguments any more then.
fn done(arguments: &mut [OsString]) -> Result<u8, Option<OsString>> {
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    match Call::read(arguments.to_vec(), &Environment::of(program, |name| std::env::var_os(name))) {
        Ok(call) => run::run(&call).ok_or_else(|| call.take_password(arguments)),
        Err(answer) => Ok(run::answer(&answer)),
    }
}
