//! Image names: ``docker://[host[:port]]/repository[:tag|@digest]`` (contract, section 9.3).

use crate::error::{Error, Kind, Result, quoted};
use groot_image::Digest;
use std::net::Ipv6Addr;

const SCHEME: &str = "docker://";
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_API_HOST: &str = "registry-1.docker.io";
/// The bound of the distribution project's grammar.
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// One image of one registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The host[:port] as the user wrote it; `docker.io` when there was none.
    pub registry: String,
    /// The full name.
    pub repository: String,
    /// Set unless there is a digest.
    pub tag: Option<String>,
    /// ``sha256:`` and 64 hexadecimal digits; set unless there is a tag.
    pub digest: Option<String>,
}

impl Reference {
    /// Parse an image URL. Query and fragment are dropped; no tag and no digest means `latest`.
    ///
    /// The error has the reason, in the contract's words where it has some, and never repeats a URL that could hold a
    /// password.
    pub fn parse(url: &str) -> Result<Self> {
        if has_user_information(url) {
            return Err(Error::new(Kind::Source, "image URL holds user information, which is not supported")
                .with_hint("give credentials with --username and --password-stdin, or in docker's config.json"));
        }
        check_url(url)?;
        let rest = without_query(&url[SCHEME.len()..]);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        check_host(authority)?;
        let registry = if authority.is_empty() || authority.eq_ignore_ascii_case("index.docker.io") { DEFAULT_REGISTRY } else { authority };
        if path.is_empty() {
            return Err(bad("no repository name").with_hint(format!("for an image of the default registry write {SCHEME}/<name>")));
        }
        let path = unescape(path)?;
        let (name, tag, digest) = split(&path)?;
        check_repository(name)?;
        let library = if registry == DEFAULT_REGISTRY && !name.contains('/') { "library/" } else { "" };
        Ok(Self {
            registry: registry.to_owned(),
            repository: format!("{library}{name}"),
            tag: if digest.is_none() { Some(tag.unwrap_or("latest").to_owned()) } else { None },
            digest: digest.map(str::to_owned),
        })
    }

    /// What to ask the registry for: the digest, else the tag.
    #[must_use]
    pub fn target(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// The host[:port] that speaks the registry's interface.
    #[must_use]
    pub fn api_host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { DEFAULT_API_HOST } else { &self.registry }
    }
}

fn without_query(url: &str) -> &str {
    &url[..url.find(['#', '?']).unwrap_or(url.len())]
}

/// Whether something like ``user:password@`` is in a URL, before anything of it is quoted in a message. A password may
/// hold a slash, so that an `@` counts wherever a slash follows it.
fn has_user_information(url: &str) -> bool {
    let rest = without_query(url.split_once("://").map_or(url, |(_, rest)| rest));
    let authority = rest.split('/').next().unwrap_or_default();
    authority.contains('@') || rest.rsplit_once('@').is_some_and(|(_, after)| after.contains('/'))
}

fn bad(reason: impl AsRef<str>) -> Error {
    Error::new(Kind::Source, format!("parsing url failed: invalid reference format: {}", reason.as_ref()))
}

fn check_url(url: &str) -> Result<()> {
    let refuse = |reason: String| Err(Error::new(Kind::Source, format!("parse {}: {reason}", quoted(url))));
    if url.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return refuse("net/url: invalid control character in URL".into());
    }
    if !url.get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME)) {
        return refuse(format!("not a {SCHEME} URL"));
    }
    for (at, _) in url.match_indices('%') {
        let digits = url[at + 1..].bytes().take(2).filter(u8::is_ascii_hexdigit).count();
        if digits < 2 {
            let shown: String = url[at..].chars().take(3).collect();
            return refuse(format!("invalid URL escape {}", quoted(&shown)));
        }
    }
    Ok(())
}

fn check_host(authority: &str) -> Result<()> {
    let bad_port = || Err(bad(format!("invalid registry port in {}", quoted(authority))));
    let port = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').unwrap_or(("", ""));
        if host.parse::<Ipv6Addr>().is_err() || !(after.is_empty() || after.starts_with(':')) {
            return Err(bad(format!("invalid registry address {}", quoted(authority))));
        }
        after.strip_prefix(':')
    } else {
        let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        if (!host.is_empty() || port.is_some()) && !is_host(host) {
            return Err(bad(format!("invalid registry host {}", quoted(authority))));
        }
        port
    };
    match port {
        Some(text) if text.len() > 5 || text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) => bad_port(),
        Some(text) if text.parse::<u16>().unwrap_or(0) == 0 => bad_port(),
        _ => Ok(()),
    }
}

