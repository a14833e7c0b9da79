//! The rules about registries (`groot-registry`).

use crate::errors::registry_error;
use crate::layers::{Cancel, run_store};
use groot_registry::client::{self, Options, Outcome};
use groot_registry::credentials::{self, Place, Store};
use groot_registry::reference::Reference;
use groot_registry::trust::{self, CERTS_DIRECTORIES};
use groot_registry::{address, challenge, hosts};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

type Parts = (String, String, Option<String>, Option<String>, String);
/// Authorities, and client certificates with their keys.
type Certificates = (Vec<OsString>, Vec<(OsString, OsString)>);
type Parameters = BTreeMap<String, String>;
type Found = (String, Parameters);

type Login = (String, String);
/// Method, host, status and seconds of a request.
type Exchange = (&'static str, String, Option<u16>, f64);
/// Digest, requests that were made, mirrors that did not help and why.
type Answer = (String, Vec<Exchange>, Vec<(String, &'static str)>);

/// One name, and who asks what it means.
#[pyclass(frozen, module = "groot_fast._core")]
pub struct Question(client::Question);

#[pymethods]
impl Question {
    #[new]
    #[pyo3(signature = (url, *, login, auth_file, insecure_registries, trusted_hosts, mirrors, hosts_directory, response_timeout))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        url: &str,
        login: Login,
        auth_file: Option<PathBuf>,
        insecure_registries: Vec<String>,
        trusted_hosts: Vec<String>,
        mirrors: Vec<(String, Vec<String>)>,
        hosts_directory: PathBuf,
        response_timeout: u64,
    ) -> PyResult<Self> {
        let reference = Reference::parse(url).map_err(|error| registry_error(py, error))?;
        let options = Options {
            insecure_registries,
            login,
            auth_file,
            credential_files: credentials::default_files(|name| std::env::var_os(name)),
            certs_dirs: CERTS_DIRECTORIES.map(PathBuf::from).to_vec(),
            mirrors,
            hosts_directory,
            trusted_hosts,
            response_timeout,
        };
        Ok(Self(client::Question { reference, options }))
    }

    fn key(&self, name: &str) -> String {
        self.0.key(name, rustix::process::geteuid().as_raw())
    }

    fn ask(&self, py: Python<'_>, cancel: &Cancel) -> PyResult<Option<Answer>> {
        if client::wants_proxy(|name| std::env::var_os(name)) {
            return Ok(None);
        }
        let stopped = || groot_store::Error::new(groot_store::Kind::Cancelled, "cancelled");
        let outcome = run_store(py, &cancel.0, || self.0.ask(&cancel.0).ok_or_else(stopped))?;
        let Outcome::Resolved(found) = outcome else { return Ok(None) };
        let exchange = |one: client::Exchange| (one.method, one.host, one.status, one.took.as_secs_f64());
        Ok(Some((found.digest, found.exchanges.into_iter().map(exchange).collect(), found.failed_mirrors)))
    }
}

/// The files that are looked through for credentials.
#[pyfunction]
pub fn credential_files() -> Vec<OsString> {
    credentials::default_files(|name| std::env::var_os(name)).into_iter().map(PathBuf::into_os_string).collect()
}

/// Parse an image URL.
#[pyfunction]
pub fn parse_reference(py: Python<'_>, url: &str) -> PyResult<Parts> {
    let found = Reference::parse(url).map_err(|error| registry_error(py, error))?;
    let api_host = found.api_host().to_owned();
    Ok((found.registry, found.repository, found.tag, found.digest, api_host))
}

/// The one spelling of a host by which it is compared.
#[pyfunction]
pub fn canonical_host(host: &str) -> String {
    trust::canonical(host)
}

/// Whether a list of hosts holds any of the spellings.
#[pyfunction]
pub fn is_listed_host(spellings: Vec<String>, hosts: Vec<String>) -> bool {
    trust::is_listed(spellings.iter().map(String::as_str), &hosts)
}

/// The first directory of `certs.d` that is there.
#[pyfunction]
pub fn certificates_directory(bases: Vec<PathBuf>, spellings: Vec<String>) -> Option<OsString> {
    trust::certificates(&bases, &spellings).map(PathBuf::into_os_string)
}

/// What a directory of `certs.d` holds.
#[pyfunction]
pub fn list_certificates(py: Python<'_>, directory: PathBuf) -> PyResult<Certificates> {
    let found = trust::list_certificates(&directory).map_err(|error| registry_error(py, error))?;
    let text = PathBuf::into_os_string;
    Ok((
        found.authorities.into_iter().map(text).collect(),
        found.clients.into_iter().map(|(certificate, key)| (text(certificate), text(key))).collect(),
    ))
}

/// One host that serves a registry's images.
#[pyclass(frozen, module = "groot_fast._core")]
pub struct RegistryHost(hosts::Host);

#[pymethods]
impl RegistryHost {
    #[getter]
    fn scheme(&self) -> Option<String> {
        self.0.scheme.clone()
    }

    #[getter]
    fn authority(&self) -> String {
        self.0.authority.clone()
    }

    #[getter]
    fn path(&self) -> String {
        self.0.path.clone()
    }

    #[getter]
    fn pulls(&self) -> bool {
        self.0.pulls
    }

    #[getter]
    fn resolves(&self) -> bool {
        self.0.resolves
    }

    #[getter]
    fn headers(&self) -> Vec<(String, String)> {
        self.0.headers.clone()
    }

    #[getter]
    fn authorities(&self) -> Vec<OsString> {
        self.0.authorities.iter().map(|path| path.clone().into_os_string()).collect()
    }

    #[getter]
    fn clients(&self) -> Vec<(OsString, OsString)> {
        self.0.clients.iter().map(|(certificate, key)| (certificate.clone().into_os_string(), key.clone().into_os_string())).collect()
    }

    #[getter]
    fn skip_verify(&self) -> bool {
        self.0.skip_verify
    }

    #[getter]
    fn dial_timeout(&self) -> Option<f64> {
        self.0.dial_timeout.map(|timeout| timeout.as_secs_f64())
    }

    #[getter]
    fn is_server(&self) -> bool {
        self.0.is_server
    }
}

/// The hosts that a registry's images are asked of before it, or all of them if a file says so.
#[pyfunction]
pub fn registry_hosts(
    py: Python<'_>,
    registry: &str,
    mirrors: Vec<(String, Vec<String>)>,
    directory: PathBuf,
) -> PyResult<Vec<RegistryHost>> {
    let found = hosts::hosts_of(registry, &mirrors, &directory).map_err(|error| registry_error(py, error))?;
    Ok(found.into_iter().map(RegistryHost).collect())
}

/// Where a file of credentials says that those of a repository are.
#[pyfunction]
pub fn credential_places<'py>(
    py: Python<'py>,
    path: PathBuf,
    registry: &str,
    repository: &str,
) -> PyResult<Option<Vec<Bound<'py, PyAny>>>> {
    let found = Store::read(&path).and_then(|store| store.map(|store| store.find(registry, repository)).transpose());
    let Some(places) = found.map_err(|error| registry_error(py, error))? else { return Ok(None) };
    let mut listed = Vec::new();
    for place in places {
        listed.push(match place {
            Place::Here(found) => {
                (found.username, found.password, found.identity_token, found.registry_token).into_pyobject(py)?.into_any()
            }
            Place::Helper { name, server } => (name, server).into_pyobject(py)?.into_any(),
        });
    }
    Ok(Some(listed))
}

