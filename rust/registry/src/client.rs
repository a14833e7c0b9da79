//! One question: what does this name mean now, for this caller?
//!
//! The client does what is plain: anonymous, basic and token authorisation with credentials that stand in a file, mirrors in
//! order, `certs.d`, insecure registries. For everything else (credential helpers, proxies, redirects, refusals, whatever is
//! unexpected) it says that it is not plain, and the Python client asks again by itself and finds the words.
//!
//! A registry *claims* the digest that a `HEAD` gives. It may be used to look up what was pulled from this registry and repository
//! before, and nothing else: whoever runs a registry can claim the digest of somebody else's image.

use crate::address::{self, Reach};
use crate::challenge::{self, Challenge};
use crate::credentials::{self, Credential};
use crate::exchange::{Connection, NO_REPLY, Patience, Place, Reason, Reply};
use crate::hosts;
use crate::reference::Reference;
use crate::trust::{self, Mirror};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use groot_image::Digest;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use ureq::http::Uri;

/// The `Accept` header: the types of documents that can be read.
pub const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// Seconds until a connection is made.
const CONNECT_SECONDS: u64 = 10;

/// How often to look whether the caller was stopped.
const GLANCE: Duration = Duration::from_millis(20);

/// Variables that name a proxy.
const PROXIES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];

/// Whether requests may have to go through a proxy, which only the Python client speaks to. ``variable`` looks up the environment.
pub fn wants_proxy(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    PROXIES.iter().any(|name| variable(name).is_some_and(|value| !value.is_empty()))
}

/// What the caller may set. Nothing is taken from the environment.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// host[:port] without verification, and by plain http if https fails (contract, section 9.3).
    pub insecure_registries: Vec<String>,
    /// User and password for the registry itself, not for mirrors; both empty: look into ``credential_files``.
    pub login: (String, String),
    /// A file of credentials that must be usable.
    pub auth_file: Option<PathBuf>,
    /// Without it, the files to look for credentials in, in order (`credentials::default_files`).
    pub credential_files: Vec<PathBuf>,
    /// Directories like `/etc/docker/certs.d`.
    pub certs_dirs: Vec<PathBuf>,
    /// Registries and what is asked before them, in order.
    pub mirrors: Vec<(String, Vec<String>)>,
    /// Where `hosts.toml` of registries are looked for.
    pub hosts_directory: PathBuf,
    /// host[:port] that may have private addresses although a public registry sends us there.
    pub trusted_hosts: Vec<String>,
    /// Seconds until the first byte of a reply.
    pub response_timeout: u64,
}

/// One name, and who asks for it.
#[derive(Clone, Debug)]
pub struct Question {
    /// The image.
    pub reference: Reference,
    /// Who asks, and how.
    pub options: Options,
}

impl Question {
    /// What this is, as a hash: who asks with other credentials or another trust asks something else. ``name`` is what the store
    /// remembers the image by.
    #[must_use]
    pub fn key(&self, name: &str, user: u32) -> String {
        let Options { insecure_registries, login, auth_file, credential_files, .. } = &self.options;
        let mut insecure = insecure_registries.clone();
        insecure.sort_unstable();
        let mut parts = vec![name.to_owned(), user.to_string(), login.0.clone(), login.1.clone()];
        parts.extend(auth_file.iter().chain(credential_files).map(|path| path.to_string_lossy().into_owned()));
        parts.push(String::new());
        parts.extend(insecure);
        Digest::of(parts.join("\0").as_bytes()).hex().to_owned()
    }

    /// What the caller shows the registry: registry, repository and credentials. A reason if only the other client can say it.
    pub fn shown(&self) -> Result<Vec<String>, Reason> {
        let Reference { registry, repository, .. } = &self.reference;
        let credential = find_credential(&self.options, &self.options.login, registry, repository)?;
        let own = [registry.to_lowercase(), repository.clone()];
        Ok(own.into_iter().chain(credential.parts().map(str::to_owned)).collect())
    }

    /// Ask, until there is an answer or ``stopped`` is set; None then. What still waits for a server is left alone: it ends with the
    /// process, or with the server's patience.
    #[must_use]
    pub fn ask(&self, stopped: &AtomicBool) -> Option<Outcome> {
        let (sender, answers) = channel();
        let question = self.clone();
        let asking = move || {
            let _ = sender.send(resolve(&question.reference, &question.options)); // nobody waits any more for one that was stopped
        };
        if std::thread::Builder::new().spawn(asking).is_err() {
            return Some(Outcome::NotPlain("no thread to ask in"));
        }
        while !stopped.load(Relaxed) {
            match answers.recv_timeout(GLANCE) {
                Ok(outcome) => return Some(outcome),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Some(Outcome::NotPlain("a panic")),
            }
        }
        None
    }
}

