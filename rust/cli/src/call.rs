//! From argv to a call that can be run, or to the answer that is given instead.

use crate::advice;
use crate::arguments::{Stop, parse};
use crate::era::Rules;
use crate::failure::{Failure, Kind, message};
use crate::help;
use crate::options::{self, Command, GLOBALS, SECRET};
use crate::output::{self, Output};
use crate::settings::{self, Settings, Value, Values};
use groot_core::error::{os_text, printable};
use groot_document::{Value as Json, json};
use groot_telemetry::{Logger, Metrics, Sink, new_correlation_id};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The exit code of an unknown command (contract, section 5).
const UNKNOWN_COMMAND: u8 = 3;

/// What may come before the command.
const FLAGS: &[options::Flag] = &{
    let mut flags = [options::VERSION; GLOBALS.len() + 2];
    let mut i = 0;
    while i < GLOBALS.len() {
        flags[i] = GLOBALS[i];
        i += 1;
    }
    flags[GLOBALS.len()] = options::VERSION_SHORT;
    flags
};

/// What a call takes from its environment.
#[derive(Debug, Default, Clone)]
pub struct Environment {
    /// Where this program is installed: `<prefix>/bin/grootfs`; empty if that is not known.
    pub program: PathBuf,
    /// `GROOTFS_DEFAULTS`.
    pub defaults: OsString,
    /// `GROOTFS_CONFIG`.
    pub config: OsString,
    /// `GROOTFS_STORE`.
    pub store: OsString,
    /// `GROOTFS_COMPATIBILITY`.
    pub compatibility: OsString,
    /// `GROOTFS_CORRELATION_ID`.
    pub correlation_id: OsString,
    /// `GROOTFS_SOCKET`.
    pub socket: OsString,
    /// Whether traces are wanted, which only Python sends.
    pub wants_traces: bool,
}

impl Environment {
    /// Of the program at a place, and from a way to look up variables.
    pub fn of(program: PathBuf, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let text = |name: &str| variable(name).unwrap_or_default();
        Self {
            program,
            defaults: text("GROOTFS_DEFAULTS"),
            config: text("GROOTFS_CONFIG"),
            store: text("GROOTFS_STORE"),
            compatibility: text("GROOTFS_COMPATIBILITY"),
            correlation_id: text("GROOTFS_CORRELATION_ID"),
            socket: text("GROOTFS_SOCKET"),
            wants_traces: groot_telemetry::wants_traces(variable),
        }
    }
}

/// Options that were given, by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Given {
    values: BTreeMap<&'static str, Value>,
    /// Where secret values stand: number of the argument, and of its first byte.
    pub(crate) secrets: Vec<(usize, usize)>,
}

impl Given {
    pub(crate) fn put(&mut self, name: &'static str, value: Value) {
        self.values.insert(name, value);
    }

    pub(crate) fn append(&mut self, name: &'static str, text: OsString) {
        if let Value::List(list) = self.values.entry(name).or_insert_with(|| Value::List(Vec::new())) {
            list.push(text);
        }
    }

