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
    if let Some(failure) = changed(&interpreter) {
        return failure;
    }
    let mut program = Command::new(&interpreter);
    program.args(OPTIONS).args(arguments).env_remove(PASSWORD);
    if let Some(password) = password {
        program.env(PASSWORD, password);
    }
    let error = program.exec();
    let reason = os_text(&error);
    let text = message(["cannot run ".as_ref(), interpreter.as_os_str(), ": ".as_ref(), reason.as_ref()]);
    Failure::new(Kind::GrootError, text).hint(AGAIN)
}

const AGAIN: &str = "install groot_fast again, with its directory lib/groot_fast";

/// What is wrong with an interpreter that was installed: its environment leads to one of the machine's, which an upgrade may have
/// removed, or replaced by one that has none of its packages.
fn changed(interpreter: &Path) -> Option<Failure> {
    let target = std::fs::read_link(interpreter).ok()?;
    let text = |what: &str| message(["cannot run ".as_ref(), interpreter.as_os_str(), what.as_ref(), target.as_os_str()]);
    let Ok(real) = std::fs::canonicalize(interpreter) else {
        let text = text(": the Python that it was installed for is gone: ");
        return Some(Failure::new(Kind::GrootError, text).hint(AGAIN));
    };
    // Packages are in `lib/python<version>` of the environment; Debian's interpreters are called by their versions.
    let name = real.file_name()?.to_str().filter(|name| name.starts_with("python3."))?;
    let libraries = interpreter.parent()?.parent()?.join("lib");
    let installed = std::fs::read_dir(&libraries).ok()?.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
    if installed.is_empty() || installed.iter().any(|found| found == name) {
        return None;
    }
    let text = message(["cannot run ".as_ref(), interpreter.as_os_str(), ": it is another Python now: ".as_ref(), real.as_os_str()]);
    Some(Failure::new(Kind::GrootError, text).hint(AGAIN))
}

fn interpreter_of(executable: &Path) -> PathBuf {
    let prefix = executable.ancestors().nth(2).unwrap_or(Path::new("/"));
    prefix.join(INTERPRETER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn an_interpreter_that_is_gone_or_another_is_named() {
        let top = tempfile::tempdir().unwrap();
        let (system, venv) = (top.path().join("system"), top.path().join("venv"));
        for dir in [&system, &venv.join("bin"), &venv.join("lib/python3.11")] {
            std::fs::create_dir_all(dir).unwrap();
        }
        let interpreter = venv.join("bin/python3");
        let say = || changed(&interpreter).map(|failure| failure.message.into_string().unwrap());
        assert_eq!(say(), None, "what is not there is said by who runs it");
        symlink(system.join("python3"), &interpreter).unwrap();
        assert!(say().unwrap().ends_with("system/python3"));
        std::fs::write(system.join("python3.11"), "").unwrap();
        symlink("python3.11", system.join("python3")).unwrap();
        assert_eq!(say(), None);
        std::fs::remove_file(system.join("python3")).unwrap();
        std::fs::write(system.join("python3.13"), "").unwrap();
        symlink("python3.13", system.join("python3")).unwrap();
        assert!(say().unwrap().ends_with("system/python3.13"));
    }

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
