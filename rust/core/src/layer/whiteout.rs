//! Markers (OCI image spec, "Whiteouts"): names that take away what lower layers gave.

use crate::error::{Error, Result, printable};

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Left over by AUFS, without meaning for anybody else.
const AUFS: [&[u8]; 3] = [b".wh..wh.aufs", b".wh..wh.orph", b".wh..wh.plnk"];

/// What the last component of a name asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Marker<'a> {
    /// Remove this sibling.
    Remove(&'a [u8]),
    /// Remove all of the directory that lower layers gave.
    Opaque,
    /// Skip the entry.
    Ignore,
}

/// Whether a directory of this name holds what only AUFS has a use for: second names of linked files, and orphans.
pub(super) fn is_bookkeeping(name: &[u8]) -> bool {
    AUFS.contains(&name)
}

/// `None` for an ordinary name. Only a leading marker counts: `k.wh.x` is a file (contract, defect 8). Names that
/// would remove the directory itself or its parent are refused.
pub(super) fn parse(name: &[u8]) -> Result<Option<Marker<'_>>> {
    let Some(rest) = name.strip_prefix(PREFIX) else { return Ok(None) };
    if name == OPAQUE {
        return Ok(Some(Marker::Opaque));
    }
    if is_bookkeeping(name) {
        return Ok(Some(Marker::Ignore));
    }
    if rest.is_empty() || rest == b"." || rest == b".." || rest.starts_with(PREFIX) {
        return Err(Error::layer(format!("invalid whiteout `{}`", printable(name))));
    }
    Ok(Some(Marker::Remove(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers() {
        assert_eq!(parse(b".wh.gone").unwrap(), Some(Marker::Remove(b"gone")));
        assert_eq!(parse(b".wh..hidden").unwrap(), Some(Marker::Remove(b".hidden")));
        assert_eq!(parse(OPAQUE).unwrap(), Some(Marker::Opaque));
        assert_eq!(parse(b".wh..wh.plnk").unwrap(), Some(Marker::Ignore));
        for name in ["foo.wh.bar", ".whx", "wh.", "not.wh.", ".w"] {
            assert_eq!(parse(name.as_bytes()).unwrap(), None, "{name}");
        }
        for name in [".wh.", ".wh..", ".wh...", ".wh..wh.x", ".wh..wh."] {
            assert!(parse(name.as_bytes()).is_err(), "{name}");
        }
    }
}
