//! The site file, the configuration file, the environment and the options, joined into one checked `Settings` (contract, sections 2
//! and 3).

use crate::call::{Environment, Given};
use crate::era::{Era, Rules};
use crate::failure::{Failure, Kind, message};
use crate::options::{Command, GLOBALS, SITE_FILE};
use crate::output::Output;
use crate::{configuration, site};
use groot_core::error::is_printable;
use groot_document::{Value as Json, json};
use groot_registry::hosts::HOSTS_DIRECTORY;
use groot_telemetry::Format;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The store, if none is named.
pub const DEFAULT_STORE: &str = "/var/lib/grootfs";

/// How long a proof is good that a caller may pull.
const PROOF_SECONDS: u64 = 3600;
/// How long a registry may think: scanners and pull-through caches take minutes.
const RESPONSE_SECONDS: u64 = 300;

/// Characters of a caller's correlation id, which stands in every line of the log.
const MAX_CORRELATION: usize = 128;

/// One value, of an option or of a key of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text, or a path.
    Text(OsString),
    /// A whole number.
    Integer(i64),
    /// True or false.
    Switch(bool),
    /// Several texts.
    List(Vec<OsString>),
    /// Lists of texts by name, in order.
    Lists(Vec<(String, Vec<String>)>),
}

/// Values by the name of their setting.
pub type Values = BTreeMap<String, Value>;

/// Whether a registry is asked what a tag means now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Each time.
    Always,
    /// Only if the store does not have the image under this name.
    Missing,
}

/// Whether a registry must say that the caller may have what the store has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// Each time.
    Always,
    /// Not as long as there is a proof.
    Cached,
    /// Not at all.
    Never,
}

/// All settings of one call, checked. Texts are bytes; empty means: not set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // `options` describes each of them, once
#[allow(clippy::struct_excessive_bools)]
pub struct Settings {
    pub compatibility: Era,
    pub config: PathBuf,
    pub site_file: PathBuf,
    pub socket: PathBuf,
    pub store: PathBuf,
    pub driver: OsString,
    pub drax_bin: PathBuf,
    pub btrfs_progs_path: PathBuf,
    pub newuidmap_bin: PathBuf,
    pub newgidmap_bin: PathBuf,
    pub metron_endpoint: OsString,
    pub metrics_file: PathBuf,
    pub output: Output,
    pub log_level: OsString,
    pub log_file: PathBuf,
    pub log_time_format: Format,
    pub correlation_id: String,
    pub with_clean: bool,
    pub clean_log_file: PathBuf,
    pub mount: bool,
    pub json: bool,
    /// Bytes; 0 for no limit.
    pub disk_limit: u64,
    pub exclude_image: bool,
    pub skip_layer_validation: bool,
    pub idmapped_mount: bool,
    pub platform: OsString,
    pub pull_policy: PullPolicy,
    pub progress: OsString,
    pub image_verification: Verification,
    /// Seconds.
    pub verification_lifetime: u64,
    /// Whether a new layer's files may be cloned from those of other layers.
    pub share_content: bool,
    /// Whether small layers that follow each other share a volume.
    pub join_small_layers: bool,
    pub auth_file: PathBuf,
    pub trusted_hosts: Vec<OsString>,
    /// Seconds.
    pub response_timeout: u64,
    pub registry_mirrors: Vec<(String, Vec<String>)>,
    pub registry_hosts: PathBuf,
    pub insecure_registries: Vec<OsString>,
    pub remote_layer_certificates: PathBuf,
    /// Bytes.
    pub threshold: u64,
    pub clean_free: u64,
    pub clean_free_percent: u64,
    pub clean_keep: u64,
    pub ignore_images: Vec<OsString>,
    pub uid_mappings: Vec<OsString>,
    pub gid_mappings: Vec<OsString>,
    /// Bytes, as configured.
    pub store_size: i64,
    pub direct_io: bool,
    pub username: OsString,
    pub password: OsString,
}

