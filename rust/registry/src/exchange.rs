//! One HTTP exchange with one host: TLS by our rules, no redirects, bounds on what is read.
//!
//! Anything that is not plain (see `client`) ends as a reason, never as an error: the other client asks again and says what is
//! wrong.

use crate::address::{self, Reach};
use crate::trust;
use rustls::crypto::ring;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use ureq::config::Config;
use ureq::http::{Response, Uri};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body};

/// Bytes of a manifest; registries themselves take no more.
const MAX_BODY: u64 = 4 << 20;
const MAX_HEADERS: usize = 64 << 10;
const BODY_SECONDS: u64 = 60;

/// Why something is left to the other client; a few words for the log, no secret.
pub type Reason = &'static str;

/// Nobody answered, or not in this protocol.
pub const NO_REPLY: Reason = "no reply";

/// Where requests go and what is believed there.
#[derive(Debug)]
pub struct Place {
    /// The host[:port] of URLs, canonical.
    pub authority: String,
    /// The spellings by which `certs.d` is searched, best first.
    pub spellings: Vec<String>,
    /// Certificates are not verified.
    pub is_insecure: bool,
    /// Whether any address will do: the user named this host, or the operator trusts it. Of others only public ones.
    pub is_free: bool,
}

/// Bounds on waiting.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Seconds until a connection is made.
    pub connect: u64,
    /// Seconds until the first byte of a reply.
    pub response: u64,
}

/// What came back.
pub struct Reply {
    response: Response<Body>,
}

impl Reply {
    /// The status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header's value; empty if it is missing or no ASCII.
    pub fn header(&self, name: &str) -> &str {
        self.response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// All values of a header.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let values = self.response.headers().get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    }

    /// The whole body.
    pub fn body(mut self) -> Result<Vec<u8>, Reason> {
        if !matches!(self.header("content-encoding"), "" | "identity") {
            return Err("a coding that was not asked for");
        }
        self.response.body_mut().with_config().limit(MAX_BODY).read_to_vec().map_err(|_| "a body that broke or is too large")
    }
}

/// Connections to one host.
pub struct Connection {
    agent: Agent,
    authority: String,
}

impl Connection {
    /// Make what is needed to talk to a place. No connection is opened yet.
    pub fn new(place: &Place, certs_dirs: &[PathBuf], patience: Patience) -> Result<Self, Reason> {
        let seconds = |count: u64| Some(Duration::from_secs(count));
        let config = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent("groot_fast")
            // digests are of the bytes as they are
            .accept_encoding("identity")
            .max_response_header_size(MAX_HEADERS)
            .timeout_resolve(seconds(patience.connect))
            .timeout_connect(seconds(patience.connect))
            .timeout_recv_response(seconds(patience.response))
            .timeout_recv_body(seconds(BODY_SECONDS))
            .tls_config(tls(place, certs_dirs)?)
            .build();
        let resolver = GuardedResolver { system: DefaultResolver::default(), is_free: place.is_free };
        Ok(Self { agent: Agent::with_parts(config, DefaultConnector::default(), resolver), authority: place.authority.clone() })
    }

    /// The host[:port] at the other end.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Send a request without a body; ``path`` has the query too.
    pub fn send(&self, method: &str, scheme: &str, path: &str, headers: &[(&str, &str)]) -> Result<Reply, Reason> {
        let url = format!("{scheme}://{}{path}", self.authority);
        let mut request = if method == "HEAD" { self.agent.head(&url) } else { self.agent.get(&url) };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match request.call() {
            Ok(response) if response.status().is_redirection() => Err("a redirect"),
            Ok(response) => Ok(Reply { response }),
            Err(_) => Err(NO_REPLY),
        }
    }
}

/// The system's resolver, and a look at what it says before anybody connects.
#[derive(Debug)]
struct GuardedResolver {
    system: DefaultResolver,
    is_free: bool,
}

impl Resolver for GuardedResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.system.resolve(uri, config, timeout)?;
        let is_public = |ip| address::reach(ip) == Reach::Public;
        if self.is_free || found.iter().all(|socket| is_public(socket.ip())) { Ok(found) } else { Err(ureq::Error::HostNotFound) }
    }
}

fn tls(place: &Place, certs_dirs: &[PathBuf]) -> Result<TlsConfig, Reason> {
    let mut authorities = Vec::new();
    let mut client = None;
    if let Some(directory) = trust::certificates(certs_dirs, &place.spellings) {
        let found = trust::list_certificates(&directory).map_err(|_| "unusable certificates")?;
        for path in &found.authorities {
            authorities.extend(read_certificates(path)?);
        }
        match found.clients.as_slice() {
            [] => {}
            [(certificate, key)] => client = Some(read_pair(certificate, key)?),
            _ => return Err("several client certificates"),
        }
    }
    if !place.is_insecure {
        // what it cannot read it leaves out; if that was needed, verification fails
        let system = rustls_native_certs::load_native_certs().certs;
        authorities.extend(system.iter().map(|certificate| Certificate::from_der(certificate).to_owned()));
    }
    Ok(TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&authorities))
        .client_cert(client)
        .disable_verification(place.is_insecure)
        .build())
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Reason> {
    let data = std::fs::read(path).map_err(|_| "unusable certificates")?;
    let mut found = Vec::new();
    for item in parse_pem(&data) {
        if let PemItem::Certificate(certificate) = item.map_err(|_| "unusable certificates")? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err("unusable certificates") } else { Ok(found) }
}

fn read_pair(certificate: &Path, key: &Path) -> Result<ClientCert, Reason> {
    let chain = read_certificates(certificate)?;
    let data = std::fs::read(key).map_err(|_| "unusable certificates")?;
    let key = PrivateKey::from_pem(&data).map_err(|_| "unusable certificates")?;
    Ok(ClientCert::new_with_certs(&chain, key))
}
