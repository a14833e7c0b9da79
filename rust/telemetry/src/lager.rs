//! Log lines as Cloud Foundry's lager writes them (contract, section 18.3).
//!
//! One JSON object a line: `timestamp` (seconds, 9 decimals), `source`, `message` (`grootfs.<session>.<session>.<action>`),
//! `log_level` (0 debug, 1 info, 2 error, 3 fatal) and `data`. The newest original writes `timestamp` as RFC 3339 and `level` as
//! a word instead: [`Format::Rfc3339`] (the words are those of lager's own option).

use groot_document::{Map, Value, format_json};
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For developers.
    Debug,
    /// For operators.
    Info,
    /// Something failed.
    Error,
    /// Nothing is that bad: the level of a log that stays silent.
    Fatal,
}

impl Level {
    /// The level of a word, in any case; what is none of lager's four words means `Fatal` (contract, section 2).
    #[must_use]
    pub fn of(word: &str) -> Self {
        [Self::Debug, Self::Info, Self::Error].into_iter().find(|level| level.word().eq_ignore_ascii_case(word)).unwrap_or(Self::Fatal)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }
}

/// How times and levels are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Seconds since the epoch, levels as numbers.
    UnixEpoch,
    /// RFC 3339 in UTC, levels as words.
    Rfc3339,
}

impl Format {
    /// Its name among the options.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::UnixEpoch => "unix-epoch",
            Self::Rfc3339 => "rfc3339",
        }
    }
}

/// Where lines go.
#[derive(Debug)]
pub struct Sink {
    /// `None`: stderr, which is not ours to close.
    file: Option<File>,
    level: Level,
    format: Format,
    /// Lines that wait for `release`.
    held: Mutex<Option<Vec<u8>>>,
}

impl Sink {
    /// A sink for the options `--log-file` (empty: stderr), `--log-level` and `--log-time-format`. A log file raises `fatal` to
    /// `info`. Fails where the file cannot be opened.
    pub fn open(path: &Path, level: &str, format: Format) -> io::Result<Arc<Self>> {
        let mut level = Level::of(level);
        let mut file = None;
        if !path.as_os_str().is_empty() {
            file = Some(OpenOptions::new().append(true).create(true).mode(0o644).open(path)?);
            if level == Level::Fatal {
                level = Level::Info;
            }
        }
        Ok(Arc::new(Self { file, level, format, held: Mutex::new(None) }))
    }

    /// The lowest level that is written.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// From here on lines wait in memory.
    pub fn hold(&self) {
        self.held().get_or_insert_default();
    }

    /// Write what waits; from here on lines are written at once.
    pub fn release(&self) {
        if let Some(lines) = self.held().take() {
            self.put(&lines);
        }
    }

    fn write(&self, mut line: String) {
        line.push('\n');
        match &mut *self.held() {
            Some(lines) => lines.extend_from_slice(line.as_bytes()),
            None => self.put(line.as_bytes()),
        }
    }