impl Settings {
    /// Check values. Every command checks every value, as the original does, so that a bad file is found at once. Fails with a
    /// `ConfigError`.
    pub fn of(values: &Values) -> Result<Self, Failure> {
        let text = |name: &str, default: &str| match values.get(name) {
            Some(Value::Text(text)) if !text.is_empty() => text.clone(),
            _ => default.into(),
        };
        let path = |name: &str, default: &str| PathBuf::from(text(name, default));
        let compatibility = Era::of(&text("compatibility", ""))?;
        let rules = compatibility.rules();
        let number = |name: &str| if let Some(Value::Integer(number)) = values.get(name) { *number } else { 0 };
        let switch_or = |name: &str, default| if let Some(Value::Switch(given)) = values.get(name) { *given } else { default };
        let switch = |name: &str| switch_or(name, false);
        let texts = |name: &str| if let Some(Value::List(texts)) = values.get(name) { texts.clone() } else { Vec::new() };
        let size = |name: &str, what: &str| {
            u64::try_from(number(name)).map_err(|_| invalid(format!("invalid argument: {what} cannot be negative")))
        };
        let seconds = |name: &str, default: u64| match u64::try_from(number(name)) {
            Ok(0) => Ok(default),
            Ok(seconds) => Ok(seconds),
            Err(_) => Err(invalid("invalid argument: a number of seconds cannot be negative")),
        };
        Ok(Self {
            compatibility,
            config: path("config", ""),
            site_file: path(SITE_FILE, ""),
            socket: path("socket", ""),
            // As the original joins it with what is below.
            store: cleaned(&path("store", DEFAULT_STORE)),
            driver: text("driver", "btrfs"),
            drax_bin: path("drax_bin", "drax"),
            btrfs_progs_path: path("btrfs_progs_path", ""),
            newuidmap_bin: path("newuidmap_bin", "newuidmap"),
            newgidmap_bin: path("newgidmap_bin", "newgidmap"),
            metron_endpoint: text("metron_endpoint", ""),
            metrics_file: path("metrics_file", ""),
            output: output(&text("output", "text"))?,
            log_level: text("log_level", ""),
            log_file: path("log_file", ""),
            disk_limit: size("disk_limit", "disk limit")?,
            threshold: size("threshold", "clean threshold")?,
            clean_free: size("clean_free", "free space")?,
            clean_free_percent: match size("clean_free_percent", "free space")? {
                percent @ 0..=100 => percent,
                percent => return Err(invalid(format!("invalid argument: {percent} percent of free space"))),
            },
            clean_keep: size("clean_keep", "what clean keeps")?,
            pull_policy: pull_policy(&text("pull_policy", "always"))?,
            progress: progress(text("progress", "auto"))?,
            image_verification: verification(&text("image_verification", "always"))?,
            verification_lifetime: seconds("verification_lifetime", PROOF_SECONDS)?,
            share_content: shares(&text("share_content", "always"))?,
            join_small_layers: switch("join_small_layers"),
            response_timeout: seconds("response_timeout", RESPONSE_SECONDS)?,
            log_time_format: log_time_format(&text("log_time_format", rules.log_time_format.word()))?,
            correlation_id: correlation_id(text("correlation_id", ""))?,
            with_clean: switch("with_clean"),
            clean_log_file: path("clean_log_file", ""),
            mount: !switch("without_mount"),
            json: switch_or("json", rules.json),
            exclude_image: switch("exclude_image"),
            skip_layer_validation: switch("skip_layer_validation"),
            idmapped_mount: switch("idmapped_mount"),
            platform: text("platform", ""),
            auth_file: path("auth_file", ""),
            trusted_hosts: texts("trusted_hosts"),
            registry_mirrors: if let Some(Value::Lists(lists)) = values.get("registry_mirrors") { lists.clone() } else { Vec::new() },
            registry_hosts: path("registry_hosts", HOSTS_DIRECTORY),
            insecure_registries: texts("insecure_registries"),
            remote_layer_certificates: path("remote_layer_certificates", ""),
            ignore_images: texts("ignore_images"),
            uid_mappings: texts("uid_mappings"),
            gid_mappings: texts("gid_mappings"),
            store_size: number("store_size"),
            direct_io: switch_or("with_direct_io", rules.direct_io),
            username: text("username", ""),
            password: text("password", ""),
        })
    }

