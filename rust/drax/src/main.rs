//! drax: sets limits for the owner of a store, and nothing else.
//!
//! The kernel asks for `CAP_SYS_ADMIN` to change quota groups. drax is installed setuid root, or with the file capability
//! `cap_sys_admin+ep`, so that a user can have the images of its own store limited. THREAT-MODEL.md says what it checks,
//! in which order, and why.
//!
//! ```text
//! main.rs        arguments, dispatch
//! privilege.rs   what the process may do when
//! target.rs      open the volume as the caller, and check it
//! quota.rs       quota groups (by `groot_btrfs`, which is linked in)
//! tardis.rs      the same program by the name of the newest original's helper
//! sys.rs         system calls (the only unsafe code)
//! ```
//!
//! Data, or the text of an error, goes to standard output (what grootfs reads); exit status 0 or 1.

mod privilege;
mod quota;
mod sys;
mod tardis;
mod target;

use groot_btrfs::quota::{Accounting, Groups};
use groot_btrfs::subvolume::Limit;
use privilege::Caller;
use rustix::io::Errno;
use std::borrow::Cow;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use target::Volume;

const USAGE: &str = "usage: drax limit --volume-path <path> --disk-limit-bytes <n> [--exclude-image-from-quota]
       drax destroy --volume-path <path>
       drax stats --volume-path <path> [--force-sync]
       drax --version";

/// The kernel takes 2^64-1 as "no limit"; signed tools show anything above this as negative.
const MAX_LIMIT: u64 = i64::MAX as u64;

