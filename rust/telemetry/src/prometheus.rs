//! Metrics in a file for the node exporter's textfile collector.
//!
//! Commands are processes that end, so what they count has to add up in the file. Each one, when it is done, appends a record to
//! the journal beside the file, and whoever then has the lock folds all of the journal into a new file, which takes the place of
//! the old one by renaming. Who does not get the lock in time leaves its record to the next one: nothing is lost, however many
//! end at once. Nothing about it can fail a command: a file that cannot be written is a line in the log.
//!
//! A folder may be killed at any moment. The file itself says how much of the journal is in it (the first record's id, and
//! bytes), so no record is counted twice, be the journal cut or not. It is cut only while nobody appends to it (a lock of its
//! own) and all of it is in the file.

use crate::lager::Logger;
use crate::metrics::NANOS;
use crate::text::Samples;
use crate::{new_correlation_id, system_text};
use groot_document::{Value, format_json, json, parse_json};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Family and lock label of each value that goes to metron.
const VALUES: [(&str, &str, &str); 23] = [
    ("ImageCreationTime", "grootfs_image_creation_seconds", ""),
    ("ImageResolveTime", "grootfs_image_resolve_seconds", ""),
    ("ImageCommitTime", "grootfs_image_commit_seconds", ""),
    ("ImageDeletionTime", "grootfs_image_deletion_seconds", ""),
    ("ImageStatsTime", "grootfs_image_stats_seconds", ""),
    ("ImageCleanTime", "grootfs_clean_seconds", ""),
    ("DownloadTime", "grootfs_layer_download_seconds", ""),
    ("UnpackTime", "grootfs_layer_unpack_seconds", ""),
    ("SharedLockingTime", "grootfs_lock_wait_seconds", "shared"),
    ("ExclusiveLockingTime", "grootfs_lock_wait_seconds", "exclusive"),
    ("PullLockingTime", "grootfs_lock_wait_seconds", "pull"),
    ("PullLockHoldTime", "grootfs_lock_hold_seconds", "pull"),
    ("SharedLockHoldTime", "grootfs_lock_hold_seconds", "shared"),
    ("ExclusiveLockHoldTime", "grootfs_lock_hold_seconds", "exclusive"),
    ("DownloadedBytes", "grootfs_downloaded_bytes_total", ""),
    ("ClonedBytes", "grootfs_cloned_bytes_total", ""),
    ("MirrorFailures", "grootfs_mirror_failures_total", ""),
    ("DownloadedLayersSizeInBytes", "grootfs_unpacked_bytes_total", ""),
    ("StoreUsage", "grootfs_store_used_bytes", ""),
    ("UsedBackingStoreInBytes", "grootfs_store_used_bytes", ""),
    ("UnusedLayersSize", "grootfs_unused_layers_bytes", ""),
    ("UsedLayersSize", "grootfs_used_layers_bytes", ""),
    ("CommittedQuotaInBytes", "grootfs_committed_quota_bytes", ""),
];

const LOCK_DEADLINE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(5);
const MAX_FILE: u64 = 1 << 20;
/// A journal that nobody folds, as the file cannot be written, must not fill the disk.
const MAX_JOURNAL: u64 = 16 << 20;
const READABLE: Mode = Mode::from_raw_mode(0o644);

/// Collects the values of one command, and adds them to the file at its end.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    store: OsString,
    log: Logger,
    begun: Instant,
    state: Mutex<Collected>,
}

#[derive(Debug, Default)]
struct Collected {
    values: Vec<(String, f64)>,
    /// Command, exit code, seconds.
    ended: Option<(String, u8, f64)>,
}

impl MetricsFile {
    pub fn new(path: &Path, store: &OsStr, log: Logger) -> Self {
        Self { path: path.to_owned(), store: store.to_owned(), log, begun: Instant::now(), state: Mutex::default() }
    }

