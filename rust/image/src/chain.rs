//! Names of volumes, by the original's rule (contract, section 9.5).

use crate::digest::Digest;
use groot_core::blob::sha256;

/// The name of the volume that holds a layer on top of the volume `parent`: the first diff id, else SHA-256 over
/// `<parent> <diff id>`, all in bare hexadecimal, unlike OCI's chain ids.
///
/// A layer that is unpacked below a directory gives another tree than the same layer at the root, so that directory is part of
/// the name, which the original leaves out. No name of the original's can be made with it: what is hashed has another form.
#[must_use]
pub fn chain_id(parent: Option<&str>, diff_id: &Digest, base_directory: &str) -> String {
    let diff_id = diff_id.hex();
    match (parent, normalised(base_directory)) {
        (None, None) => diff_id.to_owned(),
        (Some(parent), None) => sha256(format!("{parent} {diff_id}").as_bytes()),
        (None, Some(base)) => sha256(format!("{diff_id} base-directory:{base}").as_bytes()),
        (Some(parent), Some(base)) => sha256(format!("{parent} {diff_id} base-directory:{base}").as_bytes()),
    }
}

/// Names of all volumes of a stack without base directories, bottom first.
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        names.push(chain_id(names.last().map(String::as_str), diff_id, ""));
    }
    names
}

/// The directory without what makes no difference, or `None` for the root.
fn normalised(base: &str) -> Option<String> {
    let parts: Vec<_> = base.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::of(&[byte])
    }

    #[test]
    fn the_originals_rule() {
        // Volumes of the original's own test image (contract, section 9.5).
        let lower = Digest::parse("sha256:afe200c63655576eaa5cabe036a2c09920d6aee67653ae75a9d35e0ec27205a5").unwrap();
        assert_eq!(chain_id(None, &lower, ""), lower.hex());
        let upper = digest(1);
        assert_eq!(chain_id(Some(lower.hex()), &upper, ""), sha256(format!("{} {}", lower.hex(), upper.hex()).as_bytes()));
    }

    #[test]
    fn a_base_directory_is_part_of_the_name() {
        let base = digest(0).hex().to_owned();
        let name = |directory: &str| chain_id(Some(&base), &digest(1), directory);
        let names = ["", "home/vcap", "srv", "a/b", "a/b/c", "../a"].map(name);
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
        for same in ["/home/vcap", "home//vcap/", "./home/vcap/."] {
            assert_eq!(name(same), names[1]);
        }
        for root in ["/", ".", "//./"] {
            assert_eq!(name(root), names[0]);
        }
        assert_ne!(chain_id(None, &digest(1), "x"), digest(1).hex());
    }

    #[test]
    fn a_base_directory_cannot_imitate_another_layer() {
        // The name of [a, b] is what `a` below a directory called like `b` must not get.
        let (a, b) = (digest(1), digest(2));
        assert_ne!(chain_id(None, &a, b.hex()), chain_id(Some(a.hex()), &b, ""));
    }
}