/// One request and what came of it, for the log. No path, no query: a signed URL is as good as a password.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// HEAD or GET.
    pub method: &'static str,
    /// The host[:port] that was asked.
    pub host: String,
    /// The status; None if there was no reply.
    pub status: Option<u16>,
    /// How long it took.
    pub took: Duration,
}

/// What a name means.
#[derive(Debug, PartialEq)]
pub struct Resolved {
    /// Of the manifest or index; see the module's text for what it is worth without ``body``.
    pub digest: String,
    /// Of the manifest or index, without parameters.
    pub media_type: String,
    /// In bytes, if the server said it.
    pub size: Option<u64>,
    /// The document, if it had to be fetched. Its digest is ``digest``.
    pub body: Option<Vec<u8>>,
    /// Requests that were made, to token servers too.
    pub exchanges: Vec<Exchange>,
    /// Mirrors that did not help, for the log: host and reason.
    pub failed_mirrors: Vec<(String, Reason)>,
}

/// The answer.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// This is it, now and for this caller.
    Resolved(Resolved),
    /// The other client has to ask, for this reason.
    NotPlain(Reason),
}

/// Ask. If `wants_proxy`, this must not be called.
#[must_use]
pub fn resolve(reference: &Reference, options: &Options) -> Outcome {
    match ask_hosts(reference, options) {
        Ok(resolved) => Outcome::Resolved(resolved),
        Err(reason) => Outcome::NotPlain(reason),
    }
}

fn ask_hosts(reference: &Reference, options: &Options) -> Result<Resolved, Reason> {
    if hosts::has_hosts(&options.hosts_directory, &reference.registry) {
        return Err("a file says which hosts are asked");
    }
    let configured = options.mirrors.iter().find(|(name, _)| trust::is_listed([reference.registry.as_str()], std::slice::from_ref(name)));
    let mut exchanges = Vec::new();
    let mut failed_mirrors = Vec::new();
    for text in configured.map_or(&[][..], |(_, mirrors)| mirrors) {
        let mirror = Mirror::parse(text).map_err(|_| "a mirror without an address")?;
        let mut host = Host::new(&mirror.host, &mirror.host, &mirror, reference, options);
        let answer = host.ask(reference);
        exchanges.append(&mut host.exchanges);
        match answer {
            Ok(found) => return Ok(Resolved { exchanges, failed_mirrors, ..found }),
            Err(reason) => failed_mirrors.push((mirror.host, reason)),
        }
    }
    let itself = Mirror { scheme: None, host: reference.registry.clone(), prefix: String::new() };
    let mut host = Host::new(&reference.registry, reference.api_host(), &itself, reference, options);
    host.login = &options.login;
    let found = host.ask(reference)?;
    exchanges.append(&mut host.exchanges);
    Ok(Resolved { exchanges, failed_mirrors, ..found })
}

static NO_LOGIN: (String, String) = (String::new(), String::new());

/// One host that serves the repository.
struct Host<'a> {
    options: &'a Options,
    spelled: &'a str,
    place: Place,
    repository: String,
    schemes: &'static [&'static str],
    login: &'a (String, String),
    exchanges: Vec<Exchange>,
}

impl<'a> Host<'a> {
    fn new(spelled: &'a str, api_host: &str, mirror: &Mirror, reference: &Reference, options: &'a Options) -> Self {
        let is_listed = trust::is_listed([spelled], &options.insecure_registries);
        let (schemes, is_insecure): (&[&str], bool) = match mirror.scheme.as_deref() {
            Some("http") => (&["http"], true),
            Some(_) => (&["https"], is_listed),
            None if is_listed => (&["https", "http"], true),
            None => (&["https"], false),
        };
        let authority = trust::canonical(api_host);
        let with_port = if has_port(&authority) { authority.clone() } else { format!("{authority}:443") };
        let prefix = if mirror.prefix.is_empty() { String::new() } else { format!("{}/", mirror.prefix) };
        Self {
            options,
            spelled,
            place: Place { spellings: vec![spelled.to_owned(), authority.clone(), with_port], authority, is_insecure, is_free: true },
            repository: format!("{prefix}{}", reference.repository),
            schemes,
            login: &NO_LOGIN,
            exchanges: Vec::new(),
        }
    }

    fn connect(&self, place: &Place) -> Result<Connection, Reason> {
        let patience = Patience { connect: CONNECT_SECONDS, response: self.options.response_timeout };
        Connection::new(place, &self.options.certs_dirs, patience)
    }

