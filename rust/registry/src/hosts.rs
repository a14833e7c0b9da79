//! `hosts.toml`: which hosts serve a registry's images, as containerd reads it (containerd, docs/hosts.md).
//!
//! ```text
//! DIRECTORY/HOST[:PORT]/hosts.toml     else DIRECTORY/HOST_PORT_/hosts.toml, else DIRECTORY/_default/hosts.toml
//! ```
//!
//! ```toml
//! server = "https://registry-1.docker.io"     # the registry itself, asked last; what is not said here is as without the file
//! [host."https://mirror.example"]             # asked before it, in the order of the file
//! capabilities = ["pull", "resolve"]
//! ca = "mirror.crt"                           # one path or several; relative to the file
//! client = [["client.crt", "client.key"]]     # one path, several, or pairs
//! skip_verify = false
//! override_path = false                       # whether the host's path is all of it, and nothing stands before `/REPOSITORY`
//! [host."https://mirror.example".header]
//! x-custom = ["value"]
//! ```

use crate::error::{Error, Kind, Result, quoted};
use crate::trust::{Mirror, canonical};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml_edit::{DocumentMut, Item, Value};

/// Where containerd looks.
pub const HOSTS_DIRECTORY: &str = "/etc/containerd/certs.d";

/// Bytes of a file.
const MOST: u64 = 1 << 20;
/// Hosts in a file: each may have to be waited for.
const MOST_HOSTS: usize = 16;

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub struct Host {
    /// `http` or `https`; None for a mirror of ours without one, which is asked by https, and if it is insecure by http.
    pub scheme: Option<String>,
    /// host[:port], as written.
    pub authority: String,
    /// What stands before `/REPOSITORY/manifests/...`, with a slash at its beginning and none at its end; may be empty.
    pub path: String,
    /// Whether it serves manifests and blobs by digest.
    pub pulls: bool,
    /// Whether it says what tags mean.
    pub resolves: bool,
    /// Sent with each request.
    pub headers: Vec<(String, String)>,
    /// Files of authorities that are trusted besides the system's.
    pub authorities: Vec<PathBuf>,
    /// Client certificates with their keys, which may be in one file.
    pub clients: Vec<(PathBuf, PathBuf)>,
    /// Whether certificates are not verified.
    pub skip_verify: bool,
    /// How long to wait for a connection.
    pub dial_timeout: Option<Duration>,
    /// Whether it is the registry itself, and not a mirror: asked last, and its word is final.
    pub is_server: bool,
}

impl From<Mirror> for Host {
    /// A mirror of `create.registry_mirrors`.
    fn from(mirror: Mirror) -> Self {
        let path = if mirror.prefix.is_empty() { "/v2".to_owned() } else { format!("/v2/{}", mirror.prefix) };
        Self {
            scheme: mirror.scheme,
            authority: mirror.host,
            path,
            pulls: true,
            resolves: true,
            headers: Vec::new(),
            authorities: Vec::new(),
            clients: Vec::new(),
            skip_verify: false,
            dial_timeout: None,
            is_server: false,
        }
    }
}

/// The hosts that a registry's image is asked of, in order: mirrors of ours, then those of `hosts.toml`. The registry itself is among
/// them only if that file says something of it.
pub fn hosts_of(registry: &str, mirrors: &[(String, Vec<String>)], directory: &Path) -> Result<Vec<Host>> {
    let ours = mirrors.iter().find(|(name, _)| crate::trust::is_listed([registry], std::slice::from_ref(name)));
    let ours = ours.map_or(&[][..], |(_, mirrors)| mirrors);
    let mut hosts = ours.iter().map(|text| Mirror::parse(text).map(Host::from)).collect::<Result<Vec<_>>>()?;
    hosts.extend(read_hosts(directory, registry)?.unwrap_or_default());
    Ok(hosts)
}

/// The hosts of a registry, in the order in which they are asked; None if there is no file for it. An error names the file.
pub fn read_hosts(directory: &Path, registry: &str) -> Result<Option<Vec<Host>>> {
    for name in names(registry) {
        let folder = directory.join(name);
        let path = folder.join("hosts.toml");
        let text = match read(&path) {
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => continue,
            other => other.map_err(|error| unusable(&path, error.to_string().split(" (os error").next().unwrap_or_default()))?,
        };
        return parse(&text, &folder, registry).map(Some).map_err(|reason| unusable(&path, &reason));
    }
    Ok(None)
}