    /// Whether the option is there, whatever its value.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Its value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// Its value, if it is a text that is not empty.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&OsString> {
        match self.get(name) {
            Some(Value::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Whether a switch is on.
    #[must_use]
    pub fn switch(&self, name: &str) -> bool {
        self.get(name) == Some(&Value::Switch(true))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.values.iter().map(|(name, value)| (*name, value))
    }
}

/// What is said instead of running a command: help, version, or what is wrong with the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For stdout, with all its line breaks.
    pub out: OsString,
    /// For stderr.
    pub err: OsString,
    /// The exit code.
    pub code: u8,
}

/// One call of a command.
#[derive(Debug)]
pub struct Call {
    /// The command, of the table.
    pub command: &'static Command,
    /// File, options and environment, joined and checked.
    pub settings: Settings,
    /// What the settings were made from, by setting.
    pub values: Values,
    /// The command's own options that were given, by name.
    pub given: Given,
    /// The other arguments.
    pub positional: Vec<OsString>,
    /// Whether traces are wanted.
    pub wants_traces: bool,
    /// The command's session; each of its lines carries the correlation id.
    pub log: Logger,
    /// What the command measures. `run` calls `began`, `ended` and `close`.
    pub metrics: Metrics,
}

impl Call {
    /// Read a call: argv without the program's name. The log is open then and has `starting` and, at debug level, `config`, the
    /// metrics have `began`; all of that is held until [`Call::undertake`]. A password in the arguments no longer shows in the
    /// process list.
    pub fn read(arguments: Vec<OsString>, environment: &Environment) -> Result<Self, Answer> {
        let (globals, mut rest) = match parse(arguments, FLAGS, true) {
            Ok(parsed) => parsed,
            Err(stop) => return Err(stopped(stop, None, &Manner::of(&Given::default(), environment))),
        };
        let manner = || Manner::of(&globals, environment);
        if globals.has("version") || globals.has("v") || rest.first().is_some_and(|name| name == "version") {
            return Err(said(format!("grootfs version {}", manner().rules.version)));
        }
        if rest.is_empty() || rest[0] == "help" || rest[0] == "h" {
            return Err(rest.get(1).map_or_else(|| said(help::app()), |name| help_of(name, &manner())));
        }
        let Some(command) = options::find(&rest[0]) else { return Err(help_of(&rest[0], &manner())) };
        let count = rest.len() - 1;
        let (mut given, positional) =
            parse(rest.drain(1..), command.flags, false).map_err(|stop| stopped(stop, Some(command), &manner()))?;
        // From the end: what stands in front of them is another program's business.
        given.secrets.iter_mut().for_each(|(argument, _)| *argument = count - *argument);
        groot_core::process::hide_in_arguments(&given.secrets);
        Self::open(command, &globals, given, positional, environment).map_err(|failure| too_early(&failure, &manner()))
    }

    fn open(
        command: &'static Command,
        globals: &Given,
        mut given: Given,
        positional: Vec<OsString>,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let values = settings::join(command, globals, &given, environment)?;
        let settings = Settings::of(&values)?;
        // What `create --json` prints is another document, for who asks for that one.
        if settings.output == Output::Json && command.name != "create" && command.flags.iter().any(|flag| flag.name == "json") {
            given.put("json", Value::Switch(true));
        }
        let sink = Sink::open(&settings.log_file, &settings.log_level.to_string_lossy(), settings.log_time_format).map_err(|error| {
            let reason = os_text(&error);
            let parts = ["open ".as_ref(), settings.log_file.as_os_str(), ": ".as_ref(), reason.as_ref()];
            Failure::new(Kind::GrootError, message(parts))
        })?;
        sink.hold();
        // One id for all lines of a command, the caller's if it has one: to find what belongs together in the logs of a cell.
        let id = if settings.correlation_id.is_empty() { new_correlation_id() } else { settings.correlation_id.clone() };
        let log = Logger::new(sink, "grootfs", json!({"correlationID": id})).session(command.name, Json::Null);
        tell(&settings, &log, "starting");
        if log.writes(groot_telemetry::Level::Debug) {
            log.debug("config", json!({"config": settings.public()}));
        }
        let metrics = Metrics::open(&settings.metron_endpoint, &settings.metrics_file, settings.store.as_os_str(), &log);
        metrics.hold();
        metrics.began(command.name);
        let wants_traces = environment.wants_traces;
        Ok(Self { command, settings, values, given, positional, wants_traces, log, metrics })
    }

    /// The password of the call, if it has one. Its arguments have another word for it then.
    pub fn take_password(&self, arguments: &mut [OsString]) -> Option<OsString> {
        for &(from_end, start) in &self.given.secrets {
            let argument = arguments.len().checked_sub(from_end).and_then(|at| arguments.get_mut(at))?;
            let mut bytes = std::mem::take(argument).into_vec();
            bytes[start..].fill(b'x');
            *argument = OsString::from_vec(bytes);
        }
        match self.given.get(SECRET) {
            Some(Value::Text(password)) => Some(password.clone()),
            _ => None,
        }
    }

