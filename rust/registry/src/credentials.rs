//! docker's `config.json` and podman's `auth.json`: what they say about a registry. Helpers are named, not run.

use crate::error::{Error, Kind, Result};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use groot_document::{Map, Value};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

const MAX_FILE: u64 = 4 << 20;
const HUB: &str = "docker.io";
/// How helpers know Docker Hub, and the key docker writes for it.
const HUB_SERVER: &str = "https://index.docker.io/v1/";
const HUB_HOSTS: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// What newer dockers keep beside the entry for Docker Hub; neither is a password.
const HUB_TOKENS: [&str; 2] = ["access-token", "refresh-token"];
/// Padding is often forgotten; Go, and so docker, requires it and ignores ends of lines.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// User and password, an identity token, or a token for the registry itself. Empty means anonymous.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credential {
    /// The user.
    pub username: String,
    /// The password.
    pub password: String,
    /// What a token server takes instead of a password (OAuth 2 refresh token).
    pub identity_token: String,
    /// What the registry takes as it is.
    pub registry_token: String,
}

impl Credential {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts().iter().all(|text| text.is_empty())
    }

    /// Everything; for a keyed hash, not for eyes.
    #[must_use]
    pub fn parts(&self) -> [&str; 4] {
        [&self.username, &self.password, &self.identity_token, &self.registry_token]
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "<Credential empty>" } else { "<Credential set>" })
    }
}

/// Where credentials for a registry are, in the order in which they are to be tried.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// Here.
    Here(Credential),
    /// Whatever ``docker-credential-NAME get`` says of ``server``; if that is nothing, the next place counts.
    Helper {
        /// The name, of letters, digits, dashes and underscores.
        name: String,
        /// What to ask it for.
        server: String,
    },
}

/// The files that are looked through if none was named, in order: podman's own variable, docker's file, podman's files.
/// ``variable`` looks up the environment.
pub fn default_files(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("HOME").or_else(std::env::home_dir).unwrap_or_default();
    let mut files: Vec<_> = set("REGISTRY_AUTH_FILE").into_iter().collect();
    files.push(set("DOCKER_CONFIG").unwrap_or_else(|| home.join(".docker")).join("config.json"));
    files.extend(set("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")));
    files.push(set("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")).join("containers/auth.json"));
    files
}

/// A file of credentials.
pub struct Store {
    document: Map<String, Value>,
    path: String,
}