/// Labels of letters, digits and dashes, joined by dots.
fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

/// Undo %-escapes; `check_url` made sure that they are well formed.
fn unescape(path: &str) -> Result<String> {
    let mut raw = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16)).unwrap_or(0) as u8;
            raw.push(digit() << 4 | digit());
        } else {
            raw.push(byte);
        }
    }
    String::from_utf8(raw).map_err(|_| bad("name is not valid UTF-8"))
}

/// Name, tag and digest of ``repository[:tag|@digest]``.
fn split(path: &str) -> Result<(&str, Option<&str>, Option<&str>)> {
    let (name, digest) = path.split_once('@').map_or((path, None), |(name, digest)| (name, Some(digest)));
    if let Some(digest) = digest {
        if digest.contains('@') {
            return Err(bad("more than one @"));
        }
        Digest::parse(digest).map_err(|error| Error::new(Kind::BadImage, error.message))?;
    }
    let Some(colon) = name.rfind(':').filter(|colon| name.rfind('/').is_none_or(|slash| slash < *colon)) else {
        return Ok((name, None, digest));
    };
    let (name, tag) = (&name[..colon], &name[colon + 1..]);
    if digest.is_some() {
        return Err(Error::new(Kind::Source, "Docker references with both a tag and digest are currently not supported"));
    }
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let usable = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-');
    if !usable {
        let shown: String = tag.chars().take(160).collect();
        return Err(bad(format!("invalid tag {}", quoted(&shown))));
    }
    Ok((name, Some(tag), None))
}

fn check_repository(name: &str) -> Result<()> {
    if name.chars().any(char::is_uppercase) {
        return Err(bad("repository name must be lowercase"));
    }
    if name.chars().count() > MAX_REPOSITORY {
        return Err(bad(format!("repository name must not be more than {MAX_REPOSITORY} characters")));
    }
    for part in name.split('/') {
        if part.is_empty() {
            return Err(bad(format!("empty component in repository name {}", quoted(name))));
        }
        if !is_component(part) {
            return Err(bad(format!("invalid component {} in repository name", quoted(part))));
        }
    }
    Ok(())
}

/// Letters and digits, joined by one dot, one or two underscores, or any number of dashes.
fn is_component(part: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends_well = |byte: Option<u8>| byte.is_some_and(is_letter);
    ends_well(part.bytes().next())
        && ends_well(part.bytes().last())
        && part
            .split(|c: char| c.is_ascii() && is_letter(c as u8))
            .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";

    #[test]
    fn names_have_parts() {
        let digest = format!("docker://[::1]:5000/a@{DIGEST}");
        for (url, registry, repository, target) in [
            ("docker:///busybox", "docker.io", "library/busybox", "latest"),
            ("docker://index.docker.io/busybox", "docker.io", "library/busybox", "latest"),
            ("DOCKER://REG.example:5000/a/b:T_1.x-y?q#f", "REG.example:5000", "a/b", "T_1.x-y"),
            ("docker://h/a%2Fb:%31", "h", "a/b", "1"),
            (&digest, "[::1]:5000", "a", DIGEST),
        ] {
            let found = Reference::parse(url).unwrap();
            assert_eq!((found.registry.as_str(), found.repository.as_str(), found.target()), (registry, repository, target));
            assert_ne!(found.tag.is_some(), found.digest.is_some());
        }
    }

    #[test]
    fn addresses_in_brackets_are_ipv6() {
        for url in ["docker://[:::]/a", "docker://[1.2.3.4]/a", "docker://[::1]x/a", "docker://[::1/a", "docker://[]/a"] {
            assert!(Reference::parse(url).unwrap_err().message.contains("invalid registry address"), "{url}");
        }
    }

    #[test]
    fn a_password_is_not_repeated() {
        for url in [
            "docker://user:hunter2@h/a",
            "docker://user:hun/ter2@h/a",
            "docker://user:hunter2@h",
            "docker://user:h%ter2@h/a",
            "x://u:ter2@h/a",
        ] {
            let error = Reference::parse(url).unwrap_err();
            assert!(!error.to_string().contains("ter2"), "{error}");
            assert!(error.hint.unwrap().contains("--password-stdin"));
        }
    }
}