/// Whether there is a file that says something of a registry.
#[must_use]
pub fn has_hosts(directory: &Path, registry: &str) -> bool {
    names(registry).iter().any(|name| directory.join(name).join("hosts.toml").exists())
}

/// The folders that are looked for, best first. A name must stay one component.
fn names(registry: &str) -> Vec<String> {
    let spelled = [registry.to_owned(), canonical(registry)];
    let mut names = Vec::new();
    for name in spelled.into_iter().filter(|name| !name.contains('/') && !name.starts_with('.') && !name.starts_with('_')) {
        if let Some((host, port)) = name.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit())) {
            names.extend([name.clone(), format!("{host}_{port}_")]);
        } else {
            names.push(name);
        }
    }
    names.push("_default".into());
    names
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    // Before it is opened: a pipe would hold us.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let file = std::fs::File::open(path)?;
    let mut text = String::new();
    file.take(MOST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST { Err(std::io::Error::other(format!("larger than {MOST} bytes"))) } else { Ok(text) }
}

fn unusable(path: &Path, reason: &str) -> Error {
    Error::new(Kind::Config, format!("cannot use `{}`: {reason}", path.display()))
}

type Parsed<T> = std::result::Result<T, String>;

fn parse(text: &str, folder: &Path, registry: &str) -> Parsed<Vec<Host>> {
    let document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        // One line: the parser draws the place with lines and arrows.
        let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        format!("line {line}: {}", error.message().replace('\n', ", "))
    })?;
    let table = document.as_table();
    let mut hosts = Vec::new();
    if let Some(named) = table.get("host") {
        let named = named.as_table_like().ok_or("`host` is not a table")?;
        if named.len() > MOST_HOSTS {
            return Err(format!("more than {MOST_HOSTS} hosts"));
        }
        for (url, item) in named.iter() {
            let settings = item.as_table_like().ok_or_else(|| format!("host {} is not a table", quoted(url)))?;
            hosts.push(host(url, &|name| settings.get(name), folder, false)?);
        }
    }
    let server = match table.get("server").filter(|item| item.as_str() != Some("")) {
        None => format!("https://{}", if registry == "docker.io" { "registry-1.docker.io" } else { registry }),
        Some(item) => item.as_str().ok_or("`server` is not a string")?.to_owned(),
    };
    hosts.push(host(&server, &|name| table.get(name), folder, true)?);
    Ok(hosts)
}

fn host<'a>(url: &str, setting: &dyn Fn(&str) -> Option<&'a Item>, folder: &Path, is_server: bool) -> Parsed<Host> {
    let wrong = || format!("{} is not the URL of a host", quoted(url));
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let scheme = scheme.to_ascii_lowercase();
    if rest.contains('@') {
        return Err("the URL of a host has a user: credentials belong into docker's config.json".into());
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_plain =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'@' | b'?' | b'#' | b'%' | b'\\' | b'"'));
    let is_up = path.split('/').any(|part| part == "..");
    if !matches!(scheme.as_str(), "http" | "https") || authority.is_empty() || !is_plain(rest) || is_up {
        return Err(wrong());
    }
    crate::reference::Reference::parse(&format!("docker://{authority}/x")).map_err(|_| wrong())?;
    let said = |name: &str, what: &str| format!("`{name}` of {} is not {what}", quoted(url));
    let switch = |name: &str| setting(name).map_or(Ok(false), |item| item.as_bool().ok_or_else(|| said(name, "true or false")));
    let own = path.trim_matches('/');
    let own = if own.is_empty() { String::new() } else { format!("/{own}") };
    // containerd: without `override_path` the API's root follows, unless the path has it already.
    let path = if switch("override_path")? || own.ends_with("/v2") { own } else { format!("{own}/v2") };
    let (mut pulls, mut resolves) = (true, true);
    if let Some(item) = setting("capabilities") {
        let words = texts(item).ok_or_else(|| said("capabilities", "a list of strings"))?;
        if let Some(other) = words.iter().find(|word| !matches!(word.as_str(), "pull" | "resolve" | "push")) {
            return Err(said("capabilities", &format!("made of pull, resolve and push: {}", quoted(other))));
        }
        (pulls, resolves) = (words.iter().any(|word| word == "pull"), words.iter().any(|word| word == "resolve"));
    }
    let at = |path: &String| folder.join(path);
    let authorities = match setting("ca") {
        None => Vec::new(),
        Some(item) => texts(item).ok_or_else(|| said("ca", "a path or a list of paths"))?.iter().map(at).collect(),
    };
    let clients = match setting("client") {
        None => Vec::new(),
        Some(item) => clients(item).ok_or_else(|| said("client", "a path, a list of paths, or a list of pairs of paths"))?,
    };
    let clients = clients.iter().map(|(certificate, key)| (at(certificate), at(key))).collect();
    let dial_timeout = match setting("dial_timeout") {
        None => None,
        Some(item) => Some(item.as_str().and_then(duration).ok_or_else(|| said("dial_timeout", "a duration such as \"2s\" or \"500ms\""))?),
    };
    Ok(Host {
        scheme: Some(scheme),
        // Docker Hub's API is not where its name leads.
        authority: if authority == "docker.io" { "registry-1.docker.io" } else { authority }.to_owned(),
        path,
        pulls,
        resolves,
        headers: headers(setting("header"), &|what| said("header", what))?,
        authorities,
        clients,
        skip_verify: switch("skip_verify")?,
        dial_timeout,
        is_server,
    })
}