impl Store {
    /// Read a file; None if it is not there.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let shown = path.display().to_string();
        let failed = |error: &std::io::Error| {
            let reason = error.to_string();
            let reason = reason.split(" (os error").next().unwrap_or_default();
            Error::new(Kind::Config, format!("cannot read docker configuration `{shown}`: {reason}"))
        };
        match std::fs::metadata(path) {
            Ok(about) if about.len() > MAX_FILE => {
                let reason = format!("docker configuration `{shown}` is larger than the limit of {MAX_FILE} bytes");
                return Err(Error::new(Kind::Config, reason));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&error)),
            Ok(_) => {}
        }
        let body = std::fs::read(path).map_err(|error| failed(&error))?;
        Self::parse(&body, shown).map(Some)
    }

    /// Parse a file's content; ``path`` names it in messages. Of a key given twice the last counts, as for docker.
    pub fn parse(body: &[u8], path: String) -> Result<Self> {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        match serde_json::from_slice(body) {
            Ok(Value::Object(document)) => Ok(Self { document, path }),
            Ok(_) => Err(Error::new(Kind::Config, format!("docker configuration `{path}` is not a JSON object"))),
            // the parser's own text may quote what it found
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                Err(Error::new(Kind::Config, format!("docker configuration `{path}` is not valid JSON (line {line}, column {column})")))
            }
        }
    }

    /// Where the credentials for a repository are: a helper for this registry, then `auths`, then the store for all.
    ///
    /// `auths` are looked through for the repository and what is above it, then for the registry in every spelling that
    /// docker takes. Entries without secrets say nothing.
    pub fn find(&self, registry: &str, repository: &str) -> Result<Vec<Place>> {
        let server = if registry == HUB { HUB_SERVER } else { registry };
        let mut places = Vec::new();
        let helpers = self.section("credHelpers")?;
        if let Some((_, name)) = in_order(helpers, registry, "").first()
            && name.as_str() != Some("")
        {
            places.push(self.helper(name, server)?);
        }
        for (_, entry) in in_order(self.section("auths")?, registry, repository) {
            let credential = self.decode(entry)?;
            if !credential.is_empty() {
                places.push(Place::Here(credential));
                break;
            }
        }
        match self.document.get("credsStore") {
            None | Some(Value::Null) => {}
            Some(name) if name.as_str() == Some("") => {}
            Some(name) => places.push(self.helper(name, server)?),
        }
        Ok(places)
    }

    fn section(&self, name: &str) -> Result<&Map<String, Value>> {
        static EMPTY: std::sync::OnceLock<Map<String, Value>> = std::sync::OnceLock::new();
        match self.document.get(name) {
            None | Some(Value::Null) => Ok(EMPTY.get_or_init(Map::new)),
            Some(Value::Object(section)) => Ok(section),
            Some(_) => Err(Error::new(Kind::Config, format!("`{name}` in `{}` is not an object", self.path))),
        }
    }

    fn helper(&self, name: &Value, server: &str) -> Result<Place> {
        match name.as_str() {
            Some(name) if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') => {
                Ok(Place::Helper { name: name.to_owned(), server: server.to_owned() })
            }
            _ => Err(Error::new(Kind::Config, format!("`{}` names an invalid credential helper", self.path))),
        }
    }

    fn decode(&self, entry: &Value) -> Result<Credential> {
        let unusable = |reason: &str| Error::new(Kind::Config, format!("{reason} in `{}`", self.path));
        let Value::Object(entry) = entry else {
            return Err(unusable("an entry of `auths` that is not an object"));
        };
        let text = |name: &str| match entry.get(name) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(unusable("an entry of `auths` that holds something that is not text")),
        };
        let mut found = Credential {
            username: text("username")?,
            password: text("password")?,
            identity_token: text("identitytoken")?,
            registry_token: text("registrytoken")?,
        };
        let encoded: String = text("auth")?.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        if !encoded.is_empty() {
            let broken = || unusable("an `auth` that is not base64 of user:password");
            let decoded = BASE64.decode(encoded.trim()).map_err(|_| broken())?;
            let decoded = String::from_utf8(decoded).map_err(|_| broken())?;
            let (username, password) = decoded.split_once(':').ok_or_else(broken)?;
            // old versions of docker padded it
            (found.username, found.password) = (username.to_owned(), password.trim_end_matches('\0').to_owned());
        }
        Ok(found)
    }
}

/// The entries of a section that are about a repository, the most specific first.
fn in_order<'a>(section: &'a Map<String, Value>, registry: &str, repository: &str) -> Vec<(usize, &'a Value)> {
    let ranked = section.iter().filter_map(|(key, value)| rank(key, registry, repository).map(|rank| (rank, value)));
    let mut found: Vec<_> = ranked.collect();
    found.sort_by_key(|(rank, _)| *rank);
    found
}

