//! Completion files for bash, zsh and fish.

use crate::options::{Command, Flag, Form, GLOBALS, HELP, VERSION, visible};
use crate::settings::DEFAULT_STORE;
use std::fmt::Write;

/// The shells, by name.
pub const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// Commands whose argument is an image's id.
const TAKE_ID: [&str; 2] = ["delete", "stats"];

/// The completion file of a shell; `None` for one that is not known.
#[must_use]
pub fn file_for(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

/// For `bash-completion/completions`.
fn bash() -> String {
    let mut cases = String::new();
    for command in visible() {
        let (options, valued) = (options(command.flags, &[HELP]), valued(command.flags));
        let _ = write!(cases, "\n        {}) options='{options}' valued='{valued}' ;;", command.name);
    }
    let mut choices: Vec<_> = all_flags()
        .filter_map(|flag| match flag.form {
            Form::Choice(words) => {
                Some(format!("            --{}) COMPREPLY=($(compgen -W '{}' -- \"$cur\")) ;;\n", flag.name, words.join(" ")))
            }
            _ => None,
        })
        .collect();
    choices.sort();
    choices.dedup_by(|a, b| a.split(')').next() == b.split(')').next());
    let choices = choices.concat();
    let mut paths: Vec<_> = GLOBALS.iter().filter(|flag| flag.form == Form::Path).map(|flag| format!("--{}", flag.name)).collect();
    paths.sort();
    let (paths, take_id, shells, commands) = (paths.join(" | "), TAKE_ID.join(" | "), SHELLS.join(" "), names());
    format!(
        r#"# bash completion for grootfs, made by `grootfs completion bash`

_grootfs() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}}
    local global_options='{} --version' global_valued='{}'
    local command='' store=${{GROOTFS_STORE:-{DEFAULT_STORE}}} options valued i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${{COMP_WORDS[i]}}" in
            --store) store=${{COMP_WORDS[++i]}} ;;
            -*) [[ " $global_valued " == *" ${{COMP_WORDS[i]}} "* ]] && ((i++)) ;;
            *) command=${{COMP_WORDS[i]}}; break ;;
        esac
    done
    COMPREPLY=()
    case "$command" in
        '') options=$global_options valued=$global_valued ;;{cases}
        help | h) COMPREPLY=($(compgen -W '{commands}' -- "$cur")); return ;;
        *) return ;;
    esac
    if [[ " $valued " == *" $prev "* ]]; then
        case "$prev" in
            {paths}) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")) ;;
{choices}        esac
    elif [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
    else
        case "$command" in
            '') COMPREPLY=($(compgen -W '{commands} help' -- "$cur")) ;;
            {take_id}) COMPREPLY=($(compgen -W "$(command ls "$store/images" 2>/dev/null)" -- "$cur")) ;;
            create) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")) ;;
            completion) COMPREPLY=($(compgen -W '{shells}' -- "$cur")) ;;
        esac
    fi
}}

complete -F _grootfs grootfs
"#,
        options(GLOBALS, &[HELP]),
        valued(GLOBALS),
    )
}

/// For `zsh/site-functions`, where its name is `_grootfs`.
fn zsh() -> String {
    let mut described = String::new();
    let mut cases = String::new();
    for command in visible() {
        let name = command.name;
        let _ = writeln!(described, "        {}", zsh_quote(&format!("{name}:{}", command.summary)));
        let arguments = zsh_lines(zsh_specs(command.flags).chain(zsh_rest(command)), 20);
        let _ = write!(cases, "\n            {name})\n                _arguments{arguments}\n                ;;");
    }
    let own = ["'--version[print the version]'", "'1: :->command'", "'*:: :->arguments'"];
    let arguments = zsh_lines(zsh_specs(GLOBALS).chain(own.map(str::to_owned)), 8);
    format!(
        r#"#compdef grootfs
# zsh completion for grootfs, made by `grootfs completion zsh`

_grootfs() {{
    local context state state_descr line
    typeset -A opt_args
    local -a commands=(
{described}        'help:show the commands, or the help of one'
    )
    _arguments -C{arguments}
    local store=${{(Q)opt_args[--store]:-${{GROOTFS_STORE:-{DEFAULT_STORE}}}}}
    case $state in
        command) _describe -t commands command commands ;;
        arguments)
            case $words[1] in{cases}
            help) _describe -t commands command commands ;;
            esac
            ;;
    esac
}}

_grootfs "$@"
"#
    )
}