    /// What is so in the era that is served.
    #[must_use]
    pub fn rules(&self) -> &'static Rules {
        self.compatibility.rules()
    }

    /// All settings but the secrets, for the debug log: texts that are none are shown as far as they are.
    #[must_use]
    pub fn public(&self) -> Json {
        let text = |text: &OsStr| text.to_string_lossy().into_owned();
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let texts = |texts: &[OsString]| texts.iter().map(|text| text.to_string_lossy().into_owned()).collect::<Vec<_>>();
        let hosts = |hosts: &[OsString]| hosts.iter().map(|host| without_user(&host.to_string_lossy())).collect::<Vec<_>>();
        let mirrors: groot_document::Map<_, _> = self
            .registry_mirrors
            .iter()
            .map(|(name, mirrors)| (name.clone(), mirrors.iter().map(|mirror| without_user(mirror)).collect::<Vec<_>>().into()))
            .collect();
        json!({
            "compatibility": self.rules().word,
            "config": path(&self.config),
            "site_file": path(&self.site_file),
            "socket": path(&self.socket),
            "store": path(&self.store),
            "driver": text(&self.driver),
            "drax_bin": path(&self.drax_bin),
            "btrfs_progs_path": path(&self.btrfs_progs_path),
            "newuidmap_bin": path(&self.newuidmap_bin),
            "newgidmap_bin": path(&self.newgidmap_bin),
            "metron_endpoint": text(&self.metron_endpoint),
            "metrics_file": path(&self.metrics_file),
            "output": self.output.word(),
            "log_level": text(&self.log_level),
            "log_file": path(&self.log_file),
            "log_time_format": self.log_time_format.word(),
            "correlation_id": self.correlation_id,
            "with_clean": self.with_clean,
            "clean_log_file": path(&self.clean_log_file),
            "mount": self.mount,
            "json": self.json,
            "disk_limit": self.disk_limit,
            "exclude_image": self.exclude_image,
            "skip_layer_validation": self.skip_layer_validation,
            "idmapped_mount": self.idmapped_mount,
            "platform": text(&self.platform),
            "pull_policy": self.pull_policy.word(),
            "progress": text(&self.progress),
            "image_verification": self.image_verification.word(),
            "verification_lifetime": self.verification_lifetime,
            "share_content": if self.share_content { "always" } else { "never" },
            "join_small_layers": self.join_small_layers,
            "auth_file": path(&self.auth_file),
            "trusted_hosts": hosts(&self.trusted_hosts),
            "response_timeout": self.response_timeout,
            "registry_mirrors": mirrors,
            "registry_hosts": path(&self.registry_hosts),
            "insecure_registries": hosts(&self.insecure_registries),
            "remote_layer_certificates": path(&self.remote_layer_certificates),
            "threshold": self.threshold,
            "clean_free": self.clean_free,
            "clean_free_percent": self.clean_free_percent,
            "clean_keep": self.clean_keep,
            "ignore_images": texts(&self.ignore_images),
            "uid_mappings": texts(&self.uid_mappings),
            "gid_mappings": texts(&self.gid_mappings),
            "store_size": self.store_size,
            "with_direct_io": self.direct_io,
        })
    }
}

impl PullPolicy {
    /// As it is given.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Missing => "missing",
        }
    }
}

impl Verification {
    /// As it is given.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Cached => "cached",
            Self::Never => "never",
        }
    }
}

/// The values of the site file; over them those of the file that `--config` or `GROOTFS_CONFIG` names, the environment's, and the given
/// options (contract, section 2). Fails with a `ConfigError`.
pub fn join(command: &Command, globals: &Given, given: &Given, environment: &Environment) -> Result<Values, Failure> {
    let mut values = in_files(globals, environment)?;
    // There the name of the driver belongs to a cell, which may have had another one (C26).
    if !Era::of(&compatibility(globals, environment, &values))?.rules().knows_driver {
        values.remove("driver");
    }
    let variables = [
        ("correlation_id", &environment.correlation_id),
        ("socket", &environment.socket),
        ("store", &environment.store),
        ("config", &environment.config),
        ("compatibility", &environment.compatibility),
    ];
    values.extend(
        variables.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name.to_owned(), Value::Text(text.clone()))),
    );
    for (flags, given) in [(GLOBALS, globals), (command.flags, given)] {
        for flag in flags {
            if let Some(value) = given.get(flag.name).filter(|value| **value != Value::Text(OsString::new())) {
                values.insert(flag.setting().into_owned(), value.clone());
            }
        }
    }
    // For these the option counts when it is there, whatever its value (contract, section 2).
    for (names, setting, value) in [
        (&["with-clean", "clean"][..], "with_clean", true),
        (&["without-clean", "no-clean"], "with_clean", false),
        (&["with-mount"], "without_mount", false),
        (&["without-mount"], "without_mount", true),
    ] {
        if names.iter().any(|name| given.has(name)) {
            values.insert(setting.to_owned(), Value::Switch(value));
        }
    }
    Ok(values)
}

