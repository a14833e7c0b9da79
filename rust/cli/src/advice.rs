//! What somebody may have meant who wrote something that there is not.

use crate::failure::{Failure, Kind};
use crate::options::{self, Flag};
use groot_core::error::printable;
use std::ffi::OsStr;

/// Names that are farther away than this part of their length are no help.
const FAR: usize = 3;

/// The name that comes nearest to a text, if one comes near.
fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let length = text.chars().count();
    let distance = |name: &str| {
        // Half a name says which one is meant.
        let is_start = length >= FAR && name.starts_with(text);
        if is_start { 0 } else { strsim::damerau_levenshtein(text, name) }
    };
    let allowed = |name: &str| length.max(name.chars().count()).div_ceil(FAR);
    names.map(|name| (distance(name), name)).filter(|(far, name)| *far <= allowed(name)).min().map(|(_, name)| name)
}

/// A hint for a command that there is not.
#[must_use]
pub fn of_command(name: &OsStr) -> String {
    let names = options::visible().flat_map(|command| std::iter::once(command.name).chain(command.aliases.iter().copied()));
    match name.to_str().and_then(|name| nearest(name, names)) {
        Some(found) => format!("did you mean `grootfs {found}`? `grootfs --help` shows all commands"),
        None => "`grootfs --help` shows all commands".into(),
    }
}

/// A hint for an option that a command, or the program, does not have.
#[must_use]
pub fn of_option(name: &[u8], flags: &[Flag], command: Option<&str>) -> String {
    let text = std::str::from_utf8(name).unwrap_or_default();
    let whole = help_of(command);
    if command.is_some() && options::GLOBALS.iter().any(|flag| flag.name == text) {
        return format!("--{text} stands before the command; {whole}");
    }
    match nearest(text, flags.iter().map(|flag| flag.name)) {
        Some(found) => format!("did you mean --{found}? {whole}"),
        None => whole,
    }
}

/// Refuse a setting that there is not: a library's caller would work with a default and not know it.
pub fn check_setting(name: &str) -> Result<(), Failure> {
    let names: Vec<_> = options::settings().collect();
    if names.iter().any(|known| known == name) {
        return Ok(());
    }
    let spelled = options::KEYS.iter().find(|key| key.spellings.iter().any(|key| key.rsplit('.').next() == Some(name)));
    let found = spelled.map(|key| key.setting).or_else(|| nearest(name, names.iter().map(AsRef::as_ref)));
    let refused = Failure::new(Kind::ConfigError, format!("there is no setting `{}`", printable(name.as_bytes())));
    Err(match found {
        Some(found) => refused.hint(format!("did you mean `{found}`?")),
        None => refused,
    })
}

/// Where the rest is said.
#[must_use]
pub fn help_of(command: Option<&str>) -> String {
    command.map_or_else(|| "`grootfs --help` shows all options".into(), |name| format!("`grootfs {name} --help` shows all options"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        for (typed, meant) in [
            ("craete", "create"),
            ("creat", "create"),
            ("delet", "delete"),
            ("stat", "stats"),
            ("lst", "list"),
            ("init", "init-store"),
            ("delete_store", "delete-store"),
            ("doctr", "doctor"),
            ("image", "images"),
        ] {
            assert!(of_command(typed.as_ref()).starts_with(&format!("did you mean `grootfs {meant}`? ")), "{typed}");
        }
        for typed in ["", "x", "frobnicate", "push"] {
            assert_eq!(of_command(typed.as_ref()), "`grootfs --help` shows all commands", "{typed}");
        }
    }

    #[test]
    fn settings() {
        for name in ["store", "disk_limit", "without_mount", "username", "site_file"] {
            check_setting(name).unwrap();
        }
        for (typed, meant) in [("stroe", "store"), ("disk_limit_size_bytes", "disk_limit"), ("insecure_registry", "insecure_registries")] {
            let refused = check_setting(typed).unwrap_err();
            assert_eq!(refused.message, *format!("there is no setting `{typed}`"));
            assert_eq!(refused.hint, Some(format!("did you mean `{meant}`?")));
        }
        assert_eq!(check_setting("colour").unwrap_err().hint, None);
    }

    #[test]
    fn options_of_a_command() {
        let flags = options::find("create".as_ref()).unwrap().flags;
        let hint = |name: &str| of_option(name.as_bytes(), flags, Some("create"));
        assert!(hint("disk-limit-size").starts_with("did you mean --disk-limit-size-bytes? `grootfs create --help`"));
        assert!(hint("insecure-registy").starts_with("did you mean --insecure-registry? "));
        assert!(hint("store").starts_with("--store stands before the command; "));
        assert_eq!(hint("volume"), "`grootfs create --help` shows all options");
        assert!(of_option(b"strore", options::GLOBALS, None).starts_with("did you mean --store? "));
        assert_eq!(of_option(b"\xff", options::GLOBALS, None), "`grootfs --help` shows all options");
    }
}