    fn ask(&mut self, reference: &Reference) -> Result<Resolved, Reason> {
        let connection = self.connect(&self.place)?;
        let path = format!("/v2/{}/manifests/{}", self.repository, reference.target());
        let mut last = Err(NO_REPLY);
        for scheme in self.schemes {
            last = self.ask_by(&connection, scheme, &path, reference);
            // an insecure registry that does not answer as one by https is asked by http
            if last.is_ok() || (!matches!(last, Err(NO_REPLY)) && self.is_registry(&connection, scheme)) {
                break;
            }
        }
        last
    }

    /// Whether a registry answers, if there is still another scheme to try.
    fn is_registry(&mut self, connection: &Connection, scheme: &str) -> bool {
        if self.schemes.last() == Some(&scheme) {
            return true;
        }
        matches!(self.exchange(connection, "GET", scheme, "/v2/", &[]).map(|reply| reply.status()), Ok(200 | 401 | 403))
    }

    fn ask_by(&mut self, connection: &Connection, scheme: &str, path: &str, reference: &Reference) -> Result<Resolved, Reason> {
        let mut authorization = None;
        let mut reply = self.send(connection, "HEAD", scheme, path, None)?;
        if reply.status() == 401 {
            let found = challenge::choose(&reply.headers("www-authenticate")).ok().flatten().ok_or("an unusual challenge")?;
            authorization = Some(self.authorization(connection, scheme, &found)?);
            reply = self.send(connection, "HEAD", scheme, path, authorization.as_deref())?;
        }
        if reply.status() == 200
            && let Some(claimed) = claim(&reply, reference)
        {
            return Ok(claimed);
        }
        if !matches!(reply.status(), 200 | 400 | 404 | 405 | 501) {
            return Err("a refusal");
        }
        // HEAD is not there, or says too little
        let reply = self.send(connection, "GET", scheme, path, authorization.as_deref())?;
        if reply.status() != 200 {
            return Err("a refusal");
        }
        proof(reply, reference)
    }

    fn send(
        &mut self,
        connection: &Connection,
        method: &'static str,
        scheme: &str,
        path: &str,
        authorization: Option<&str>,
    ) -> Result<Reply, Reason> {
        let mut headers = vec![("accept", ACCEPT), ("docker-distribution-api-version", "registry/2.0")];
        headers.extend(authorization.map(|value| ("authorization", value)));
        self.exchange(connection, method, scheme, path, &headers)
    }

