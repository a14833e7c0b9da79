//! Digests: one spelling is accepted, and everything else never reaches a path or a URL (CVE-2024-3727).

use crate::error::{Error, Result, quoted};
use std::fmt;

const ALGORITHM: &str = "sha256:";
/// Characters of a SHA-256 in hexadecimal.
const LENGTH: usize = 64;

/// A SHA-256 of some bytes. Shown as `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// `sha256:` and 64 lower-case hexadecimal digits, nothing else. Other algorithms of the specification are refused:
    /// volumes are named by SHA-256.
    pub fn parse(text: &str) -> Result<Self> {
        match text.strip_prefix(ALGORITHM) {
            Some(hex) if is_hex(hex) => Ok(Self(hex.to_owned())),
            _ => Err(Error::image(format!("invalid digest {}: expected sha256: and 64 lower-case hexadecimal digits", quoted(text)))),
        }
    }

    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(groot_core::blob::sha256(bytes))
    }

    /// The 64 digits alone.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}{}", self.0)
    }
}

/// Whether `text` is 64 lower-case hexadecimal digits: the hex of a digest, and the name of a volume.
#[must_use]
pub fn is_hex(text: &str) -> bool {
    text.len() == LENGTH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling() {
        let hex = "0123456789abcdef".repeat(4);
        assert_eq!(Digest::parse(&format!("sha256:{hex}")).unwrap().hex(), hex);
        assert_eq!(Digest::of(b"abc").to_string(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn e2_everything_else_is_refused() {
        let hex = "0".repeat(64);
        for bad in [
            String::new(),
            hex.clone(),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("SHA256:{hex}"),
            format!("sha256:{}A", &hex[1..]),
            format!("sha256:{}\n", &hex[1..]),
            format!("sha512:{hex}{hex}"),
            format!("md5:{}", &hex[32..]),
            "sha256:../../x".into(),
        ] {
            assert!(Digest::parse(&bad).unwrap_err().message.starts_with("invalid digest '"), "{bad:?}");
        }
    }
}