    /// From here on this program does the call: what it has logged and measured goes out, and so does what follows.
    pub fn undertake(&self) {
        self.log.release();
        self.metrics.release();
    }
}

/// Log the beginning or the end of a command.
pub(crate) fn tell(settings: &Settings, log: &Logger, action: &str) {
    if settings.rules().tells_commands { log.info(action, Json::Null) } else { log.debug(action, Json::Null) }
}

fn said(text: impl Into<OsString>) -> Answer {
    let mut out = text.into();
    out.push("\n");
    Answer { out, err: OsString::new(), code: 0 }
}

/// How a call is answered that no command takes.
struct Manner {
    rules: &'static Rules,
    output: Output,
}

impl Manner {
    fn of(globals: &Given, environment: &Environment) -> Self {
        let output = globals.text("output").and_then(|word| Output::of(word)).unwrap_or(Output::Text);
        Self { rules: settings::era_of(globals, environment).rules(), output }
    }
}

fn help_of(name: &OsStr, manner: &Manner) -> Answer {
    if let Some(command) = options::find(name) {
        return said(help::command(command));
    }
    let text = message(["No help topic for '".as_ref(), &shown(name), "'".as_ref()]);
    let failure = Failure::new(Kind::UsageError, text).hint(advice::of_command(name));
    Answer {
        code: UNKNOWN_COMMAND,
        ..failed(&failure, manner, || if manner.rules.hints { failure.text() } else { failure.message.clone() })
    }
}

fn stopped(stop: Stop, command: Option<&Command>, manner: &Manner) -> Answer {
    let name = command.map(|command| command.name);
    let text = || command.map_or_else(help::app, help::command);
    let (why, advice) = match stop {
        Stop::HelpWanted => return said(text()),
        Stop::UnknownFlag(flag) => {
            let advice = advice::of_option(flag.as_bytes(), command.map_or(GLOBALS, |command| command.flags), name);
            (message(["flag provided but not defined: -".as_ref(), &shown(&flag)]), advice)
        }
        Stop::BadFlag(why) => (shown(&why), advice::help_of(name)),
    };
    let failure = Failure::new(Kind::UsageError, why).hint(advice);
    failed(&failure, manner, || match &failure.hint {
        Some(advice) if manner.rules.hints => {
            message(["Incorrect Usage.\n\nhint: ".as_ref(), &failure.message, "; ".as_ref(), advice.as_ref()])
        }
        _ => format!("Incorrect Usage.\n\n{}", text()).into(),
    })
}

/// The answer to a call that cannot be done, in words for people or as a document for programs.
fn failed(failure: &Failure, manner: &Manner, words: impl FnOnce() -> OsString) -> Answer {
    let text = if manner.output == Output::Json { output::of_failure(failure) } else { words() };
    Answer { code: failure.code(), ..said(text) }
}

/// What a caller wrote, for eyes: it may hold what a terminal obeys.
fn shown(text: &OsStr) -> OsString {
    printable(text.as_bytes()).into()
}

/// Before the command starts: the message, for some with the whole help, and once more on stderr (contract, section 2).
fn too_early(failure: &Failure, manner: &Manner) -> Answer {
    let rules = manner.rules;
    let words = || {
        let mut out = if rules.hints { failure.text() } else { failure.message.clone() };
        if rules.early_help {
            out.push(format!("\n\n{}", help::app()));
        }
        out
    };
    let answer = failed(failure, manner, words);
    let err = if rules.early_twice { message([&failure.message, "\n".as_ref()]) } else { OsString::new() };
    Answer { err, ..answer }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::era::Era;

    /// Without a site file.
    fn quiet() -> Environment {
        Environment { defaults: "/dev/null".into(), ..Environment::default() }
    }

    fn read(argv: &[&str]) -> Result<Call, Answer> {
        read_in(argv, &quiet())
    }

    fn read_in(argv: &[&str], environment: &Environment) -> Result<Call, Answer> {
        Call::read(argv.iter().map(OsString::from).collect(), environment)
    }

    fn out(argv: &[&str]) -> (String, String, u8) {
        let answer = read(argv).unwrap_err();
        (answer.out.into_string().unwrap(), answer.err.into_string().unwrap(), answer.code)
    }

    #[test]
    fn help_and_version() {
        let app = (help::app() + "\n", String::new(), 0);
        for argv in [&[][..], &["help"], &["h"], &["--help"], &["-h"], &["--store", "/s", "-help"]] {
            assert_eq!(out(argv), app, "{argv:?}");
        }
        let list = (help::command(options::find("list".as_ref()).unwrap()) + "\n", String::new(), 0);
        for argv in [&["help", "list"][..], &["list", "--help"], &["list", "x", "-h"]] {
            assert_eq!(out(argv), list, "{argv:?}");
        }
        for argv in [&["--version"][..], &["-v", "list"], &["-version"], &["version"]] {
            assert_eq!(out(argv), (format!("grootfs version {}\n", crate::VERSION), String::new(), 0), "{argv:?}");
        }
        for argv in [&["bogus"][..], &["help", "bogus"]] {
            let text = "No help topic for 'bogus'\n\nhint: `grootfs --help` shows all commands\n";
            assert_eq!(out(argv), (text.to_owned(), String::new(), 3), "{argv:?}");
        }
    }

    #[test]
    fn wrong_options() {
        for (argv, hint) in [
            (&["--nope", "list"][..], "flag provided but not defined: -nope; `grootfs --help` shows all options"),
            (
                &["--strore", "/s", "list"],
                "flag provided but not defined: -strore; did you mean --store? `grootfs --help` shows all options",
            ),
            (&["delete", "--nope"], "flag provided but not defined: -nope; `grootfs delete --help` shows all options"),
            (
                &["clean", "--threshold-bytes", "10x\x1b"],
                "invalid value \"10x\\u{1b}\" for flag -threshold-bytes; `grootfs clean --help` shows all options",
            ),
        ] {
            assert_eq!(out(argv), (format!("Incorrect Usage.\n\nhint: {hint}\n"), String::new(), 1));
        }
    }

    #[test]
    fn answers_for_programs() {
        for (argv, document) in [
            (
                &["--output", "json", "lst"][..],
                r#"{"error":{"code":"usage","message":"No help topic for 'lst'","hint":"did you mean `grootfs list`? `grootfs --help` shows all commands"}}"#,
            ),
            (
                &["--output=json", "delete", "--nope"],
                r#"{"error":{"code":"usage","message":"flag provided but not defined: -nope","hint":"`grootfs delete --help` shows all options"}}"#,
            ),
            (
                &["--output", "json", "--log-file", "/no/such/log", "list"],
                r#"{"error":{"code":"other","message":"open /no/such/log: no such file or directory"}}"#,
            ),
        ] {
            assert_eq!(out(argv).0.trim_end(), document, "{argv:?}");
        }
        assert!(out(&["--output", "xml", "list"]).0.starts_with("invalid argument: output `xml` is neither text nor json"));
        assert!(read(&["--output", "json", "list"]).unwrap().given.switch("json"));
        assert!(!read(&["--output", "json", "create", "a", "b"]).unwrap().given.has("json"));
    }

    #[test]
    fn names_that_other_programs_use() {
        for (alias, name) in [("ls", "list"), ("images", "list"), ("rm", "delete")] {
            assert_eq!(read(&[alias]).unwrap().command.name, name);
        }
    }

    #[test]
    fn what_fails_before_the_command_starts_is_said_twice() {
        for argv in [
            &["--config", "/no/such", "list"][..],
            &["--log-file", "/no/such/log", "list"],
            &["create", "--disk-limit-size-bytes", "-1", "a", "b"],
        ] {
            let (text, err, code) = out(argv);
            assert_eq!((&text, code), (&err, 1));
            assert!(err.ends_with('\n') && err.lines().count() == 1, "{err}");
        }
    }

    #[test]
    fn a_password_is_taken_out_of_the_arguments() {
        let mut argv: Vec<OsString> =
            ["--store", "/s", "create", "--password=word", "--username", "--password", "-password", "ss", "password", "ss"]
                .iter()
                .map(OsString::from)
                .collect();
        let call = Call::read(argv.clone(), &Environment::default()).unwrap();
        assert_eq!(call.take_password(&mut argv), Some("ss".into()));
        let expected = ["--store", "/s", "create", "--password=xxxx", "--username", "--password", "-password", "xx", "password", "ss"];
        assert_eq!(argv, expected);
        let mut argv: Vec<OsString> = ["create", "--", "--password", "a"].iter().map(OsString::from).collect();
        assert_eq!(Call::read(argv.clone(), &Environment::default()).unwrap().take_password(&mut argv), None);
        assert_eq!(argv, ["create", "--", "--password", "a"]);
    }

    #[test]
    fn options_settings_and_arguments() {
        let call =
            read(&["--store", "/s", "create", "--with-clean=false", "--uid-mapping", "a", "image", "--disk-limit-size-bytes=010", "id"]);
        let call = call.unwrap();
        assert_eq!((call.command.name, &call.positional[..]), ("create", &["image".into(), "id".into()][..]));
        assert_eq!((call.settings.store.to_str(), call.settings.disk_limit, call.settings.with_clean), (Some("/s"), 8, true));
        assert_eq!(call.settings.uid_mappings, ["a"]);
        assert!(call.given.has("with-clean") && !call.given.switch("with-clean") && !call.given.has("store"));
        let call = read(&["create", "--with-clean", "--no-clean", "--with-mount", "--without-mount", "a", "b"]).unwrap();
        assert!(!call.settings.with_clean && !call.settings.mount);
        // The store of `stats --store` is another one.
        let call = read(&["--store", "/s", "stats", "--store"]).unwrap();
        assert_eq!((call.settings.store.to_str(), call.given.switch("store")), (Some("/s"), true));
    }

    #[test]
    fn file_environment_and_options_in_this_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.yml");
        std::fs::write(&path, "store: /file\nsocket: /file\ncreate: {insecure_registries: [a, b]}\nclean: {threshold_bytes: 9}\n").unwrap();
        let path = path.to_str().unwrap();
        let environment = Environment { socket: "/variable".into(), correlation_id: "id".into(), ..quiet() };
        let call = read_in(&["--config", path, "create", "--insecure-registry", "c", "x", "y"], &environment).unwrap();
        let settings = &call.settings;
        assert_eq!((settings.store.to_str(), settings.socket.to_str()), (Some("/file"), Some("/variable")));
        assert_eq!((settings.correlation_id.as_str(), settings.threshold), ("id", 9));
        assert_eq!(settings.insecure_registries, ["c"]);
        let call =
            read_in(&["--socket=/o", "--correlation-id", "", "--config", path, "clean", "--threshold-bytes", "0"], &environment).unwrap();
        assert_eq!((call.settings.socket.to_str(), call.settings.correlation_id.as_str(), call.settings.threshold), (Some("/o"), "id", 0));
    }