/// What the site file and the configuration file say, with `site_file` for the former.
fn in_files(globals: &Given, environment: &Environment) -> Result<Values, Failure> {
    let mut values = Values::new();
    if let Some(path) = site::find(&environment.program, &environment.defaults) {
        values = site::read(&path, &environment.program)?;
        values.insert(SITE_FILE.to_owned(), Value::Text(path.into()));
    }
    match globals.text("config").unwrap_or(&environment.config) {
        path if path.is_empty() => {}
        path => values.extend(configuration::read(Path::new(path))?),
    }
    Ok(values)
}

/// The word of the era: the option's, the environment's or the one of `files`.
fn compatibility(globals: &Given, environment: &Environment, files: &Values) -> OsString {
    let given = globals.text("compatibility").or(Some(&environment.compatibility).filter(|word| !word.is_empty()));
    match files.get("compatibility") {
        Some(Value::Text(word)) if given.is_none() => word.clone(),
        _ => given.cloned().unwrap_or_default(),
    }
}

/// The era of a call that cannot be read: as far as it can be told.
#[must_use]
pub fn era_of(globals: &Given, environment: &Environment) -> Era {
    let site = || {
        let path = site::find(&environment.program, &environment.defaults)?;
        site::read(&path, &environment.program).ok()
    };
    let files = in_files(globals, environment).ok().or_else(site).unwrap_or_default();
    Era::of(&compatibility(globals, environment, &files)).unwrap_or(Era::None)
}

/// A path by its text alone: without `.`, `..` and slashes that change nothing.
fn cleaned(path: &Path) -> PathBuf {
    let clean = groot_store::layout::normalise(path);
    if clean.as_os_str().is_empty() { PathBuf::from(".") } else { clean }
}

fn invalid(text: impl Into<OsString>) -> Failure {
    Failure::new(Kind::ConfigError, text)
}

fn progress(word: OsString) -> Result<OsString, Failure> {
    if ["auto", "plain", "json", "none"].iter().any(|known| word == *known) {
        return Ok(word);
    }
    Err(invalid(message(["invalid argument: progress `".as_ref(), &word, "` is none of auto, plain, json, none".as_ref()])))
}

fn output(word: &OsStr) -> Result<Output, Failure> {
    Output::of(word).ok_or_else(|| invalid(message(["invalid argument: output `".as_ref(), word, "` is neither text nor json".as_ref()])))
}

fn pull_policy(word: &OsStr) -> Result<PullPolicy, Failure> {
    [PullPolicy::Always, PullPolicy::Missing]
        .into_iter()
        .find(|policy| policy.word() == word)
        .ok_or_else(|| invalid(message(["invalid argument: pull policy `".as_ref(), word, "` is neither always nor missing".as_ref()])))
}

fn verification(word: &OsStr) -> Result<Verification, Failure> {
    let all = [Verification::Always, Verification::Cached, Verification::Never];
    all.into_iter().find(|verification| verification.word() == word).ok_or_else(|| {
        invalid(message(["invalid argument: image verification `".as_ref(), word, "` is none of always, cached, never".as_ref()]))
    })
}

fn shares(word: &OsStr) -> Result<bool, Failure> {
    match word.to_str() {
        Some("always") => Ok(true),
        Some("never") => Ok(false),
        _ => Err(invalid(message(["invalid argument: share content `".as_ref(), word, "` is neither always nor never".as_ref()]))),
    }
}

fn log_time_format(word: &OsStr) -> Result<Format, Failure> {
    [Format::UnixEpoch, Format::Rfc3339].into_iter().find(|format| format.word() == word).ok_or_else(|| {
        invalid(message(["invalid argument: log time format `".as_ref(), word, "` is neither unix-epoch nor rfc3339".as_ref()]))
    })
}

fn correlation_id(text: OsString) -> Result<String, Failure> {
    let id = text.into_string().ok().filter(|id| id.chars().count() <= MAX_CORRELATION && id.chars().all(is_printable));
    id.ok_or_else(|| invalid(format!("invalid argument: a correlation id has at most {MAX_CORRELATION} printable characters")))
}

