//! The site file: settings for all calls, beside the installed program, so that a package decides and no rewriting of a caller's
//! configuration file loses it.
//!
//! The first of `etc/grootfs/defaults.yml` below the program's own prefix and `/etc/grootfs/defaults.yml` that is there;
//! `GROOTFS_DEFAULTS` names another one instead. It holds what a configuration file holds, which has the last word.
//!
//! Root obeys it in every call, so nobody else may have written it: it must be root's, the caller's or of the program's own owner, and
//! writable by nobody else. Its directories are trusted as those of the program are.

use crate::configuration;
use crate::failure::{Failure, Kind, message};
use crate::settings::Values;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Below the prefix of the program, and below the root.
const NAME: &str = "etc/grootfs/defaults.yml";

/// The site file of a program at `program` (`<prefix>/bin/grootfs`; empty if that is not known), or the one that was `named`. `None`
/// if there is none.
#[must_use]
pub fn find(program: &Path, named: &OsStr) -> Option<PathBuf> {
    if !named.is_empty() {
        return Some(named.into());
    }
    let own = prefix_of(program).map(|prefix| prefix.join(NAME));
    own.into_iter().chain([Path::new("/").join(NAME)]).find(|path| path.exists())
}

/// The prefix of a program: of `make install` too, which keeps each release in a directory of its own below it.
fn prefix_of(program: &Path) -> Option<&Path> {
    let prefix = program.ancestors().nth(2).filter(|prefix| !prefix.as_os_str().is_empty())?;
    let is_release = prefix.parent().is_some_and(|parent| parent.ends_with("lib/groot_fast/releases"));
    if is_release { prefix.ancestors().nth(4) } else { Some(prefix) }
}

/// The values of a site file, by setting. Fails with a `ConfigError`.
pub fn read(path: &Path, program: &Path) -> Result<Values, Failure> {
    let (values, file) = configuration::read_open(path)?;
    let me = rustix::process::geteuid().as_raw();
    let installer = std::fs::metadata(program).map(|found| found.uid()).ok();
    // What is no file (`/dev/null`: no site file) has nothing that somebody could have put there.
    if file.is_file() && (file.mode() & 0o022 != 0 || !(file.uid() == 0 || file.uid() == me || Some(file.uid()) == installer)) {
        let text = message(["site file ".as_ref(), path.as_os_str(), " is not used: others can write it".as_ref()]);
        return Err(Failure::new(Kind::ConfigError, text).hint("it must belong to root, and be writable by nobody else"));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn beside_the_program_or_named() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("bin/grootfs");
        let elsewhere = find(&program, OsStr::new(""));
        assert!(elsewhere.is_none_or(|path| path == Path::new("/etc/grootfs/defaults.yml")));
        let file = directory.path().join(NAME);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "compatibility: newest\n").unwrap();
        assert_eq!(find(&program, OsStr::new("")), Some(file));
        assert_eq!(find(&program, OsStr::new("/x")), Some("/x".into()));
    }

    #[test]
    fn prefixes() {
        for (program, prefix) in [
            ("/usr/local/bin/grootfs", Some("/usr/local")),
            ("/usr/local/lib/groot_fast/releases/20260101-1/bin/grootfs", Some("/usr/local")),
            ("/bin/grootfs", Some("/")),
            ("/lib/groot_fast/releases/1/bin/grootfs", Some("/")),
            ("", None),
        ] {
            assert_eq!(prefix_of(Path::new(program)), prefix.map(Path::new), "{program}");
        }
    }

    #[test]
    fn nobody_else_may_have_written_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("defaults.yml");
        std::fs::write(&file, "store: /s\n").unwrap();
        let mode = |bits| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(bits)).unwrap();
        mode(0o644);
        assert_eq!(read(&file, Path::new("")).unwrap().len(), 1);
        for bits in [0o664, 0o646] {
            mode(bits);
            let text = read(&file, Path::new("")).unwrap_err().message.into_string().unwrap();
            assert!(text.ends_with("defaults.yml is not used: others can write it"), "{text}");
        }
        assert!(read(Path::new("/dev/null"), Path::new("")).unwrap().is_empty());
    }
}
