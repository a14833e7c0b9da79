//! Becoming the Python program, which does every command that is not done here.

use crate::failure::{Failure, Kind, message};
use groot_core::error::os_text;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter, from the directory above the one that this executable is in.
const INTERPRETER: &str = "lib/groot_fast/venv/bin/python3";

/// Isolated: no `PYTHON*` variables, no packages of the user's, and above all nothing from the caller's directory. Texts are UTF-8
/// whatever the locale.
const OPTIONS: [&str; 4] = ["-I", "-Xutf8", "-m", "groot_fast"];

/// How the program gets the password of its call: what starts a program shows its arguments to everybody, and its environment to root
/// and to its user.
pub const PASSWORD: &str = "_GROOTFS_PASSWORD";

/// Become the program, with these arguments and the streams, environment and directory of this process. Returns only if that
/// fails.
#[must_use]
pub fn become_program(arguments: &[OsString], password: Option<OsString>) -> Failure {
    let executable = match std::fs::read_link("/proc/self/exe") {
        Ok(executable) => executable,
        Err(error) => {
            let text = format!("cannot tell where grootfs is installed: /proc/self/exe: {}", os_text(&error));
            return Failure::new(Kind::GrootError, text).hint("mount /proc");
        }
    };
    let interpreter = interpreter_of(&executable);
    let mut program = Command::new(&interpreter);
    program.args(OPTIONS).args(arguments).env_remove(PASSWORD);
    if let Some(password) = password {
        program.env(PASSWORD, password);
    }
    let error = program.exec();
    let reason = os_text(&error);
    let text = message(["cannot run ".as_ref(), interpreter.as_os_str(), ": ".as_ref(), reason.as_ref()]);
    Failure::new(Kind::GrootError, text).hint("install groot_fast again, with its directory lib/groot_fast")
}

fn interpreter_of(executable: &Path) -> PathBuf {
    let prefix = executable.ancestors().nth(2).unwrap_or(Path::new("/"));
    prefix.join(INTERPRETER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_is_beside_the_executable() {
        for (executable, interpreter) in [
            ("/usr/local/bin/grootfs", "/usr/local/lib/groot_fast/venv/bin/python3"),
            ("/bin/grootfs (deleted)", "/lib/groot_fast/venv/bin/python3"),
            ("/grootfs", "/lib/groot_fast/venv/bin/python3"),
        ] {
            assert_eq!(interpreter_of(Path::new(executable)), Path::new(interpreter));
        }
    }
}
