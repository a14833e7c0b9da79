//! docs/reference.md is made from the table, by `make reference`; here it is compared with it.

use groot_cli::manual::{CONFIGURATION, FILES, STATUS, held};
use groot_cli::options::{Flag, Form, GLOBALS, KEYS, VARIABLES, visible};
use std::fmt::Write;
use std::path::Path;

fn page() -> String {
    let mut text =
        "# Reference\n\nMade from the table of options (`make reference`). Options may be written with one dash or two; those before \
                    the command are for every command.\n\n## Options before the command\n\n"
            .to_owned();
    text += &options(GLOBALS);
    text += "\n## Commands\n";
    for command in visible() {
        let title = format!("{} {}", command.name, command.arguments);
        let _ = write!(text, "\n### {}\n\n{}.\n", cell(title.trim_end()), command.summary);
        if !command.aliases.is_empty() {
            let _ = writeln!(text, "Also `{}`.", command.aliases.join("`, `"));
        }
        if !command.description.is_empty() {
            let _ = write!(text, "\n```text\n{}\n```\n", command.description.trim_end());
        }
        if !command.flags.is_empty() {
            let _ = write!(text, "\n{}", options(command.flags));
        }
        let _ = write!(text, "\n```console\n{}\n```\n", prompted(command.examples));
    }
    let _ = write!(text, "\n## Configuration\n\n{CONFIGURATION}\n\n| key | holds | option | in older files |\n| --- | --- | --- | --- |\n");
    for key in KEYS {
        let mut flags = GLOBALS.iter().chain(visible().flat_map(|command| command.flags));
        let option = flags.find(|flag| flag.setting() == key.setting).map_or_else(String::new, |flag| format!("`--{}`", flag.name));
        let older: Vec<_> = key.spellings[1..].iter().map(|spelling| format!("`{spelling}`")).collect();
        let _ = writeln!(text, "| `{}` | {} | {option} | {} |", key.spellings[0], held(key.form), older.join(", "));
    }
    for (title, entries) in [("Environment", VARIABLES), ("Files", FILES), ("Exit codes", STATUS)] {
        let _ = write!(text, "\n## {title}\n\n| | |\n| --- | --- |\n");
        for (name, meaning) in entries {
            let _ = writeln!(
                text,
                "| {} | {} |",
                name.split(", ").map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
                cell(meaning)
            );
        }
    }
    text
}

fn options(flags: &[Flag]) -> String {
    let mut text = "| option | does | default |\n| --- | --- | --- |\n".to_owned();
    for flag in flags {
        let value = match flag.form {
            Form::Switch => "",
            Form::Integer => " BYTES",
            Form::Count => " NUMBER",
            Form::Path => " PATH",
            Form::Text | Form::List | Form::Choice(_) => " VALUE",
        };
        let many = if flag.form == Form::List { "; may be given several times" } else { "" };
        let _ = writeln!(text, "| `--{}{value}` | {}{many} | {} |", flag.name, cell(flag.help), cell(flag.default));
    }
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "\\<")
}

fn prompted(examples: &str) -> String {
    examples.lines().map(|line| format!("$ {line}")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_page_is_that_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference.md");
    let page = page();
    if std::env::var_os("WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    assert!(std::fs::read_to_string(&path).unwrap_or_default() == page, "docs/reference.md is not that of the table: `make reference`");
}