/// How well a key fits, less being better; None if it is about something else.
fn rank(key: &str, registry: &str, repository: &str) -> Option<usize> {
    const HOST: usize = 1 << 16;
    if key == registry || (registry == HUB && key == HUB_SERVER) {
        return Some(HOST);
    }
    let stripped = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (host, path) = stripped.unwrap_or(key).split_once('/').unwrap_or((stripped.unwrap_or(key), ""));
    let (host, path) = (crate::trust::canonical(host), path.trim_end_matches('/'));
    let is_hub = registry == HUB && HUB_HOSTS.contains(&host.as_str());
    if !is_hub && host != crate::trust::canonical(registry) {
        return None;
    }
    if HUB_TOKENS.iter().any(|name| is_hub && path.ends_with(name)) {
        return None;
    }
    if stripped.is_some() || matches!(path, "" | "v1" | "v2") {
        return Some(HOST + 1);
    }
    let is_above = repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    is_above.then(|| HOST - 1 - path.len().min(HOST - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth() -> String {
        "dXNlcjpwYTpzc34+Pnc/d2U=".to_owned()
    }

    fn places(config: &str, registry: &str, repository: &str) -> Vec<Place> {
        Store::parse(config.as_bytes(), "c".into()).unwrap().find(registry, repository).unwrap()
    }

    fn user(config: &str, registry: &str, repository: &str) -> String {
        match places(config, registry, repository).into_iter().next() {
            Some(Place::Here(found)) => found.username,
            Some(Place::Helper { name, server }) => format!("{name} for {server}"),
            None => String::new(),
        }
    }

    #[test]
    fn every_spelling_of_a_registry_counts() {
        for key in [
            "h:5",
            "H:5",
            "https://h:5",
            "http://h:5",
            "https://h:5/v1/",
            "http://h:5/v2/",
            "https://h:5/v1",
            "h:5/v2/",
            "h:5/",
            "https://h:5/team",
        ] {
            let config = format!(r#"{{"auths":{{"other":{{"auth":"%%%"}},"{key}":{{"auth":"{}"}}}}}}"#, auth());
            assert_eq!(user(&config, "h:5", "team/app"), "user", "{key}");
            assert_eq!(user(&config, "h:6", "team/app"), "", "{key}");
        }
        for key in ["docker.io", "index.docker.io", "https://index.docker.io/v1/", "https://registry-1.docker.io/v2/", "https://docker.io"]
        {
            let config = format!(
                r#"{{"auths":{{"https://index.docker.io/v1/access-token":{{"username":"no","password":"x"}},"{key}":{{"auth":"{}"}}}}}}"#,
                auth()
            );
            assert_eq!(user(&config, "docker.io", "library/a"), "user", "{key}");
        }
    }

    #[test]
    fn the_most_specific_entry_wins() {
        let entry = |name: &str| format!(r#"{{"username":"{name}","password":"p"}}"#);
        let config =
            format!(r#"{{"auths":{{"h":{},"h/x":{},"h/x/y":{},"https://h/x/y/":{}}}}}"#, entry("h"), entry("x"), entry("xy"), entry("url"));
        for (repository, who) in [("x/y/z", "xy"), ("x/y", "xy"), ("x/yy", "x"), ("xx", "h"), ("z", "h")] {
            assert_eq!(user(&config, "h", repository), who);
        }
    }

    #[test]
    fn base64_as_people_keep_it() {
        let wrapped = auth().as_bytes().chunks(8).map(|part| String::from_utf8_lossy(part).into_owned()).collect::<Vec<_>>().join("\\n");
        for text in [auth(), auth().trim_end_matches('=').to_owned(), auth() + "\\n", auth() + "\\r\\n", wrapped] {
            let config = format!(r#"{{"auths":{{"h":{{"auth":"{text}"}}}}}}"#);
            let Place::Here(found) = places(&config, "h", "a").remove(0) else { panic!("no entry") };
            assert_eq!((found.username.as_str(), found.password.as_str()), ("user", "pa:ss~>>w?we"), "{text}");
        }
    }

    #[test]
    fn an_entry_without_secrets_hides_nothing() {
        for entry in ["{}", r#"{"auth":""}"#, r#"{"email":"a@b.c"}"#] {
            let config = format!(r#"{{"auths":{{"h":{entry},"https://h/v1/":{{"username":"u","password":"p"}}}},"credsStore":"s"}}"#);
            assert_eq!(user(&config, "h", "a"), "u");
            let config = format!(r#"{{"auths":{{"h":{entry}}},"credsStore":"s"}}"#);
            assert_eq!(user(&config, "h", "a"), "s for h");
        }
    }

    #[test]
    fn helpers_come_in_order() {
        let config = format!(r#"{{"credHelpers":{{"https://h":"one"}},"auths":{{"h":{{"auth":"{}"}}}},"credsStore":"two"}}"#, auth());
        let found = places(&config, "h", "a");
        assert_eq!(found[0], Place::Helper { name: "one".into(), server: "h".into() });
        assert!(matches!(found[1], Place::Here(_)));
        assert_eq!(found[2], Place::Helper { name: "two".into(), server: "h".into() });
        assert_eq!(user(r#"{"credHelpers":{"h":""},"credsStore":""}"#, "h", "a"), "");
        assert_eq!(user(r#"{"credsStore":"s"}"#, "docker.io", "library/a"), "s for https://index.docker.io/v1/");
        assert_eq!(user(r#"{"auths":{"h":{"registrytoken":"t"}}}"#, "h", "a"), "");
    }

    #[test]
    fn a_broken_file_is_an_error_without_its_content() {
        for config in [
            "",
            "[]",
            "{",
            r#"{"auths":5}"#,
            r#"{"auths":{"h":"x"}}"#,
            r#"{"auths":{"h":{"auth":5}}}"#,
            r#"{"auths":{"h":{"auth":"hunter2!"}}}"#,
            r#"{"credsStore":"a;b"}"#,
            r#"{"credHelpers":{"h":"../x"}}"#,
        ] {
            let error = Store::parse(config.as_bytes(), "c".into()).and_then(|store| store.find("h", "a")).unwrap_err();
            assert_eq!(error.kind, Kind::Config);
            assert!(!error.message.contains("hunter2"));
        }
        assert_eq!(format!("{:?}", Credential { password: "x".into(), ..Credential::default() }), "<Credential set>");
    }
}