/// Why nothing was done, in one sentence.
#[derive(Debug, PartialEq, Eq)]
struct Failure(Cow<'static, str>);

impl Failure {
    fn os(doing: &str, error: Errno) -> Self {
        Self(format!("{doing}: {error}").into())
    }
}

impl From<&'static str> for Failure {
    fn from(text: &'static str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

fn main() -> ExitCode {
    let (text, code) = match run() {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(text)) => (text.into(), ExitCode::SUCCESS),
        Err(Failure(text)) => (text, ExitCode::FAILURE),
    };
    // Not `println!`, which panics where nobody listens.
    if writeln!(std::io::stdout(), "{text}").is_ok() { code } else { ExitCode::FAILURE }
}

/// Returns what to print.
fn run() -> Result<Option<String>, Failure> {
    privilege::lock_down()?;
    privilege::require_initial_user_namespace()?;
    let caller = Caller::settle()?;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if Path::new(&name).file_name() == Some(tardis::NAME.as_ref()) {
        return tardis::try_limit(&caller, &tardis::parse(arguments)?).map(|()| None);
    }
    match parse(arguments)? {
        Command::Limit { path, limit } => set_limit(caller, &path, limit).map(|()| None),
        Command::Destroy { path } => destroy(caller, &path).map(|()| None),
        Command::Stats { path, sync } => stats(&path, sync).map(Some),
        Command::Version => Ok(Some(format!("drax version {}", env!("CARGO_PKG_VERSION")))),
    }
}

fn set_limit(caller: Caller, path: &Path, limit: Limit) -> Result<(), Failure> {
    caller.require_admin()?;
    let volume = Volume::open(path)?;
    let accounting = groups(&volume)?.accounting().map_err(|e| Failure::os("looking at the file system's accounting", e))?;
    let target = volume.authorise(&caller)?;
    if accounting == Accounting::Off {
        return Err(quota::quota_off());
    }
    let raised = caller.raise()?;
    let done = match accounting {
        Accounting::Simple => quota::limit_enclosed(&raised, &target, limit),
        _ => quota::limit(&raised, &target, limit),
    };
    privilege::give_up()?;
    done
}

/// Prepare a volume for its deletion.
fn destroy(caller: Caller, path: &Path) -> Result<(), Failure> {
    caller.require_admin()?;
    let volume = Volume::open(path)?;
    // Volumes without images in them, and images without a limit, have nothing that would need privilege.
    if !groups(&volume)?.has_enclosure(volume.id) {
        return Ok(());
    }
    let target = volume.authorise(&caller)?;
    let raised = caller.raise()?;
    let done = quota::remove_enclosure(&raised, &target);
    privilege::give_up()?;
    done
}

fn stats(path: &Path, sync: bool) -> Result<String, Failure> {
    privilege::give_up()?;
    let volume = Volume::open(path)?;
    if sync {
        groot_btrfs::sync(&volume.dir).map_err(|e| Failure::os("syncing the file system", e))?;
    }
    let used = groups(&volume)?.usage(volume.id).ok_or("qgroup usage: can't list qgroups: quotas not enabled")?;
    Ok(format!(r#"{{"disk_usage":{{"total_bytes_used":{},"exclusive_bytes_used":{}}}}}"#, used.referenced, used.exclusive))
}

fn groups(volume: &Volume) -> Result<Groups, Failure> {
    Groups::of(&volume.dir).map_err(|e| Failure::os("looking at the file system", e))
}

#[derive(Debug, PartialEq, Eq)]
enum Command {
    Limit { path: PathBuf, limit: Limit },
    Destroy { path: PathBuf },
    Stats { path: PathBuf, sync: bool },
    Version,
}

/// Options stand before or after the command, as `--name value` or `--name=value`; of a repeated one the last counts.
fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command, Failure> {
    let mut arguments = arguments;
    let mut words: Vec<OsString> = Vec::new();
    let (mut path, mut bytes) = (None, None);
    let (mut exclusive, mut sync, mut version) = (false, false, false);
    while let Some(argument) = arguments.next() {
        let (name, given) = split(&argument);
        let mut value = || given.clone().or_else(|| arguments.next()).ok_or(USAGE);
        match (name, &given) {
            (b"--volume-path", _) => path = Some(PathBuf::from(value()?)),
            (b"--disk-limit-bytes", _) => bytes = Some(value()?),
            // The original called the `btrfs` program.
            (b"--btrfs-bin", _) => drop(value()?),
            (b"--exclude-image-from-quota", None) => exclusive = true,
            (b"--force-sync", None) => sync = true,
            (b"--version" | b"-v", None) => version = true,
            ([b'-', ..], _) => return Err(USAGE.into()),
            _ => words.push(argument),
        }
    }
    if version {
        return Ok(Command::Version);
    }
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    match (words.as_slice(), path, bytes, exclusive, sync) {
        ([b"limit"], Some(path), Some(bytes), exclusive, false) => {
            Ok(Command::Limit { path, limit: Limit { bytes: limit_bytes(bytes.as_bytes())?, exclusive } })
        }
        ([b"destroy"], Some(path), None, false, false) => Ok(Command::Destroy { path }),
        ([b"stats"], Some(path), None, false, sync) => Ok(Command::Stats { path, sync }),
        ([b"list"], None, None, false, false) => Err("missing path argument".into()),
        ([b"list", _], None, None, false, false) => Err("drax list is not needed: nested subvolumes are found without privilege".into()),
        _ => Err(USAGE.into()),
    }
}

/// Name and value of `--name=value`; of anything else the whole of it, and no value.
fn split(argument: &OsString) -> (&[u8], Option<OsString>) {
    let bytes = argument.as_bytes();
    match bytes.iter().position(|&byte| byte == b'=') {
        Some(at) if bytes.starts_with(b"--") => (&bytes[..at], Some(OsString::from_vec(bytes[at + 1..].to_vec()))),
        _ => (bytes, None),
    }
}

fn limit_bytes(text: &[u8]) -> Result<u64, Failure> {
    // `parse` would take a plus sign too.
    let digits = text.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(text).ok()).flatten();
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(bytes @ 1..=MAX_LIMIT) => Ok(bytes),
        _ => Err(Failure::from(format!("--disk-limit-bytes has to be a number from 1 to {MAX_LIMIT}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, Failure> {
        parse(line.split_ascii_whitespace().map(OsString::from))
    }

    fn limit(bytes: u64, exclusive: bool) -> Command {
        Command::Limit { path: "/p".into(), limit: Limit { bytes, exclusive } }
    }

    #[test]
    fn options_stand_anywhere() {
        for line in [
            "limit --volume-path /p --disk-limit-bytes 10",
            "--btrfs-bin /b limit --disk-limit-bytes=10 --volume-path=/p",
            "--volume-path /p --disk-limit-bytes 10 limit --btrfs-bin=/b",
            "limit --disk-limit-bytes 99 --volume-path /q --disk-limit-bytes 10 --volume-path /p",
        ] {
            assert_eq!(parsed(line), Ok(limit(10, false)), "{line}");
        }
        assert_eq!(parsed("limit --exclude-image-from-quota --volume-path /p --disk-limit-bytes 1"), Ok(limit(1, true)));
        assert_eq!(parsed("destroy --volume-path /p"), Ok(Command::Destroy { path: "/p".into() }));
        assert_eq!(parsed("stats --volume-path /p"), Ok(Command::Stats { path: "/p".into(), sync: false }));
        assert_eq!(parsed("--force-sync stats --volume-path /p"), Ok(Command::Stats { path: "/p".into(), sync: true }));
        assert_eq!(parsed("--version"), Ok(Command::Version));
    }

    #[test]
    fn a_value_may_hold_anything() {
        assert_eq!(parsed("destroy --volume-path=a=b"), Ok(Command::Destroy { path: "a=b".into() }));
        assert_eq!(parsed("destroy --volume-path --x"), Ok(Command::Destroy { path: "--x".into() }));
    }

    #[test]
    fn anything_else_gets_the_usage() {
        for line in [
            "",
            "limit",
            "limit --volume-path /p",
            "limit --disk-limit-bytes 1",
            "limit --volume-path",
            "limit limit --volume-path /p --disk-limit-bytes 1",
            "limit --volume-path /p --disk-limit-bytes 1 --force-sync",
            "destroy --volume-path /p --disk-limit-bytes 1",
            "destroy /p",
            "stats --volume-path /p --exclude-image-from-quota",
            "stats --volume-path /p --force-sync=true",
            "remove --volume-path /p",
            "list --volume-path /p",
            "-h",
            "--",
        ] {
            assert_eq!(parsed(line), Err(USAGE.into()), "{line}");
        }
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(limit_bytes(b"9223372036854775807"), Ok(MAX_LIMIT));
        for text in ["", "0", "00", "-1", "+1", "1k", "0x10", " 1", "9223372036854775808", "18446744073709551615", "18446744073709551616"] {
            assert!(limit_bytes(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn list_is_refused_with_a_reason() {
        assert_eq!(parsed("list"), Err("missing path argument".into()));
        assert!(parsed("list /p").is_err_and(|failure| failure.0.contains("not needed")));
    }
}
