//! Hosts as users spell them: `certs.d`, insecure registries, trusted hosts, mirrors.
//!
//! Spellings of one place are equal whatever the case of letters and the form of an IPv6 address. A port that is not
//! written stays unwritten: an insecure `HOST` may answer on 443 and on 80, an insecure `HOST:443` only there.

use crate::error::{Error, Kind, Result};
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

/// Where `certs.d` is looked for, best first.
pub const CERTS_DIRECTORIES: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// A host[:port] in the one spelling by which it is compared.
#[must_use]
pub fn canonical(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) else {
        return host;
    };
    address.parse::<Ipv6Addr>().map_or_else(|_| host.clone(), |address| format!("[{address}]{port}"))
}

/// The host[:port] of an entry that somebody wrote as a URL.
fn bare(entry: &str) -> &str {
    let entry = entry.trim();
    let entry = entry.strip_prefix("https://").or_else(|| entry.strip_prefix("http://")).unwrap_or(entry);
    entry.trim_end_matches('/')
}

/// Whether a list of host[:port] holds any of the spellings of one host.
#[must_use]
pub fn is_listed<'a>(spellings: impl IntoIterator<Item = &'a str>, list: &[String]) -> bool {
    spellings.into_iter().any(|spelling| list.iter().any(|entry| canonical(bare(entry)) == canonical(spelling)))
}

/// How a user may have spelled the place a URL leads to: with the port and, if it is the scheme's own, without.
#[must_use]
pub fn spellings(host: &str, port: u16, is_default_port: bool) -> Vec<String> {
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    let with_port = format!("{host}:{port}");
    if is_default_port { vec![host, with_port] } else { vec![with_port] }
}

/// The first directory ``BASE/HOST[:PORT]`` that exists: bases in order, and below each the spellings in order, each as it is
/// written and then in its canonical form.
#[must_use]
pub fn certificates(bases: &[PathBuf], spellings: &[String]) -> Option<PathBuf> {
    let names: Vec<String> = spellings.iter().flat_map(|name| [name.clone(), canonical(name)]).collect();
    // a name from a URL must stay one component
    let names = names.iter().filter(|name| !name.contains('/') && !name.starts_with('.'));
    bases.iter().flat_map(|base| names.clone().map(move |name| base.join(name))).find(|path| path.is_dir())
}

/// What a directory of `certs.d` holds, each list in the order of names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// ``*.crt``: who is trusted, authorities or the registry's own certificate.
    pub authorities: Vec<PathBuf>,
    /// ``*.cert`` with its ``*.key``: client certificates, each of which is tried.
    pub clients: Vec<(PathBuf, PathBuf)>,
}