    fn exchange(
        &mut self,
        connection: &Connection,
        method: &'static str,
        scheme: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Reply, Reason> {
        let begun = Instant::now();
        let reply = connection.send(method, scheme, path, headers);
        let status = reply.as_ref().ok().map(Reply::status);
        self.exchanges.push(Exchange { method, host: connection.authority().to_owned(), status, took: begun.elapsed() });
        reply
    }

    fn authorization(&mut self, connection: &Connection, scheme: &str, challenge: &Challenge) -> Result<String, Reason> {
        let credential = find_credential(self.options, self.login, self.spelled, &self.repository)?;
        if !credential.registry_token.is_empty() {
            return Ok(format!("Bearer {}", credential.registry_token));
        }
        if !credential.identity_token.is_empty() {
            return Err("an identity token");
        }
        let basic = (!credential.username.is_empty() && !credential.password.is_empty())
            .then(|| format!("Basic {}", STANDARD.encode(format!("{}:{}", credential.username, credential.password))));
        if challenge.scheme == "basic" {
            return basic.ok_or("no credentials");
        }
        self.token(connection, scheme, challenge, &credential.username, basic.as_deref())
    }

    fn token(
        &mut self,
        connection: &Connection,
        own_scheme: &str,
        challenge: &Challenge,
        username: &str,
        basic: Option<&str>,
    ) -> Result<String, Reason> {
        let realm: Uri = challenge.parameter("realm").parse().map_err(|_| "an unusual token server")?;
        let (scheme, place) = self.token_server(&realm, own_scheme)?;
        let other;
        let server = if place.authority == self.place.authority && scheme == own_scheme {
            connection
        } else {
            other = self.connect(&place)?;
            &other
        };
        let mut query = realm.query().map_or_else(String::new, |query| format!("{query}&"));
        for (name, value) in [("account", username), ("service", challenge.parameter("service"))] {
            if !value.is_empty() {
                let _ = write!(query, "{name}={}&", encoded(value));
            }
        }
        let _ = write!(query, "scope={}", encoded(&challenge::own_scope(&self.repository)));
        let mut headers = vec![("accept", "application/json")];
        headers.extend(basic.map(|value| ("authorization", value)));
        let reply = self.exchange(server, "GET", scheme, &format!("{}?{query}", realm.path()), &headers)?;
        if reply.status() != 200 {
            return Err("a refusal by the token server");
        }
        let document = groot_document::parse_json(&reply.body()?).map_err(|_| "an unusual token")?;
        let text = ["token", "access_token"].iter().find_map(|name| document[*name].as_str().filter(|text| !text.is_empty()));
        match text {
            Some(text) if text.bytes().all(|byte| (b'!'..=b'~').contains(&byte)) => Ok(format!("Bearer {text}")),
            _ => Err("an unusual token"),
        }
    }

    /// Scheme and place of a token server, if a registry may send us there.
    fn token_server(&self, realm: &Uri, own_scheme: &str) -> Result<(&'static str, Place), Reason> {
        let scheme = match realm.scheme_str() {
            Some("https") => "https",
            Some("http") if own_scheme == "http" => "http",
            _ => return Err("a token server without TLS"),
        };
        let authority = realm.authority().filter(|authority| !authority.as_str().contains('@')).ok_or("an unusual token server")?;
        let host = authority.host();
        let default_port = if scheme == "https" { 443 } else { 80 };
        let port = authority.port_u16().unwrap_or(default_port);
        let spellings = trust::spellings(host, port, port == default_port);
        let canonical = trust::canonical(authority.as_str());
        let is_own = canonical == self.place.authority;
        let is_trusted = trust::is_listed(spellings.iter().map(String::as_str), &self.options.trusted_hosts);
        let is_free = is_own || is_trusted || self.place.is_insecure;
        if address::is_disguised(host) {
            return Err("an address in an unusual spelling");
        }
        // the resolver is not asked for these
        if let Some(address) = address::literal(host)
            && (address::reach(address) == Reach::Never || (!is_free && address::reach(address) != Reach::Public))
        {
            return Err("a token server that is not public");
        }
        let is_insecure = if is_own {
            self.place.is_insecure
        } else {
            trust::is_listed(spellings.iter().map(String::as_str), &self.options.insecure_registries)
        };
        Ok((scheme, Place { authority: canonical, spellings, is_insecure, is_free }))
    }
}

/// What to show a host for a repository; ``login`` wins over the files.
fn find_credential(options: &Options, login: &(String, String), host: &str, repository: &str) -> Result<Credential, Reason> {
    let (username, password) = login;
    if !username.is_empty() || !password.is_empty() {
        return Ok(Credential { username: username.clone(), password: password.clone(), ..Credential::default() });
    }
    for path in options.auth_file.as_ref().map_or(&options.credential_files[..], std::slice::from_ref) {
        let store = match credentials::Store::read(path) {
            Ok(Some(store)) => store,
            Ok(None) if options.auth_file.is_none() => continue,
            _ => return Err("an unusable file of credentials"),
        };
        let places = store.find(host, repository).map_err(|_| "an unusable file of credentials")?;
        match places.into_iter().next() {
            Some(credentials::Place::Here(found)) => return Ok(found),
            Some(credentials::Place::Helper { .. }) => return Err("a credential helper"),
            None => {}
        }
    }
    Ok(Credential::default())
}

fn has_port(authority: &str) -> bool {
    authority.rsplit(']').next().is_some_and(|rest| rest.contains(':'))
}

/// What a reply to `HEAD` claims, if that is enough.
fn claim(reply: &Reply, reference: &Reference) -> Option<Resolved> {
    let digest = reply.header("docker-content-digest");
    let media_type = media_type(reply);
    let fits = reference.digest.as_deref().is_none_or(|wanted| wanted == digest);
    if Digest::parse(digest).is_err() || media_type.is_empty() || !fits {
        return None;
    }
    Some(Resolved {
        digest: digest.to_owned(),
        media_type,
        size: reply.header("content-length").parse().ok(),
        body: None,
        exchanges: Vec::new(),
        failed_mirrors: Vec::new(),
    })
}

/// What a reply to `GET` is.
fn proof(reply: Reply, reference: &Reference) -> Result<Resolved, Reason> {
    let media_type = media_type(&reply);
    let claimed = reply.header("docker-content-digest").to_owned();
    let body = reply.body()?;
    let digest = Digest::of(&body).to_string();
    let wanted = reference.digest.clone().or_else(|| Digest::parse(&claimed).is_ok().then_some(claimed));
    if wanted.is_some_and(|wanted| wanted != digest) {
        return Err("another digest");
    }
    let size = Some(body.len() as u64);
    Ok(Resolved { digest, media_type, size, body: Some(body), exchanges: Vec::new(), failed_mirrors: Vec::new() })
}

fn media_type(reply: &Reply) -> String {
    reply.header("content-type").split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A value for a query, with everything but the unreserved characters escaped (RFC 3986, section 2.3).
fn encoded(text: &str) -> String {
    let mut found = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            found.push(char::from(byte));
        } else {
            let _ = write!(found, "%{byte:02X}");
        }
    }
    found
}