    pub fn send(&self, name: &str, value: f64, unit: &str) {
        let value = if unit == NANOS { value / 1e9 } else { value };
        self.state().values.push((name.to_owned(), value));
    }

    pub fn ended(&self, command: &str, code: u8) {
        self.state().ended = Some((command.to_owned(), code, self.begun.elapsed().as_secs_f64()));
    }

    pub fn close(&self) {
        let record = self.record();
        if let Err(error) = append(&self.path, &record).and_then(|()| fold(&self.path, LOCK_DEADLINE)) {
            self.log.error("failed-to-write-metrics-file", system_text(&error), json!({"path": self.path.to_string_lossy()}));
        }
    }

    /// What this command counts, as a line of the journal.
    fn record(&self) -> String {
        let state = self.state();
        let mut record = json!({
            "id": new_correlation_id(),
            "store": self.store.to_string_lossy(),
            "values": state.values.iter().map(|(name, value)| json!([name, value])).collect::<Vec<_>>(),
            "commits": commits_of(Path::new(&self.store)),
        });
        if let Some((command, code, seconds)) = &state.ended {
            record["ended"] = json!([command, code, seconds]);
        }
        format_json(&record)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Collected> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Commits of the file system at `path` since it was mounted; `None` if it is not BTRFS or the kernel too old (Linux 6.0).
#[must_use]
pub fn commits_of(path: &Path) -> Option<u64> {
    let uuid = groot_btrfs::uuid(File::open(path).ok()?).ok()?;
    let text = std::fs::read_to_string(format!("/sys/fs/btrfs/{uuid}/commit_stats")).ok()?;
    text.lines().next()?.split_whitespace().nth(1)?.parse().ok()
}

/// Add what a record of the journal says. One that is damaged says nothing.
fn count(record: &Value, samples: &mut Samples) {
    let store = record["store"].as_str().unwrap_or_default();
    for value in record["values"].as_array().into_iter().flatten() {
        let (Some(name), Some(number)) = (value[0].as_str(), value[1].as_f64()) else { continue };
        let Some((_, family, lock)) = VALUES.iter().find(|(known, ..)| *known == name) else { continue };
        let labels = [("store", store), ("lock", *lock)];
        samples.observe(family, if lock.is_empty() { &labels[..1] } else { &labels }, number);
    }
    let ended = &record["ended"];
    if (ended[0].as_str(), ended[1].as_u64()) == (Some("delete-store"), Some(0)) {
        return samples.forget(("store", store));
    }
    if let (Some(command), Some(code), Some(seconds)) = (ended[0].as_str(), ended[1].as_u64(), ended[2].as_f64()) {
        let outcome = if code == 0 { "success" } else { "failure" };
        samples.observe("grootfs_commands_total", &[("store", store), ("command", command), ("outcome", outcome)], 1.0);
        samples.observe("grootfs_command_duration_seconds", &[("store", store), ("command", command)], seconds);
    }
    if let Some(commits) = record["commits"].as_f64() {
        // The kernel's own counter: it is set, not added to.
        samples.set("grootfs_filesystem_commits_total", &[("store", store)], commits);
    }
}

/// Put a record at the end of the journal.
fn append(path: &Path, record: &str) -> io::Result<()> {
    let mut journal = open_journal(path)?;
    if !lock(&journal, FlockOperation::NonBlockingLockShared, LOCK_DEADLINE)? {
        return Err(io::Error::other("the journal is locked"));
    }
    if journal.metadata()?.len() > MAX_JOURNAL {
        return Err(io::Error::other(format!("the journal is larger than {MAX_JOURNAL} bytes")));
    }
    // In one call, so that records of several processes do not mix; the line break before it ends a record that did not fit on
    // the disk.
    let line = format!("\n{record}\n");
    match journal.write(line.as_bytes())? {
        length if length == line.len() => Ok(()),
        _ => Err(Errno::NOSPC.into()),
    }
}

/// Put all of the journal into the file, unless others hold the lock until `deadline`: then one of them, or whoever comes next,
/// does.
fn fold(path: &Path, deadline: Duration) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let guard = File::from(rustix::fs::open(beside(path, "lock"), flags, READABLE)?);
    if !lock(&guard, FlockOperation::NonBlockingLockExclusive, deadline)? {
        return Ok(());
    }
    let mut journal = open_journal(path)?;
    let mut text = Vec::new();
    Read::by_ref(&mut journal).take(2 * MAX_JOURNAL).read_to_end(&mut text)?;
    if text.is_empty() {
        return Ok(()); // somebody else has done it
    }
    // A record is there once its line is.
    text.truncate(text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1));
    let mut samples = read(path)?;
    let first = records(&text).find_map(|record| record["id"].as_str().map(str::to_owned)).unwrap_or_default();
    // Of another first record there is nothing in the file: the journal was cut since.
    let known = samples.folded.take().filter(|(id, _)| *id == first).map_or(0, |(_, bytes)| bytes as usize);
    for record in records(text.get(known..).unwrap_or_default()) {
        count(&record, &mut samples);
    }
    samples.folded = Some((first, text.len() as u64));
    replace(path, &samples.render())?;
    if lock(&journal, FlockOperation::NonBlockingLockExclusive, Duration::ZERO)? && journal.metadata()?.len() == text.len() as u64 {
        journal.set_len(0)?;
    }
    Ok(())
}