    #[test]
    fn the_site_file_comes_first_and_has_the_last_word_on_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let [site, config] = ["site.yml", "config.yml"].map(|name| directory.path().join(name));
        std::fs::write(&site, "compatibility: newest\nstore: /site\nclean: {threshold_bytes: 7}\ndriver: x\n").unwrap();
        std::fs::write(&config, "store: /file\ndriver: overlay-xfs\n").unwrap();
        let environment = Environment { defaults: site.into(), ..Environment::default() };
        let call = read_in(&["clean"], &environment).unwrap();
        assert_eq!((call.settings.store.to_str(), call.settings.threshold, call.settings.json), (Some("/site"), 7, true));
        let environment = Environment { config: config.clone().into(), ..environment };
        let call = read_in(&["clean"], &environment).unwrap();
        assert_eq!((call.settings.store.to_str(), call.settings.threshold), (Some("/file"), 7));
        assert_eq!((call.settings.config.as_path(), call.settings.driver.to_str()), (config.as_path(), Some("btrfs")));
        let environment = Environment { store: "/variable".into(), compatibility: "btrfs".into(), ..environment };
        let call = read_in(&["--driver", "btrfs", "clean"], &environment).unwrap();
        assert_eq!((call.settings.store.to_str(), call.settings.compatibility), (Some("/variable"), Era::Btrfs));
        let call = read_in(&["--compatibility", "none", "--driver", "x", "--config", "/dev/null", "clean"], &environment).unwrap();
        assert_eq!((call.settings.compatibility, call.settings.driver.to_str()), (Era::None, Some("x")));
    }

    #[test]
    fn the_newest_fails_in_one_line() {
        for argv in [&["--config", "/no/such", "list"][..], &["clean", "--threshold-bytes", "-1"], &["--log-file", "/no/such/log", "list"]]
        {
            let argv = [&["--compatibility", "newest"][..], argv].concat();
            let (text, err, code) = out(&argv);
            assert_eq!((text.lines().count(), err.as_str(), code), (1, "", 1), "{text}");
        }
        assert_eq!(out(&["--compatibility", "newest", "--version"]).0, "grootfs version 0.30.1\n");
        assert!(!out(&["--compatibility", "newest", "list", "--nope"]).0.contains("hint"));
    }

    #[test]
    fn nothing_is_told_before_the_call_is_undertaken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let argv = ["--log-file", path.to_str().unwrap(), "--log-level", "debug", "--correlation-id", "c", "capacity"];
        drop(read(&argv).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        read(&argv).unwrap().undertake();
        let text = std::fs::read_to_string(&path).unwrap();
        let actions: Vec<_> = text.lines().map(|line| line.split("\"message\":\"").nth(1).unwrap().split('"').next().unwrap()).collect();
        assert_eq!(actions, ["grootfs.capacity.starting", "grootfs.capacity.config"]);
        assert_eq!(text.matches("\"correlationID\":\"c\"").count(), 2);
    }
}