/// The words, each on a continued line of its own.
fn zsh_lines(words: impl Iterator<Item = String>, indent: usize) -> String {
    words.fold(String::new(), |lines, word| lines + " \\\n" + &" ".repeat(indent) + &word)
}

fn zsh_specs(flags: &'static [Flag]) -> impl Iterator<Item = String> {
    flags.iter().chain([&HELP]).map(|flag| {
        let many = if flag.form == Form::List { "\\*" } else { "" };
        let text = flag.help.replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
        let value = match flag.form {
            Form::Switch => String::new(),
            Form::Path => ":path:_files".to_owned(),
            Form::Choice(words) => format!(":value:({})", words.join(" ")),
            _ => ":value: ".to_owned(),
        };
        format!("{many}{}", zsh_quote(&format!("--{}[{text}]{value}", flag.name)))
    })
}

fn zsh_rest(command: &Command) -> Vec<String> {
    match command.name {
        "completion" => vec![format!("'1:shell:({})'", SHELLS.join(" "))],
        "create" => vec!["'1:image:_files'".to_owned(), "'2:id: '".to_owned()],
        name if TAKE_ID.contains(&name) => {
            vec!["'1:id:{compadd -- $store/images/*(N:t)}'".to_owned()]
        }
        _ => vec!["'*: :'".to_owned()],
    }
}

fn zsh_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// For `fish/vendor_completions.d`.
fn fish() -> String {
    let mut text = format!(
        r"# fish completion for grootfs, made by `grootfs completion fish`

function __grootfs_store
    set -l words (commandline -opc)
    set -q GROOTFS_STORE; and set -l store $GROOTFS_STORE; or set -l store {DEFAULT_STORE}
    for i in (seq 2 (count $words))
        switch $words[$i]
            case --store
                set -q words[(math $i + 1)]; and set store $words[(math $i + 1)]
            case '--store=*'
                set store (string replace -- --store= '' $words[$i])
        end
    end
    echo $store
end

complete -c grootfs -f
"
    );
    for flag in GLOBALS.iter().chain(&[VERSION, HELP]) {
        text += &fish_option("__fish_use_subcommand", flag);
    }
    for command in visible() {
        let name = command.name;
        let _ = writeln!(text, "complete -c grootfs -n __fish_use_subcommand -a {name} -d {}", fish_quote(command.summary));
        let seen = format!("__fish_seen_subcommand_from {name}");
        for flag in command.flags.iter().chain(&[HELP]) {
            text += &fish_option(&seen, flag);
        }
        let seen = fish_quote(&seen);
        if TAKE_ID.contains(&name) {
            let _ = writeln!(text, "complete -c grootfs -n {seen} -a '(command ls (__grootfs_store)/images 2>/dev/null)'");
        } else if name == "create" {
            let _ = writeln!(text, "complete -c grootfs -n {seen} -F");
        } else if name == "completion" {
            let _ = writeln!(text, "complete -c grootfs -n {seen} -a {}", fish_quote(&SHELLS.join(" ")));
        }
    }
    text += "complete -c grootfs -n __fish_use_subcommand -a help -d 'show the commands, or the help of one'\n";
    let _ = writeln!(text, "complete -c grootfs -n '__fish_seen_subcommand_from help' -a {}", fish_quote(&names()));
    text
}

fn fish_option(condition: &str, flag: &Flag) -> String {
    let value = match flag.form {
        Form::Switch => String::new(),
        Form::Path => " -r -F".to_owned(),
        Form::Choice(words) => format!(" -x -a {}", fish_quote(&words.join(" "))),
        _ => " -x".to_owned(),
    };
    format!("complete -c grootfs -n {} -l {}{value} -d {}\n", fish_quote(condition), flag.name, fish_quote(flag.help))
}

fn fish_quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn options(flags: &[Flag], more: &[Flag]) -> String {
    flags.iter().chain(more).map(|flag| format!("--{}", flag.name)).collect::<Vec<_>>().join(" ")
}

fn valued(flags: &[Flag]) -> String {
    flags.iter().filter(|flag| flag.form != Form::Switch).map(|flag| format!("--{}", flag.name)).collect::<Vec<_>>().join(" ")
}

fn all_flags() -> impl Iterator<Item = &'static Flag> {
    GLOBALS.iter().chain(visible().flat_map(|command| command.flags))
}

fn names() -> String {
    visible().map(|command| command.name).collect::<Vec<_>>().join(" ")
}