fn records(text: &[u8]) -> impl Iterator<Item = Value> {
    text.split(|&byte| byte == b'\n').filter_map(|line| parse_json(line).ok())
}

fn open_journal(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut journal = File::from(rustix::fs::open(beside(path, "journal"), flags, READABLE)?);
    journal.seek(SeekFrom::Start(0))?;
    Ok(journal)
}

/// Not a name that the collector reads (`*.prom`).
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

/// Whether the lock is there before the deadline.
fn lock(file: &File, operation: FlockOperation, deadline: Duration) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < deadline => sleep(LOCK_PAUSE),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

fn read(path: &Path) -> io::Result<Samples> {
    let file = match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Samples::default()),
        opened => File::from(opened?),
    };
    let mut data = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut data)?;
    if data.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("larger than {MAX_FILE} bytes")));
    }
    // Not from us, or damaged: counters may start anew.
    Ok(str::from_utf8(&data).ok().and_then(Samples::parse).unwrap_or_default())
}

/// One writer at a time: the lock is held.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = beside(path, "new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(rustix::fs::open(&new, flags, READABLE)?);
    rustix::fs::fchmod(&file, READABLE)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lager::{Format, Sink};
    use crate::metrics::BYTES;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Case {
        directory: tempfile::TempDir,
        path: PathBuf,
    }

    impl Case {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("grootfs.prom");
            Self { directory, path }
        }

        fn log(&self) -> Logger {
            let sink = Sink::open(&self.directory.path().join("log"), "error", Format::UnixEpoch).unwrap();
            Logger::new(sink, "test", Value::Null)
        }

        fn logged(&self) -> String {
            std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
        }

        fn text(&self) -> String {
            std::fs::read_to_string(&self.path).unwrap()
        }

        fn counts(&self, sample: &str) -> Option<f64> {
            self.text().lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
        }

        fn creates(&self) -> Option<f64> {
            self.counts("grootfs_commands_total{store=\"/s\",command=\"create\",outcome=\"success\"}")
        }
    }

    /// What one command adds.
    fn add(path: &Path, log: Logger, values: &[(&str, f64, &str)], code: u8) {
        let metrics = MetricsFile::new(path, OsStr::new("/s"), log);
        for (name, value, unit) in values {
            metrics.send(name, *value, unit);
        }
        metrics.ended("create", code);
        metrics.close();
    }

    #[test]
    fn a_store_that_is_deleted_takes_its_samples_along() {
        let case = Case::new();
        let end = |store: &str, command: &str, code| {
            let metrics = MetricsFile::new(&case.path, OsStr::new(store), case.log());
            metrics.ended(command, code);
            metrics.close();
        };
        end("/s", "create", 0);
        end("/s,store=", "create", 0);
        end("/s", "delete-store", 1);
        assert_eq!(case.creates(), Some(1.0), "it is still there");
        end("/s", "delete-store", 0);
        let stores: Vec<_> =
            case.text().lines().filter(|line| !line.starts_with('#')).map(|line| line.contains("{store=\"/s,store=\"")).collect();
        assert!(!stores.is_empty() && stores.iter().all(|&other| other), "{}", case.text());
    }

    #[test]
    fn counters_add_up_and_gauges_do_not() {
        let case = Case::new();
        for used in [7000.0, 5000.0] {
            let values = [
                ("UnpackTime", 2.5e9, NANOS),
                ("SharedLockingTime", 5e8, NANOS),
                ("DownloadedBytes", 100.0, BYTES),
                ("StoreUsage", used, BYTES),
            ];
            add(&case.path, case.log(), &values, 0);
        }
        add(&case.path, case.log(), &[("SomethingNew", 1.0, BYTES)], 130);
        assert_eq!(case.creates(), Some(2.0));
        assert_eq!(case.counts("grootfs_commands_total{store=\"/s\",command=\"create\",outcome=\"failure\"}"), Some(1.0));
        assert_eq!(case.counts("grootfs_layer_unpack_seconds_sum{store=\"/s\"}"), Some(5.0));
        assert_eq!(case.counts("grootfs_lock_wait_seconds_sum{store=\"/s\",lock=\"shared\"}"), Some(1.0));
        assert_eq!(case.counts("grootfs_downloaded_bytes_total{store=\"/s\"}"), Some(200.0));
        assert_eq!(case.counts("grootfs_store_used_bytes{store=\"/s\"}"), Some(5000.0));
        assert_eq!(case.counts("grootfs_command_duration_seconds_count{store=\"/s\",command=\"create\"}"), Some(3.0));
        assert_eq!(case.path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(beside(&case.path, "journal").metadata().unwrap().len(), 0);
        assert_eq!((case.logged(), beside(&case.path, "new").exists()), (String::new(), false));
    }

    #[test]
    fn values_have_families() {
        let mut samples = Samples::default();
        for (name, family, _) in VALUES {
            count(&json!({"store": "/s", "values": [[name, 1.0]]}), &mut samples);
            assert!(samples.render().contains(&format!("# TYPE {family} ")), "{name}");
        }
    }

    #[test]
    fn stores_whose_names_are_no_text() {
        let case = Case::new();
        for _ in 0..2 {
            MetricsFile::new(&case.path, OsStr::from_bytes(b"/\xff\""), case.log()).close();
            let metrics = MetricsFile::new(&case.path, OsStr::from_bytes(b"/\xff\""), case.log());
            metrics.send("UnpackTime", 1e9, NANOS);
            metrics.close();
        }
        assert_eq!(case.counts("grootfs_layer_unpack_seconds_count{store=\"/\u{fffd}\\\"\"}"), Some(2.0));
        // What other languages take for the end of a line.
        let odd = "/\u{b}\u{c}\u{1c}\u{85}\u{2028}\r";
        for _ in 0..2 {
            let metrics = MetricsFile::new(&case.path, OsStr::new(odd), case.log());
            metrics.send("UnpackTime", 1e9, NANOS);
            metrics.close();
        }
        assert_eq!(case.counts(&format!("grootfs_layer_unpack_seconds_count{{store=\"{odd}\"}}")), Some(2.0));
    }

    #[test]
    fn counters_start_anew_if_the_file_is_not_from_us() {
        for content in [&b""[..], b"nonsense\n", b"grootfs_commands_total{ x\n", b"\xff\xfe", b"other_total 5\n"] {
            let case = Case::new();
            std::fs::write(&case.path, content).unwrap();
            add(&case.path, case.log(), &[], 0);
            assert_eq!(case.creates(), Some(1.0), "{content:?}");
        }
    }

    #[test]
    fn places_that_cannot_be_written() {
        let case = Case::new();
        let directory = case.directory.path().to_owned();
        std::fs::create_dir(directory.join("folder.prom")).unwrap();
        File::create(directory.join("huge.prom")).unwrap().set_len(2 << 20).unwrap();
        symlink("/etc/hostname", directory.join("link.prom.lock")).unwrap();
        symlink("/etc/hostname", directory.join("linked.prom.journal")).unwrap();
        for (i, name) in ["missing/x.prom", "folder.prom", "huge.prom", "link.prom", "linked.prom"].into_iter().enumerate() {
            add(&directory.join(name), case.log(), &[], 0);
            assert_eq!(case.logged().matches("failed-to-write-metrics-file").count(), i + 1, "{name}");
        }
        assert_eq!(directory.join("huge.prom").metadata().unwrap().len(), 2 << 20);
    }

    /// Many that end together, each in a time that its caller does not notice.
    #[test]
    fn nothing_is_lost_when_many_end_at_once() {
        let case = Case::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..50).for_each(|_| add(&case.path, case.log(), &[], 0)));
            }
        });
        add(&case.path, case.log(), &[], 0);
        assert_eq!((case.creates(), case.logged()), (Some(401.0), String::new()));
    }

    #[test]
    fn a_lock_that_is_not_free_leaves_the_record_to_the_next() {
        let case = Case::new();
        add(&case.path, case.log(), &[], 0);
        let before = case.text();
        let guard = File::options().write(true).open(beside(&case.path, "lock")).unwrap();
        flock(&guard, FlockOperation::LockExclusive).unwrap();
        append(&case.path, &MetricsFile::new(&case.path, OsStr::new("/s"), case.log()).record()).unwrap();
        fold(&case.path, Duration::ZERO).unwrap();
        assert_eq!(case.text(), before);
        drop(guard);
        let metrics = MetricsFile::new(&case.path, OsStr::new("/s"), case.log());
        metrics.ended("create", 0);
        append(&case.path, &metrics.record()).unwrap();
        add(&case.path, case.log(), &[], 0);
        assert_eq!(case.creates(), Some(3.0));
    }

    /// Killed after the renaming, with the journal still whole, and with a journal that was cut and filled again.
    #[test]
    fn no_record_is_counted_twice() {
        let case = Case::new();
        add(&case.path, case.log(), &[], 0);
        let record = |id: &str| format_json(&json!({"id": id, "store": "/s", "values": [], "ended": ["create", 0, 0.1]}));
        append(&case.path, &record("a")).unwrap();
        let reader = open_journal(&case.path).unwrap();
        flock(&reader, FlockOperation::LockShared).unwrap(); // it cannot be cut
        fold(&case.path, Duration::ZERO).unwrap();
        fold(&case.path, Duration::ZERO).unwrap();
        assert_eq!(case.creates(), Some(2.0));
        append(&case.path, &record("b")).unwrap();
        fold(&case.path, Duration::ZERO).unwrap();
        assert_eq!(case.creates(), Some(3.0));
        reader.set_len(0).unwrap();
        for id in ["c", "d", "e"] {
            append(&case.path, &record(id)).unwrap();
        }
        fold(&case.path, Duration::ZERO).unwrap();
        assert_eq!(case.creates(), Some(6.0));
    }

    #[test]
    fn a_torn_record_costs_only_itself() {
        let case = Case::new();
        open_journal(&case.path).unwrap().write_all(b"\n{\"id\": \"x\", \"sto").unwrap();
        add(&case.path, case.log(), &[], 0);
        assert_eq!(case.creates(), Some(1.0));
    }
}