/// Parse one `WWW-Authenticate` header.
#[pyfunction]
pub fn parse_challenges(py: Python<'_>, header: &str) -> PyResult<Vec<Found>> {
    let found = challenge::parse_challenges(header).map_err(|error| registry_error(py, error))?;
    Ok(found.into_iter().map(|challenge| (challenge.scheme, challenge.parameters.into_iter().collect())).collect())
}

/// The challenge to answer of those in some headers.
#[pyfunction]
pub fn choose_challenge(py: Python<'_>, headers: Vec<String>) -> PyResult<Option<Found>> {
    let found = challenge::choose(&headers).map_err(|error| registry_error(py, error))?;
    Ok(found.map(|challenge| (challenge.scheme, challenge.parameters.into_iter().collect())))
}

/// The scope that a challenge names.
#[pyfunction]
pub fn named_scope(scope: &str) -> Option<String> {
    challenge::named_scope(scope)
}

/// Class of an address: 0 never, 1 this machine, 2 the own network, 3 public.
#[pyfunction]
pub fn reach(address: &str) -> PyResult<u8> {
    let found = address::literal(address).ok_or_else(|| PyValueError::new_err("not an address"))?;
    Ok(address::reach(found) as u8)
}

/// Whether a name is an address in an unusual spelling.
#[pyfunction]
pub fn is_disguised(host: &str) -> bool {
    address::is_disguised(host)
}
