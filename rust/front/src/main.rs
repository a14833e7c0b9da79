//! The installed `grootfs`. Where a server listens, it runs the call there; else the program runs it, at once.
//!
//! No store logic: what is here finds the socket, sends the call with its descriptors, and ends the way the call ended.
//! Whatever goes wrong before a worker has answered, nothing has run yet, and the program does the work.
//!
//! Every command begins here, so there is no standard library and no C library below it: to start them takes longer than
//! all that this program does (docs/server.md, "The two doors"). Nothing is allocated either; what has no fixed size is put
//! together in the one large `memory`.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(not(test), no_main)]

mod options;
mod server;
mod sys;
mod text;

use core::ffi::CStr;
use rustix::fs::{CWD, readlinkat_raw};
use rustix::io::{Errno, Result};
use server::Outcome;
use sys::Process;
use text::Text;

/// The interpreter and the program, from the directory that this executable is in. Started by its own name, the interpreter need not
/// be found by the kernel from the program's first line, nor be a stranger in the list of processes.
const INTERPRETER: &[u8] = b"/../lib/groot_fast/start/bin/grootfs-program\0";
const PROGRAM: &[u8] = b"/../lib/groot_fast/grootfs-program.pyc\0";

/// As in the first line of the program's source (`scripts/make-launcher`).
const OPTIONS: &CStr = c"-ISXutf8";

/// The longest path (`PATH_MAX` of limits.h).
const MAX_PATH: usize = 4096;

/// Called by `sys::start`; gives the exit code.
fn main(process: &Process, memory: &mut [u8]) -> u8 {
    let outcome = match options::find_socket(process.arguments(), process.variable(b"GROOTFS_SOCKET"), memory) {
        Some(socket) => server::run(&socket, process, memory),
        None => Outcome::NotRun,
    };
    match outcome {
        Outcome::Exited(code) => code,
        Outcome::Killed(signal) => sys::end_by(signal),
        Outcome::Lost => {
            sys::say(b"the grootfs server ended before the command did; run the command again\n");
            1
        }
        Outcome::NotRun => run_program(process, memory),
    }
}

/// Become the program. Only returns where that fails. `memory` is overwritten.
fn run_program(process: &Process, memory: &mut [u8]) -> u8 {
    let mut spaces = [[0; MAX_PATH]; 2];
    let [interpreter, program] = &mut spaces;
    let error = match (find(INTERPRETER, interpreter), find(PROGRAM, program)) {
        (Ok(interpreter), Ok(program)) => process.execute([interpreter, OPTIONS, program], memory),
        (Err(error), _) | (_, Err(error)) => error,
    };
    let mut space = [0; 64];
    let mut message = Text::new(&mut space);
    message.put(b"grootfs-program cannot be run: error ");
    message.put_number(error.raw_os_error().unsigned_abs().into(), 10);
    message.put(b"\n");
    sys::say(message.bytes().unwrap_or_default());
    1
}

/// A path beside this executable, put together in `space`.
fn find<'a>(path: &[u8], space: &'a mut [u8]) -> Result<&'a CStr> {
    let length = readlinkat_raw(CWD, c"/proc/self/exe", &mut *space)?;
    let directory = space[..length].iter().rposition(|&byte| byte == b'/').ok_or(Errno::NOENT)?;
    space.get_mut(directory..directory + path.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(path);
    CStr::from_bytes_until_nul(space).map_err(|_| Errno::NAMETOOLONG)
}
