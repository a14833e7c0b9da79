//! A turn to ask a registry: one question is asked by one caller at a time, and who waited takes the answer.
//!
//! A storm of creates of one image thus costs one request. The lock file of the question keeps a note of when it was last asked;
//! an answer to a question that was asked after a caller came is as good as one of its own.

use crate::error::{Kind, Result};
use crate::layout::Store;
use crate::locks::Lock;
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How long to wait for others that ask the same. A pull that takes longer is not worth waiting for here: its layers are waited
/// for anyway.
const PATIENCE: Duration = Duration::from_secs(20);

/// A place among those that ask the same.
#[derive(Debug)]
pub struct Turn {
    lock: Option<Lock>,
    asked: Option<u64>,
    /// Whether the question was answered while this caller waited.
    pub answered: bool,
}

impl Store {
    /// Wait for a turn to ask a question, named by a hash. Raises Cancelled, Store.
    pub fn turn(&self, question: &str, cancel: &AtomicBool) -> Result<Turn> {
        let begun = now();
        match self.lock(&format!("pull-{question}"), false, PATIENCE, cancel) {
            Ok(lock) => {
                let note = lock.read_note();
                let (boot, asked) = note.split_once(' ').unwrap_or_default();
                let answered = asked.parse().is_ok_and(|asked: u64| asked >= begun) && boot == this_boot();
                Ok(Turn { lock: Some(lock), asked: None, answered })
            }
            Err(error) if error.kind == Kind::LockTimeout => Ok(Turn { lock: None, asked: None, answered: false }),
            Err(error) => Err(error),
        }
    }
}

impl Turn {
    /// How long it took to get the turn; None for a caller that was too long about it and asks beside the others.
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        self.lock.as_ref().map(|lock| lock.waited)
    }

    /// The registry is asked from now on. Whoever was there before gets this answer.
    pub fn asking(&mut self) {
        self.asked = Some(now());
    }

    /// What the registry said is in the store: tell those who wait, and let them have it. A turn that is dropped instead tells
    /// nothing, so that the next caller asks.
    pub fn answer(self) {
        if let (Some(lock), Some(asked)) = (&self.lock, self.asked) {
            // Without the note others ask for themselves.
            let _ = lock.write_note(&format!("{} {asked}", this_boot()));
        }
    }
}

/// Nanoseconds of a clock that never goes back, within one boot.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

fn this_boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Options, Place};
    use std::thread::{scope, sleep};

    static NEVER: AtomicBool = AtomicBool::new(false);

    fn store(directory: &tempfile::TempDir) -> Store {
        for place in Place::ALL {
            std::fs::create_dir_all(directory.path().join(place.path())).unwrap();
        }
        std::fs::write(directory.path().join("meta/namespace.json"), r#"{"uid-mappings":[],"gid-mappings":[]}"#).unwrap();
        Store::open(directory.path(), Options::default()).unwrap()
    }

    #[test]
    fn who_waited_takes_the_answer_and_who_comes_later_asks() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        let mut first = store.turn("q", &NEVER).unwrap();
        assert!(!first.answered && first.waited().is_some());
        scope(|scope| {
            let second = scope.spawn(|| store.turn("q", &NEVER).unwrap().answered);
            sleep(Duration::from_millis(50));
            first.asking();
            first.answer();
            assert!(second.join().unwrap());
        });
        assert!(!store.turn("q", &NEVER).unwrap().answered);
    }

    #[test]
    fn without_an_answer_the_next_one_asks() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        let mut first = store.turn("q", &NEVER).unwrap();
        first.asking();
        assert!(!store.turn("another", &NEVER).unwrap().answered);
        scope(|scope| {
            let second = scope.spawn(|| store.turn("q", &NEVER).unwrap().answered);
            sleep(Duration::from_millis(50));
            drop(first);
            assert!(!second.join().unwrap());
        });
    }

    #[test]
    fn a_note_of_another_boot_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        for note in [format!("11111111-2222-3333-4444-555555555555 {}", u64::MAX), format!("{} x", this_boot()), "x".into(), String::new()]
        {
            store.turn("q", &NEVER).unwrap().lock.unwrap().write_note(&note).unwrap();
            assert!(!store.turn("q", &NEVER).unwrap().answered, "{note}");
        }
    }
}
