//! `WWW-Authenticate` (RFC 9110, section 11.6.1), and what to ask a token server for (the distribution project's token
//! specification).

use crate::error::{Error, Kind, Result};

const MAX_HEADER: usize = 16 * 1024;
const MAX_SCOPE: usize = 256;

/// One scheme of the header; names in lower case, parameters in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// `basic`, `bearer`, ...
    pub scheme: String,
    /// Each name once.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter's value; empty if it is not there.
    #[must_use]
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

/// Parse one header, which may hold several challenges.
///
/// Values without quotes go up to the next comma, since some registries forget the quotes. Refused are control
/// characters, an open quote, a parameter given twice, and more than 16 KiB.
pub fn parse_challenges(header: &str) -> Result<Vec<Challenge>> {
    if header.len() > MAX_HEADER {
        return Err(malformed("too long"));
    }
    if header.chars().any(|c| (c < ' ' && c != '\t') || c == '\x7f') {
        return Err(malformed("control characters"));
    }
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = header.trim_start_matches([',', ' ', '\t']);
    while !rest.is_empty() {
        let end = rest.find(|c| !is_token(c)).unwrap_or(rest.len());
        let name = rest[..end].to_ascii_lowercase();
        if name.is_empty() {
            return Err(malformed("unexpected character"));
        }
        let after = rest[end..].trim_start_matches([' ', '\t']);
        match (after.strip_prefix('='), found.last_mut()) {
            (Some(text), Some(last)) => {
                let (value, next) = take_value(text)?;
                if last.parameters.iter().any(|(key, _)| *key == name) {
                    return Err(malformed(&format!("two values for {name}")));
                }
                last.parameters.push((name, value));
                rest = next;
            }
            _ if after.is_empty() || after.starts_with(|c| is_token(c) || c == ',') => {
                found.push(Challenge { scheme: name, parameters: Vec::new() });
                rest = after;
            }
            _ => return Err(malformed("unexpected character")),
        }
        rest = rest.trim_start_matches([',', ' ', '\t']);
    }
    Ok(found)
}

/// A parameter's value and what comes after it.
fn take_value(text: &str) -> Result<(String, &str)> {
    let text = text.trim_start_matches([' ', '\t']);
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return Ok((text[..end].trim().to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &quoted[at + 1..])),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    Err(malformed("a quote is not closed"))
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

fn malformed(reason: &str) -> Error {
    Error::new(Kind::Registry, format!("the registry sent a malformed authentication challenge: {reason}"))
}

/// The challenge to answer: bearer before basic. An error if there are some and none can be answered; None if there are none.
pub fn choose(headers: &[String]) -> Result<Option<Challenge>> {
    let mut all = Vec::new();
    for header in headers {
        all.extend(parse_challenges(header)?);
    }
    for scheme in ["bearer", "basic"] {
        if let Some(found) = all.iter().find(|challenge| challenge.scheme == scheme) {
            return Ok(Some(found.clone()));
        }
    }
    if all.is_empty() {
        return Ok(None);
    }
    let mut error = Error::new(Kind::Registry, "the registry asks for an authentication scheme that is not supported");
    error.status = Some(401);
    Err(error)
}

/// The scope that is asked for first: our own.
#[must_use]
pub fn own_scope(repository: &str) -> String {
    format!("repository:{repository}:pull")
}

/// The scope that a challenge names, to be asked for when ours was refused: gateways rename repositories, and some registries
/// have words of their own. Of a repository only `pull` is asked for, so that the token is not worth stealing. None if
/// it names no usable one.
#[must_use]
pub fn named_scope(scope: &str) -> Option<String> {
    if scope.is_empty() || scope.len() > MAX_SCOPE || !scope.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return None;
    }
    let reduced = scope.split(' ').filter(|part| !part.is_empty()).filter_map(|part| {
        let Some((name, actions)) = part.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':')) else {
            // `registry:catalog:*` is the one other type there is; a word without a type is a registry's own
            return (!part.contains(':')).then(|| part.to_owned());
        };
        actions.split(',').any(|action| action == "pull").then(|| own_scope(name))
    });
    let reduced: Vec<String> = reduced.collect();
    (!reduced.is_empty()).then(|| reduced.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(header: &str) -> Challenge {
        let mut all = parse_challenges(header).unwrap();
        assert_eq!(all.len(), 1, "{header}");
        all.remove(0)
    }

    #[test]
    fn headers_of_registries() {
        let found = one(r#"Bearer realm="https://a/t?x=1,2",service = "s\"q" ,scope=repository:a:pull"#);
        assert_eq!(found.scheme, "bearer");
        assert_eq!((found.parameter("realm"), found.parameter("service")), ("https://a/t?x=1,2", "s\"q"));
        assert_eq!(found.parameter("scope"), "repository:a:pull");
        let both = parse_challenges("Negotiate, Basic realm=\"x\", Bearer realm=y").unwrap();
        assert_eq!(both.len(), 3);
        assert_eq!(choose(&["Basic realm=a, Bearer realm=b".into()]).unwrap().unwrap().scheme, "bearer");
        assert_eq!(choose(&[]).unwrap(), None);
        assert_eq!(choose(&["Negotiate".into()]).unwrap_err().status, Some(401));
    }

    #[test]
    fn nonsense_is_refused() {
        for header in ["Basic realm=\"a", "Basic a=1, A=2", "=x", "Basic \u{1}", "Basic é", "Basic a=\"b\"\u{7f}"] {
            assert!(parse_challenges(header).is_err(), "{header}");
        }
        assert!(parse_challenges(&"a ".repeat(9000)).is_err());
    }

    #[test]
    fn of_a_named_scope_only_pulling_is_asked_for() {
        let scope = |text: &str| named_scope(one(&format!("Bearer scope=\"{text}\"")).parameter("scope"));
        assert_eq!(scope("repository:team/app:pull").as_deref(), Some("repository:team/app:pull"));
        assert_eq!(scope("repository:team/app:pull,push,delete").as_deref(), Some("repository:team/app:pull"));
        assert_eq!(scope("repository:a:push repository:b:pull aws").as_deref(), Some("repository:b:pull aws"));
        assert_eq!(scope("aws").as_deref(), Some("aws"));
        for text in ["", "registry:catalog:*", "repository:a:*", "repository:a:push"] {
            assert_eq!(scope(text), None, "{text}");
        }
        assert_eq!(scope(&"a".repeat(300)), None);
    }
}
