//! The manual page grootfs(8), for the man macros.

use crate::VERSION;
use crate::options::{Flag, Form, GLOBALS, visible};
use std::fmt::Write;

const STATUS: [(&str, &str); 4] = [
    ("0", "Success; also where there was nothing to delete or to clean."),
    ("1", "A failure, said in one line on standard output."),
    ("3", "There is no such command."),
    ("130", "Stopped by a signal."),
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
    text += ".SH EXIT STATUS\n";
    for (code, meaning) in STATUS {
        let _ = writeln!(text, ".TP\n.B {code}\n{meaning}");
    }
    text
}

fn options(flags: &[Flag]) -> String {
    let mut text = String::new();
    for flag in flags {
        let value = match flag.form {
            Form::Switch => "",
            Form::Integer => " \\fIbytes\\fR",
            Form::Count => " \\fInumber\\fR",
            Form::Text | Form::Path | Form::List => " \\fIvalue\\fR",
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
