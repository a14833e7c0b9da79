//! The manual page grootfs(8), for the man macros.

use crate::VERSION;
use crate::options::{Flag, Form, GLOBALS, KEYS, Key, KeyForm, VARIABLES, visible};
use std::fmt::Write;

/// Exit codes and their meaning (contract, section 5).
pub const STATUS: &[(&str, &str)] = &[
    ("0", "success; also if there was nothing to delete or to clean"),
    ("1", "a failure, said in one line on standard output"),
    ("3", "there is no such command"),
    ("130", "stopped by a signal"),
];

/// What is so for all keys.
pub const CONFIGURATION: &str = "A YAML file, named by --config, has values for all calls; what its keys do is said with the options.
Options come before the environment, that before the file, and the file before the site file.
`grootfs doctor` names keys that nothing reads.";

/// Files that are read, and what they are.
pub const FILES: &[(&str, &str)] = &[
    ("/var/lib/grootfs", "the store, unless another one is named"),
    ("/var/lib/grootfs.backing-store", "the file that it is in, if it has one of its own"),
    (
        "PREFIX/etc/grootfs/defaults.yml, /etc/grootfs/defaults.yml",
        "the site file, of which the first counts: a configuration file for all calls",
    ),
    ("/etc/containers/certs.d/HOST[:PORT], /etc/docker/certs.d/HOST[:PORT]", "certificates for registries"),
    ("/etc/subuid, /etc/subgid", "the ids that an ordinary user's images may have"),
];

/// The page.
#[must_use]
pub fn page() -> String {
    let mut text = format!(
        ".TH GROOTFS 8 \"\" \"groot_fast {VERSION}\" \"System Administration\"\n\
         .SH NAME\ngrootfs \\- root file systems for containers, on BTRFS\n\
         .SH SYNOPSIS\n.B grootfs\n[\\fIglobal options\\fR] \\fIcommand\\fR [\\fIcommand options\\fR] [\\fIarguments\\fR]\n\
         .SH DESCRIPTION\n\
         Messages, errors too, go to standard output; standard error is for the log. Options may be written with one dash or two.\n\
         .SH GLOBAL OPTIONS\n{}.SH COMMANDS\n",
        options(GLOBALS)
    );
    for command in visible() {
        let title = format!("{} {}", command.name, command.arguments);
        let _ = writeln!(text, ".SS \"{}\"\n{}", roff(title.trim_end()), roff(&format!("{}.", command.summary)));
        if !command.description.is_empty() {
            let _ = writeln!(text, ".PP\n{}", lines(command.description));
        }
        text += &options(command.flags);
        if !command.examples.is_empty() {
            let _ = writeln!(text, ".PP\nExamples:\n.PP\n.nf\n.RS\n{}\n.RE\n.fi", lines(command.examples));
        }
    }
    text += ".SH CONFIGURATION\n";
    text += &lines(CONFIGURATION);
    text += "\n";
    for key in KEYS {
        text += &configured(key);
    }
    for (title, entries) in [("ENVIRONMENT", VARIABLES), ("FILES", FILES), ("EXIT STATUS", STATUS)] {
        let _ = writeln!(text, ".SH {title}");
        for (name, meaning) in entries {
            let _ = writeln!(text, ".TP\n.B {}\n{}.", roff(name), roff(meaning));
        }
    }
    text
}

/// What a key holds, in words.
#[must_use]
pub fn held(form: KeyForm) -> &'static str {
    match form {
        KeyForm::Text => "a string",
        KeyForm::Switch => "true or false",
        KeyForm::Integer => "a number",
        KeyForm::Bytes => "bytes, or a string with a unit",
        KeyForm::List => "a list",
        KeyForm::Lists => "lists by name",
    }
}

fn configured(key: &Key) -> String {
    let form = held(key.form);
    let (newest, older) = key.spellings.split_first().map_or(("", &[][..]), |(newest, older)| (*newest, older));
    let older = if older.is_empty() { String::new() } else { format!("; in older files {}", older.join(", ")) };
    let option = GLOBALS.iter().chain(visible().flat_map(|command| command.flags)).find(|flag| flag.setting() == key.setting);
    let option = option.map_or_else(String::new, |flag| format!("; as --{}: {}", flag.name, flag.help));
    format!(".TP\n\\fB{}\\fR\n{}\n", roff(newest), roff(&format!("{form}{option}{older}.")))
}

fn options(flags: &[Flag]) -> String {
    let mut text = String::new();
    for flag in flags {
        let value = match flag.form {
            Form::Switch => "",
            Form::Integer => " \\fIbytes\\fR",
            Form::Count => " \\fInumber\\fR",
            Form::Text | Form::Path | Form::List | Form::Choice(_) => " \\fIvalue\\fR",
        };
        let many = if flag.form == Form::List { " May be given several times." } else { "" };
        let default = if flag.default.is_empty() { String::new() } else { format!(" Default: {}.", flag.default) };
        let help = roff(&format!("{}.{many}{default}", flag.help));
        let _ = writeln!(text, ".TP\n\\fB{}\\fR{value}\n{help}", roff(&format!("--{}", flag.name)));
    }
    text
}

fn lines(text: &str) -> String {
    text.lines().map(roff).collect::<Vec<_>>().join("\n")
}

fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-").replace('`', "\\`");
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}