/// A host, or the URL of one, without what stands in front of it for a user and a password. Somebody wrote these where they do not work.
fn without_user(host: &str) -> String {
    host.rsplit_once('@').map_or_else(|| host.to_owned(), |(_, host)| format!("...@{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[(&str, Value)]) -> Result<Settings, String> {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Settings::of(&values).map_err(|failure| failure.message.into_string().unwrap())
    }

    fn text(value: &str) -> Value {
        Value::Text(value.into())
    }

    #[test]
    fn defaults() {
        let settings = of(&[]).unwrap();
        assert_eq!((settings.store.as_os_str(), settings.driver.as_os_str()), ("/var/lib/grootfs".as_ref(), "btrfs".as_ref()));
        assert_eq!((settings.mount, settings.disk_limit, settings.pull_policy), (true, 0, PullPolicy::Always));
        let seconds = (settings.verification_lifetime, settings.response_timeout);
        assert_eq!((settings.image_verification, seconds), (Verification::Always, (3600, 300)));
        assert_eq!(of(&[("store", text("")), ("drax_bin", text(""))]).unwrap(), settings);
    }

    #[test]
    fn checks() {
        for (name, value, why) in [
            ("disk_limit", Value::Integer(-1), "invalid argument: disk limit cannot be negative"),
            ("threshold", Value::Integer(-1), "invalid argument: clean threshold cannot be negative"),
            ("pull_policy", text("never"), "invalid argument: pull policy `never` is neither always nor missing"),
            ("image_verification", text("x"), "invalid argument: image verification `x` is none of always, cached, never"),
            ("share_content", text("x"), "invalid argument: share content `x` is neither always nor never"),
            ("verification_lifetime", Value::Integer(-1), "invalid argument: a number of seconds cannot be negative"),
            ("response_timeout", Value::Integer(-1), "invalid argument: a number of seconds cannot be negative"),
            ("log_time_format", text("iso"), "invalid argument: log time format `iso` is neither unix-epoch nor rfc3339"),
            ("correlation_id", text("\u{1b}[31m"), "invalid argument: a correlation id has at most 128 printable characters"),
            ("correlation_id", text(&"ü".repeat(129)), "invalid argument: a correlation id has at most 128 printable characters"),
        ] {
            assert_eq!(of(&[(name, value)]), Err(why.to_owned()));
        }
        assert_eq!(of(&[("correlation_id", text(&"ü".repeat(128)))]).unwrap().correlation_id.chars().count(), 128);
    }

    /// As Python's `str.isprintable` says.
    #[test]
    fn printable_characters() {
        for c in [' ', 'a', '"', '\\', '\'', 'ü', '€', '\u{301}', '一', '🍹'] {
            assert!(is_printable(c), "{c:?}");
        }
        for c in ['\0', '\n', '\u{7f}', '\u{85}', '\u{a0}', '\u{ad}', '\u{200b}', '\u{2028}', '\u{e000}', '\u{378}', '\u{feff}'] {
            assert!(!is_printable(c), "{c:?}");
        }
    }

    #[test]
    fn user_information_of_hosts_is_not_public() {
        assert_eq!(without_user("joe:pw@mirror.example/a"), "...@mirror.example/a");
        assert_eq!(without_user("https://joe:p@w@mirror.example"), "...@mirror.example");
        assert_eq!(without_user("mirror.example:5000"), "mirror.example:5000");
        let lists = vec![("docker.io".to_owned(), vec!["joe:hidden@mirror.example".to_owned()])];
        let settings = of(&[("registry_mirrors", Value::Lists(lists))]).unwrap();
        assert!(!settings.public().to_string().contains("hidden"));
    }

    #[test]
    fn the_era_gives_defaults() {
        let newest = of(&[("compatibility", text("newest"))]).unwrap();
        assert_eq!((newest.json, newest.log_time_format, newest.direct_io), (true, Format::Rfc3339, false));
        let blog = of(&[("compatibility", text("blog"))]).unwrap();
        assert_eq!((blog.json, blog.log_time_format, blog.direct_io), (false, Format::UnixEpoch, true));
        let given = [("json", Value::Switch(false)), ("log_time_format", text("unix-epoch")), ("with_direct_io", Value::Switch(true))];
        let own = of(&[&given[..], &[("compatibility", text("newest"))]].concat()).unwrap();
        assert_eq!((own.json, own.log_time_format, own.direct_io), (false, Format::UnixEpoch, true));
    }

    #[test]
    fn secrets_are_not_public() {
        let settings = of(&[("username", text("sapling")), ("password", text("hidden")), ("store", text("/s"))]).unwrap();
        let shown = settings.public().to_string();
        assert!(shown.contains("\"store\":\"/s\"") && !shown.contains("hidden") && !shown.contains("sapling"), "{shown}");
    }
}
