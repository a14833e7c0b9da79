//! Help texts.

use crate::VERSION;
use crate::options::{Command, Flag, Form, GLOBALS, visible};
use std::fmt::Write;

/// The text of `grootfs --help`, without its last line break.
#[must_use]
pub fn app() -> String {
    let width = visible().map(|command| command.name.len()).max().unwrap_or(0);
    let mut text = format!(
        "NAME:\n   grootfs - root file systems for containers, on BTRFS\n\n\
         USAGE:\n   grootfs [global options] command [command options] [arguments...]\n\n\
         VERSION:\n   {VERSION}\n\nCOMMANDS:\n"
    );
    for command in visible() {
        let _ = writeln!(text, "     {:<width$}  {}", command.name, command.summary);
    }
    let _ = writeln!(text, "     {:<width$}  Shows a list of commands or help for one command", "help, h");
    let _ = write!(text, "\nGLOBAL OPTIONS:{}", lines_of(GLOBALS));
    let _ = write!(text, "\n   {:<28}  show help\n   {:<28}  print the version", "--help, -h", "--version, -v");
    text
}

/// The text of `grootfs COMMAND --help`, without its last line break.
#[must_use]
pub fn command(command: &Command) -> String {
    let name = command.name;
    let mut text =
        format!("NAME:\n   grootfs {name} - {}\n\nUSAGE:\n   grootfs {name} [command options] {}", command.summary, command.arguments);
    text.truncate(text.trim_end().len());
    let indented = |lines: &str| lines.lines().fold(String::new(), |text, line| text + "\n   " + line);
    if !command.description.is_empty() {
        let _ = write!(text, "\n\nDESCRIPTION:{}", indented(command.description));
    }
    if !command.flags.is_empty() {
        let _ = write!(text, "\n\nOPTIONS:{}", lines_of(command.flags));
    }
    if !command.examples.is_empty() {
        let _ = write!(text, "\n\nEXAMPLES:{}", indented(command.examples));
    }
    text
}

/// One line an option, each after a line break.
fn lines_of(flags: &[Flag]) -> String {
    let mut text = String::new();
    for flag in flags {
        let value = match flag.form {
            Form::Text | Form::Path | Form::List | Form::Choice(_) => " value",
            Form::Integer => " bytes",
            Form::Count => " number",
            Form::Switch => "",
        };
        let option = format!("--{}{value}", flag.name);
        let _ = write!(text, "\n   {option:<28}  {}", flag.help);
        if flag.form == Form::List {
            text.push_str(" (may be given several times)");
        }
        if !flag.default.is_empty() {
            let _ = write!(text, " (default: {})", flag.default);
        }
    }
    text
}
