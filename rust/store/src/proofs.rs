//! Proofs that a caller may pull: what `create.image_verification: cached` remembers.
//!
//! A proof is an empty file in `meta/proofs`, whose time of modification is when the registry last answered. Its name is an
//! HMAC-SHA-256 of what was asked and of the credentials; the key is the store's own, so that a proof gives away no password to who
//! can read it. Proofs are no part of the original's layout; it leaves them alone.

use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::layout::{Place, Store};
use hmac::{Hmac, Mac};
use rustix::io::Errno;
use sha2::Sha256;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The file with the key; every other one in the folder is a proof.
const KEY: &[u8] = b"key";
const KEY_BYTES: usize = 32;

impl Store {
    /// The key that names this store's proofs; None if there is none yet.
    fn proof_key(&self) -> Option<Vec<u8>> {
        let key = self.folder(Place::Proofs).ok()?.read(KEY, KEY_BYTES as u64 + 1)?;
        (key.len() == KEY_BYTES).then_some(key)
    }

    /// Make the key. Another command may make one at the same time; the last one stays, and a proof under another key is none.
    fn make_proof_key(&self) -> Result<Vec<u8>> {
        self.make_in_meta(Place::Proofs, 0o700)?;
        let mut key = vec![0; KEY_BYTES];
        let made = rustix::rand::getrandom(&mut key[..], rustix::rand::GetRandomFlags::empty());
        if made.map_err(|errno| Error::os("getrandom", errno))? != KEY_BYTES {
            return Err(Error::os("getrandom", Errno::AGAIN));
        }
        groot_core::record::write(&self.place_record(Place::Proofs, KEY, 0o600)?, &key)?;
        Ok(key)
    }

    /// Whether a registry gave an image to who shows this (registry, repository, credentials) within `lifetime`.
    #[must_use]
    pub fn has_proof(&self, shown: &[String], lifetime: Duration) -> bool {
        let Some(key) = self.proof_key() else { return false };
        self.folder(Place::Proofs).is_ok_and(|folder| is_fresh(folder, name(&key, shown).as_bytes(), lifetime))
    }

    /// A registry has just given an image to who shows this. Proofs that are over go.
    pub fn keep_proof(&self, shown: &[String], lifetime: Duration) -> Result<()> {
        let key = self.proof_key().map_or_else(|| self.make_proof_key(), Ok)?;
        groot_core::record::write(&self.place_record(Place::Proofs, name(&key, shown).as_bytes(), 0o600)?, b"")?;
        let folder = self.folder(Place::Proofs)?;
        for other in folder.names()? {
            if other != KEY && !is_fresh(folder, &other, lifetime) {
                let _ = folder.unlink(&other); // what cannot be removed is no proof either
            }
        }
        Ok(())
    }
}

fn name(key: &[u8], shown: &[String]) -> String {
    let mut hash = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key's");
    for part in shown {
        // lengths, so that no two questions give the same bytes
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    groot_core::blob::hex(&hash.finalize().into_bytes())
}

/// One from the future proves nothing.
fn is_fresh(folder: &Folder, name: &[u8], lifetime: Duration) -> bool {
    let Ok(Some(stat)) = folder.stat(name) else { return false };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let made = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
    // The clock of files is the one of the last tick, so that it is never ahead.
    u128::try_from(now.as_nanos().cast_signed() - made).is_ok_and(|age| age < lifetime.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Options;
    use std::fs::File;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_proof_is_good_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        for place in Place::ALL {
            std::fs::create_dir_all(directory.path().join(place.path())).unwrap();
        }
        std::fs::write(directory.path().join("meta/namespace.json"), r#"{"uid-mappings":[],"gid-mappings":[]}"#).unwrap();
        let store = Store::open(directory.path(), Options::default()).unwrap();
        let lifetime = Duration::from_secs(100);
        let shown = |parts: &[&str]| parts.iter().map(|&part| part.to_owned()).collect::<Vec<_>>();
        let (one, two) = (shown(&["reg", "app", "user"]), shown(&["reg", "ap", "puser"]));
        assert_eq!((store.proof_key(), store.has_proof(&one, lifetime)), (None, false));
        store.keep_proof(&one, lifetime).unwrap();
        assert!(store.has_proof(&one, lifetime) && !store.has_proof(&two, lifetime));

        let key = store.proof_key().unwrap();
        let path = directory.path().join("meta/proofs").join(name(&key, &one));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        let set_age = |seconds: i64| {
            let now = SystemTime::now();
            let age = Duration::from_secs(seconds.unsigned_abs());
            File::open(&path).unwrap().set_modified(if seconds < 0 { now + age } else { now - age }).unwrap();
        };
        for (age, is_good) in [(50, true), (101, false), (-50, false)] {
            set_age(age);
            assert_eq!(store.has_proof(&one, lifetime), is_good, "{age}");
        }
        store.keep_proof(&two, lifetime).unwrap();
        assert!(!path.exists() && store.has_proof(&two, lifetime) && store.proof_key() == Some(key));
    }
}