/// List a directory of `certs.d`. An error for a certificate without key or a key without certificate, as docker has it.
pub fn list_certificates(directory: &Path) -> Result<Certificates> {
    let unreadable = |error: std::io::Error| {
        let reason = error.to_string();
        let reason = reason.split(" (os error").next().unwrap_or_default();
        Error::new(Kind::Config, format!("cannot read certificates in `{}`: {reason}", directory.display()))
    };
    let mut found = Certificates::default();
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.sort();
    for path in paths {
        let missing = |what: &str, other: &Path| {
            let name = other.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Err(Error::new(Kind::Config, format!("`{}` has no {what}: `{name}` is missing", path.display())))
        };
        match path.extension().and_then(|end| end.to_str()) {
            Some("crt") => found.authorities.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.exists() {
                    return missing("key", &key);
                }
                found.clients.push((path, key));
            }
            Some("key") => {
                let certificate = path.with_extension("cert");
                if !certificate.exists() {
                    return missing("certificate", &certificate);
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// A mirror as an operator configures it: ``[http[s]://]host[:port][/prefix]``.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The only scheme that is spoken, if one was written; `http` is consent to plain http with this host.
    pub scheme: Option<String>,
    /// As written.
    pub host: String,
    /// What stands before the names of repositories, without slashes at its ends; may be empty.
    pub prefix: String,
}

impl Mirror {
    /// Parse an entry of `create.registry_mirrors`.
    pub fn parse(text: &str) -> Result<Self> {
        let unusable = || {
            // it may hold a password, so it is not repeated
            Error::new(Kind::Config, "an entry of create.registry_mirrors is not the address of a registry")
                .with_hint("write it as host[:port][/prefix], with http:// or https:// before it if only that is spoken")
        };
        let trimmed = text.trim();
        let (scheme, rest) = match trimmed.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {
                (Some(scheme.to_ascii_lowercase()), rest)
            }
            Some(_) => return Err(unusable()),
            None => (None, trimmed),
        };
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        // the grammar of names is that of image names, whatever is in them
        let example = if prefix.is_empty() { format!("docker://{host}/x") } else { format!("docker://{host}/{prefix}/x") };
        let is_plain = !host.is_empty() && !rest.contains(['@', '?', '#', '%']) && !prefix.contains(':');
        match crate::reference::Reference::parse(&example) {
            Ok(_) if is_plain => Ok(Self { scheme, host: host.to_owned(), prefix: prefix.to_owned() }),
            _ => Err(unusable()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_host_are_equal() {
        let list = |entries: &[&str]| entries.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>();
        assert!(is_listed(["LOCALHOST:5000"], &list(&["localhost:5000"])));
        assert!(is_listed(["h:5000"], &list(&["H:5000"])));
        assert!(is_listed(["[0:0:0:0:0:0:0:1]:5"], &list(&["[::1]:5"])));
        assert!(is_listed(["h:5"], &list(&["http://h:5/"])));
        assert!(!is_listed(["h"], &list(&["h:443", "xh", ""])));
        assert!(!is_listed(["h:443"], &list(&["h"])));
        assert_eq!(spellings("h", 443, true), ["h", "h:443"]);
        assert_eq!(spellings("::1", 5, false), ["[::1]:5"]);
    }

    #[test]
    fn certificates_are_found_by_any_spelling() {
        let base = tempfile::tempdir().unwrap();
        let bases = [base.path().join("absent"), base.path().to_owned()];
        let find = |names: &[&str]| certificates(&bases, &names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        for name in ["REG:5", "[::1]:5", "plain"] {
            std::fs::create_dir(base.path().join(name)).unwrap();
        }
        assert_eq!(find(&["REG:5"]).unwrap(), base.path().join("REG:5"));
        assert_eq!(find(&["[0::1]:5"]).unwrap(), base.path().join("[::1]:5"));
        assert_eq!(find(&["PLAIN", "PLAIN:443"]).unwrap(), base.path().join("plain"));
        assert_eq!(find(&["other", "..", ".", "a/../plain"]), None);
    }

    #[test]
    fn a_directory_of_certificates() {
        let base = tempfile::tempdir().unwrap();
        let path = |name: &str| base.path().join(name);
        for name in ["b.crt", "a.crt", "2.cert", "2.key", "1.cert", "1.key", "README"] {
            std::fs::write(path(name), "").unwrap();
        }
        let found = list_certificates(base.path()).unwrap();
        assert_eq!(found.authorities, [path("a.crt"), path("b.crt")]);
        assert_eq!(found.clients, [(path("1.cert"), path("1.key")), (path("2.cert"), path("2.key"))]);
        std::fs::remove_file(path("1.key")).unwrap();
        assert!(list_certificates(base.path()).unwrap_err().message.ends_with("1.cert` has no key: `1.key` is missing"));
    }

    #[test]
    fn mirrors_in_all_forms() {
        for (text, scheme, host, prefix) in [
            ("mirror:5000", None, "mirror:5000", ""),
            (" mirror:5000 ", None, "mirror:5000", ""),
            ("https://Mirror/", Some("https"), "Mirror", ""),
            ("http://mirror:5000/hub/proxy/", Some("http"), "mirror:5000", "hub/proxy"),
            ("[::1]:5/hub", None, "[::1]:5", "hub"),
        ] {
            let found = Mirror::parse(text).unwrap();
            assert_eq!((found.scheme.as_deref(), found.host.as_str(), found.prefix.as_str()), (scheme, host, prefix));
        }
        for text in ["", "ftp://h", "https://", "user:pw@h", "h/a?b", "h/Upper", "h/../x", "h:0", "/hub"] {
            assert_eq!(Mirror::parse(text).unwrap_err().kind, Kind::Config, "{text}");
        }
    }
}