/// A string, or a list of them.
fn texts(item: &Item) -> Option<Vec<String>> {
    match item.as_value()? {
        Value::String(text) => Some(vec![text.value().clone()]),
        Value::Array(list) => list.iter().map(|value| value.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// A path, a list of paths, or a list of pairs; a path alone has both, certificate and key.
fn clients(item: &Item) -> Option<Vec<(String, String)>> {
    let both = |path: &str| (path.to_owned(), path.to_owned());
    match item.as_value()? {
        Value::String(path) => Some(vec![both(path.value())]),
        Value::Array(list) => list
            .iter()
            .map(|value| match value {
                Value::String(path) => Some(both(path.value())),
                Value::Array(pair) => match (pair.len(), pair.get(0)?.as_str()?, pair.get(1).and_then(Value::as_str)) {
                    (2, certificate, Some(key)) if !key.is_empty() => Some((certificate.to_owned(), key.to_owned())),
                    (1, path, None) | (2, path, Some(_)) => Some(both(path)),
                    _ => None,
                },
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

fn headers(item: Option<&Item>, said: &dyn Fn(&str) -> String) -> Parsed<Vec<(String, String)>> {
    let Some(item) = item else { return Ok(Vec::new()) };
    let table = item.as_table_like().ok_or_else(|| said("a table"))?;
    let mut headers = Vec::new();
    for (name, item) in table.iter() {
        let is_token = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        let values = texts(item).filter(|values| is_token && values.iter().all(|value| !value.contains(['\r', '\n', '\0'])));
        let values = values.ok_or_else(|| said("a table of headers: a value is a string or a list of strings"))?;
        headers.extend(values.into_iter().map(|value| (name.to_owned(), value)));
    }
    Ok(headers)
}

/// A duration of Go's, of one unit.
fn duration(text: &str) -> Option<Duration> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0)];
    let (number, unit) = units.into_iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let seconds = number.parse::<f64>().ok()? * unit;
    (0.0..=3600.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Parsed<Vec<Host>> {
        parse(text, Path::new("/d"), "docker.io")
    }

    fn urls(hosts: &[Host]) -> Vec<String> {
        hosts.iter().map(|host| format!("{}://{}{}", host.scheme.as_deref().unwrap_or("?"), host.authority, host.path)).collect()
    }

    /// The examples of containerd's page.
    #[test]
    fn documented_examples() {
        let mirror =
            parsed("server = \"https://docker.io\"\n[host.\"https://registry-1.docker.io\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
        assert_eq!(urls(&mirror.unwrap()), ["https://registry-1.docker.io/v2", "https://registry-1.docker.io/v2"]);
        let several = parsed(concat!(
            "server = \"https://registry-1.docker.io\"\n",
            "[host.\"https://public-mirror.example.com\"]\n  capabilities = [\"pull\"]\n",
            "[host.\"https://docker-mirror.internal\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"docker-mirror.crt\"\n",
        ))
        .unwrap();
        assert_eq!(
            urls(&several),
            ["https://public-mirror.example.com/v2", "https://docker-mirror.internal/v2", "https://registry-1.docker.io/v2"]
        );
        assert_eq!((several[0].pulls, several[0].resolves, several[1].resolves, several[2].is_server), (true, false, true, true));
        assert_eq!(several[1].authorities, [PathBuf::from("/d/docker-mirror.crt")]);
        let plain =
            parsed("server = \"http://192.168.31.250:5000\"\n[host.\"http://192.168.31.250:5000\"]\n  skip_verify = true\n").unwrap();
        assert_eq!(urls(&plain), ["http://192.168.31.250:5000/v2", "http://192.168.31.250:5000/v2"]);
        assert!(plain[0].skip_verify && !plain[1].skip_verify);
        let cut = parsed("server = \"https://h\"\n[host.\"https://proxy.example/v2/proxy.cache\"]\n  override_path = true\n").unwrap();
        assert_eq!(urls(&cut)[0], "https://proxy.example/v2/proxy.cache");
        let certificates = parsed(concat!(
            "[host.\"https://mirror.example\"]\n",
            "  ca = [\"/etc/certs/test-1-ca.pem\", \"special.pem\"]\n",
            "  client = [[\"/etc/certs/client.cert\", \"/etc/certs/client.key\"], [\"/etc/certs/client.pem\", \"\"]]\n",
            "  dial_timeout = \"1s\"\n",
            "  [host.\"https://mirror.example\".header]\n    x-custom-2 = [\"value-1\", \"value-2\"]\n    x-custom-1 = \"custom header\"\n",
        ))
        .unwrap();
        assert_eq!(certificates[0].authorities, [PathBuf::from("/etc/certs/test-1-ca.pem"), "/d/special.pem".into()]);
        let pem = PathBuf::from("/etc/certs/client.pem");
        assert_eq!(certificates[0].clients, [("/etc/certs/client.cert".into(), "/etc/certs/client.key".into()), (pem.clone(), pem)]);
        assert_eq!(certificates[0].dial_timeout, Some(Duration::from_secs(1)));
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers = [header("x-custom-2", "value-1"), header("x-custom-2", "value-2"), header("x-custom-1", "custom header")];
        assert_eq!(certificates[0].headers, headers);
        assert_eq!(urls(&certificates)[1], "https://registry-1.docker.io/v2", "the registry itself, if nothing is said");
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_one_line() {
        for text in [
            "server = 1",
            "host = 1",
            "[host.\"ftp://h\"]",
            "[host.\"https://u:p@h\"]",
            "[host.\"https://h/../x\"]",
            "[host.\"https://\"]",
            "[host.h]\ncapabilities = [\"fly\"]",
            "[host.h]\nca = 1",
            "[host.h]\nclient = [[\"a\", \"b\", \"c\"]]",
            "[host.h]\nskip_verify = \"yes\"",
            "[host.h]\ndial_timeout = \"-1s\"",
            "[host.h.header]\nx = \"a\\nb\"",
            "[host.h.header]\n\"a b\" = \"c\"",
            "not toml",
            "[host.h\n",
        ] {
            let reason = parsed(text).unwrap_err();
            assert!(!reason.contains('\n') && !reason.contains("u:p"), "{text}: {reason}");
        }
    }

    #[test]
    fn which_file_counts() {
        let base = tempfile::tempdir().unwrap();
        let write = |folder: &str, server: &str| {
            std::fs::create_dir_all(base.path().join(folder)).unwrap();
            std::fs::write(base.path().join(folder).join("hosts.toml"), format!("server = \"https://{server}\"")).unwrap();
        };
        let found = |registry: &str| read_hosts(base.path(), registry).unwrap().map(|hosts| hosts[0].authority.clone());
        assert_eq!((found("h:5000"), has_hosts(base.path(), "h:5000")), (None, false));
        write("_default", "default");
        assert_eq!((found("h:5000").as_deref(), has_hosts(base.path(), "h:5000")), (Some("default"), true));
        write("h_5000_", "windows");
        assert_eq!(found("h:5000").as_deref(), Some("windows"));
        write("h:5000", "exact");
        assert_eq!(found("H:5000").as_deref(), Some("exact"));
        assert_eq!(found("..").as_deref(), Some("default"));
        std::fs::remove_file(base.path().join("h_5000_/hosts.toml")).unwrap();
        std::fs::create_dir(base.path().join("h_5000_/hosts.toml")).unwrap();
        assert_eq!(found("h:5000").as_deref(), Some("exact"), "and what is not looked at is no trouble");
        std::fs::write(base.path().join("h:5000/hosts.toml"), "x").unwrap();
        let error = read_hosts(base.path(), "h:5000").unwrap_err();
        assert!(error.message.starts_with(&format!("cannot use `{}/h:5000/hosts.toml`: line 1", base.path().display())), "{error}");
    }
}