    /// In one call, so that lines of several processes do not mix. A full disk is no reason to fail.
    fn put(&self, lines: &[u8]) {
        let _ = match &self.file {
            Some(file) => (&*file).write(lines).map(drop),
            None => rustix::io::write(rustix::stdio::stderr(), lines).map(drop).map_err(Into::into),
        };
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Vec<u8>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session of the log. Sessions nest; each has a dotted number and data that all its lines carry. A clone is the same session.
#[derive(Debug, Clone)]
pub struct Logger {
    sink: Arc<Sink>,
    message: String,
    session: String,
    data: Map<String, Value>,
    children: Arc<AtomicU32>,
}

impl Logger {
    /// The outermost session: its lines have no number. `data` is an object, as of `groot_document::json!`.
    #[must_use]
    pub fn new(sink: Arc<Sink>, message: impl Into<String>, data: Value) -> Self {
        Self { sink, message: message.into(), session: String::new(), data: object(data), children: Arc::default() }
    }

    /// A logger that writes nothing.
    #[must_use]
    pub fn silent() -> Self {
        let sink = Sink { file: None, level: Level::Fatal, format: Format::UnixEpoch, held: Mutex::new(None) };
        Self::new(Arc::new(sink), "grootfs", Value::Null)
    }

    /// A child session, whose lines carry `data` too.
    #[must_use]
    pub fn session(&self, name: &str, data: Value) -> Self {
        let child = self.children.fetch_add(1, Ordering::Relaxed) + 1;
        let session = if self.session.is_empty() { child.to_string() } else { format!("{}.{child}", self.session) };
        Self {
            sink: Arc::clone(&self.sink),
            message: format!("{}.{name}", self.message),
            session,
            data: joined(&self.data, object(data)),
            children: Arc::default(),
        }
    }

    /// The same session, with its lines elsewhere.
    #[must_use]
    pub fn in_sink(&self, sink: Arc<Sink>) -> Self {
        Self { sink, ..self.clone() }
    }

    /// A line for developers.
    pub fn debug(&self, action: &str, data: Value) {
        self.write(Level::Debug, action, || object(data));
    }

    /// A line for operators.
    pub fn info(&self, action: &str, data: Value) {
        self.write(Level::Info, action, || object(data));
    }

    /// Something failed; `error` becomes `data.error`.
    pub fn error(&self, action: &str, error: impl Display, data: Value) {
        self.write(Level::Error, action, || {
            let mut all = Map::new();
            all.insert("error".to_owned(), error.to_string().into());
            joined(&all, object(data))
        });
    }

    /// Whether lines of `level` are written: for data that costs something to find out.
    #[must_use]
    pub fn writes(&self, level: Level) -> bool {
        level >= self.sink.level
    }

    /// See [`Sink::release`].
    pub fn release(&self) {
        self.sink.release();
    }

    fn write(&self, level: Level, action: &str, data: impl FnOnce() -> Map<String, Value>) {
        if !self.writes(level) {
            return;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let message = format!("{}.{action}", self.message);
        let mut line = Map::new();
        let mut put = |key: &str, value: Value| line.insert(key.to_owned(), value);
        match self.sink.format {
            Format::Rfc3339 => {
                put("timestamp", rfc3339(now).into());
                put("level", level.word().into());
                put("source", "grootfs".into());
                put("message", message.into());
            }
            Format::UnixEpoch => {
                put("timestamp", format!("{}.{:09}", now.as_secs(), now.subsec_nanos()).into());
                put("source", "grootfs".into());
                put("message", message.into());
                put("log_level", (level as u8).into());
            }
        }
        let mut data = joined(&self.data, data());
        if !self.session.is_empty() {
            data.insert("session".to_owned(), self.session.as_str().into());
        }
        put("data", Value::Object(data));
        self.sink.write(without_passwords(format_json(&Value::Object(line))));
    }
}

/// A line with user and password taken out of the URLs in it: whatever stands between `://` and an `@` that does not begin a
/// digest. Names of images and mirrors come from users and files, and a log is read by others.
fn without_passwords(line: String) -> String {
    if !(line.contains("://") && line.contains('@')) {
        return line;
    }
    let mut parts = line.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let word = part.split(['"', ' ']).next().unwrap_or_default();
        let at = word.rmatch_indices('@').map(|(at, _)| at).find(|at| !word[at + 1..].starts_with("sha256:"));
        shown.push_str("://");
        if let Some(at) = at {
            shown.push_str("...");
            shown.push_str(&part[at..]);
        } else {
            shown.push_str(part);
        }
    }
    shown
}

/// 16 hex digits, for a command whose caller has no id.
#[must_use]
pub fn new_correlation_id() -> String {
    let mut bytes = [0; 8];
    // Without random bytes, as early in a boot, the time tells commands apart.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) != Ok(bytes.len()) {
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        bytes = (nanos as u64 ^ u64::from(std::process::id()).rotate_right(16)).to_be_bytes();
    }
    format!("{:016x}", u64::from_be_bytes(bytes))
}

fn object(data: Value) -> Map<String, Value> {
    match data {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

fn joined(first: &Map<String, Value>, then: Map<String, Value>) -> Map<String, Value> {
    let mut all = first.clone();
    all.extend(then);
    all
}

/// `2026-01-31T12:00:00.000000000Z`.
fn rfc3339(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since_epoch.subsec_nanos())
}

/// Year, month and day of a number of days since 1970-01-01. Counted in eras of 400 years that begin on the first of March, so
/// that the day of a leap year comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use groot_document::{json, parse_json};
    use std::path::PathBuf;

    fn lines(path: &Path) -> Vec<Value> {
        std::fs::read_to_string(path).unwrap().lines().map(|line| parse_json(line.as_bytes()).unwrap()).collect()
    }

    fn file(directory: &tempfile::TempDir) -> PathBuf {
        directory.path().join("log")
    }

    fn log(path: &Path, format: Format) -> Logger {
        Logger::new(Sink::open(path, "debug", format).unwrap(), "grootfs", Value::Null)
    }

    #[test]
    fn fields_of_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        log(&path, Format::UnixEpoch).info("starting", json!({"size": 5}));
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, rest) = text.split_at("{\"timestamp\":\"".len());
        assert_eq!(head, "{\"timestamp\":\"");
        let (stamp, rest) = rest.split_once('"').unwrap();
        assert_eq!(rest, ",\"source\":\"grootfs\",\"message\":\"grootfs.starting\",\"log_level\":1,\"data\":{\"size\":5}}\n");
        let (whole, fraction) = stamp.split_once('.').unwrap();
        assert!(whole.parse::<u64>().unwrap() > 1_700_000_000 && fraction.len() == 9, "{stamp}");
    }

    #[test]
    fn fields_of_the_newest_original() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        log(&path, Format::Rfc3339).error("three", "reason", Value::Null);
        let text = std::fs::read_to_string(&path).unwrap();
        let (stamp, rest) = text.strip_prefix("{\"timestamp\":\"").unwrap().split_once('"').unwrap();
        assert_eq!(stamp.len(), "2026-01-31T12:00:00.000000000Z".len());
        assert_eq!(rest, ",\"level\":\"error\",\"source\":\"grootfs\",\"message\":\"grootfs.three\",\"data\":{\"error\":\"reason\"}}\n");
    }

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000005Z"),
            (951_782_399, "2000-02-28T23:59:59.000000005Z"),
            (951_782_400, "2000-02-29T00:00:00.000000005Z"),
            (951_868_800, "2000-03-01T00:00:00.000000005Z"),
            (1_767_225_599, "2025-12-31T23:59:59.000000005Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000005Z"),
        ] {
            assert_eq!(rfc3339(Duration::new(seconds, 5)), text);
        }
    }

    #[test]
    fn sessions_nest() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        let log = log(&path, Format::UnixEpoch);
        let create = log.session("create", json!({"id": "c"}));
        create.session("pulling", Value::Null).debug("found", json!({"layer": "l"}));
        create.session("cloning", Value::Null).error("failed", "no space", json!({"volume": "v"}));
        create.info("ending", Value::Null);
        log.session("clean", Value::Null).info("done", Value::Null);
        let seen: Vec<_> = lines(&path).iter().map(|line| json!([line["message"], line["log_level"], line["data"]])).collect();
        assert_eq!(
            Value::from(seen),
            json!([
                ["grootfs.create.pulling.found", 0, {"id": "c", "layer": "l", "session": "1.1"}],
                ["grootfs.create.cloning.failed", 2, {"id": "c", "error": "no space", "volume": "v", "session": "1.2"}],
                ["grootfs.create.ending", 1, {"id": "c", "session": "1"}],
                ["grootfs.clean.done", 1, {"session": "2"}],
            ])
        );
    }

    #[test]
    fn levels() {
        for (word, level) in [("debug", Level::Debug), ("DEBUG", Level::Debug), ("Info", Level::Info), ("error", Level::Error)] {
            assert_eq!(Level::of(word), level);
        }
        for word in ["fatal", "nonsense", ""] {
            assert_eq!(Level::of(word), Level::Fatal);
        }
        let directory = tempfile::tempdir().unwrap();
        let opened = |path: &Path, level| Sink::open(path, level, Format::UnixEpoch).unwrap().level();
        for (word, in_file) in [("", Level::Info), ("fatal", Level::Info), ("debug", Level::Debug), ("error", Level::Error)] {
            assert_eq!(opened(&file(&directory), word), in_file);
        }
        assert_eq!(opened(Path::new(""), "fatal"), Level::Fatal);
    }

    #[test]
    fn a_file_is_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        std::fs::write(&path, "before\n").unwrap();
        for _ in 0..2 {
            log(&path, Format::UnixEpoch).info("x", Value::Null);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("before\n{") && text.lines().count() == 3, "{text}");
    }

    #[test]
    fn one_line_whatever_is_logged() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        let texts = ["\u{1b}[31m", "a\nb", "<&>", "\u{2028}", "\0", "grüße"];
        let log = log(&path, Format::UnixEpoch);
        for text in texts {
            log.info("x", json!({"value": text}));
        }
        assert_eq!(lines(&path).iter().map(|line| line["data"]["value"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), texts);
    }

    #[test]
    fn held_lines_wait_or_are_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        for release in [false, true] {
            let log = log(&path, Format::UnixEpoch);
            log.sink.hold();
            log.info("one", Value::Null);
            log.info("two", Value::Null);
            assert_eq!(lines(&path).len(), 0);
            if release {
                log.release();
                log.info("three", Value::Null);
            }
        }
        assert_eq!(lines(&path).len(), 3);
    }

    #[test]
    fn user_and_password_are_taken_out_of_urls() {
        let digest = format!("@sha256:{}", "0".repeat(64));
        for (text, shown) in [
            (r#"{"image":"docker://user:pw@h/a"}"#.to_owned(), r#"{"image":"docker://...@h/a"}"#.to_owned()),
            (r#""docker://user:p/w@h/a", "https://u@m""#.to_owned(), r#""docker://...@h/a", "https://...@m""#.to_owned()),
            (format!(r#""docker://h/a{digest}""#), format!(r#""docker://h/a{digest}""#)),
            (format!(r#""docker://u:p@h/a{digest}""#), format!(r#""docker://...@h/a{digest}""#)),
            (r#""a@b", "x://y", "c@d""#.to_owned(), r#""a@b", "x://y", "c@d""#.to_owned()),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        log(&path, Format::UnixEpoch).error("x", "no docker://user:hunter2@h/a", json!({"image": "docker://user:hunter2@h/a"}));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("docker://...@h/a") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn the_owner_alone_writes_a_log() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        log(&path, Format::UnixEpoch);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7133, 0o000);
    }

    #[test]
    fn a_full_disk_is_no_reason_to_fail() {
        log(Path::new("/dev/full"), Format::UnixEpoch).info("x", Value::Null);
    }

    #[test]
    fn a_file_that_cannot_be_opened() {
        let error = Sink::open(Path::new("/no/such/directory/log"), "", Format::UnixEpoch).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
