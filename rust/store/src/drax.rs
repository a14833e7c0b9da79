//! Calling `drax`, the helper that may touch quota groups (its threat model: `rust/drax/THREAT-MODEL.md`).
//!
//! It is started outside any user namespace: inside one it would have no privilege.

use crate::error::{Error, Kind, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Run drax. Raises Quota with the original's texts (contract, section 7.4).
pub(crate) fn run(program: &OsStr, arguments: &[&OsStr]) -> Result<()> {
    let quota = |text: String| Error::new(Kind::Quota, text);
    let found = find(program).ok_or_else(|| {
        quota("drax was not found in the $PATH".into()).hint("`make install` puts drax in place; or give its path with --drax-bin")
    })?;
    if !rustix::process::geteuid().is_root() && !is_privileged(&found) {
        let cure = format!("chown root {0} && chmod u+s {0}", found.display());
        return Err(quota("missing the setuid bit on drax".into()).hint(cure));
    }
    let done = Command::new(&found).args(arguments).env_clear().stdin(Stdio::null()).stderr(Stdio::null()).output();
    let done = done.map_err(|error| quota(format!("drax: {}", groot_core::error::os_text(&error))))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
    Err(quota(if said.is_empty() { format!("drax: {}", done.status) } else { said }))
}

/// The program: a path, or a name that is looked for in `PATH`.
fn find(program: &OsStr) -> Option<PathBuf> {
    let is_program = |path: &Path| path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    let program = if program.is_empty() { OsStr::new("drax") } else { program };
    if program.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(program)).filter(|path| is_program(path));
    }
    let path: OsString = std::env::var_os("PATH")?;
    std::env::split_paths(&path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(program)).find(|path| is_program(path))
}

/// Whether a program has root's setuid bit or a file capability.
fn is_privileged(path: &Path) -> bool {
    let is_setuid = path.metadata().is_ok_and(|found| found.mode() & libc::S_ISUID != 0 && found.uid() == 0);
    is_setuid || rustix::fs::getxattr(path, "security.capability", &mut [0; 64]).is_ok_and(|length| length > 0)
}
