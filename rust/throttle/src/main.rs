//! `groot-throttle FILE`: makes a file as slow as a volume on AWS, until its standard input ends.
//!
//! Each line of standard input is a JSON object. `{"limits": {...}}` sets limits (`volume::Limits`), `{}` changes nothing; both are
//! answered by a line with the counters since the beginning (`volume::Volume::report`). When input ends, for whatever reason, the file
//! systems on loop devices over the file are unmounted, and so is what this program mounted.

mod file;
mod release;
mod volume;

use file::{Queue, Served};
use fuser::{Config, MountOption, SessionACL};
use rustix::process::configure_io_flusher_behavior;
use serde_json::Value;
use std::fs::{OpenOptions, canonicalize};
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(path), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: groot-throttle FILE");
        return ExitCode::from(2);
    };
    match serve(Path::new(&path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("groot-throttle: {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn serve(path: &Path) -> io::Result<()> {
    // Whoever frees memory must not wait for us, who would wait for memory. It needs CAP_SYS_RESOURCE, which containers lack.
    let _ = configure_io_flusher_behavior(true);
    let path = canonicalize(path)?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("this is not a regular file"));
    }
    let queue = Arc::new(Queue::new());
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("groot-throttle".to_owned())];
    config.acl = SessionACL::Owner;
    let session = fuser::spawn_mount(Served { file, queue: Arc::clone(&queue) }, &path, &config)?;
    let worker = Arc::clone(&queue);
    thread::spawn(move || worker.work());
    let answered = answer(&queue);
    queue.limit(volume::Limits::default());
    release::release(&path);
    session.umount_and_join()?;
    answered
}

/// Do what standard input says, to its end.
fn answer(queue: &Queue) -> io::Result<()> {
    let mut output = io::stdout().lock();
    // Who began us waits for it: now the file is slow.
    writeln!(output, "{}", queue.report())?;
    for line in io::stdin().lock().lines() {
        let Ok(asked) = serde_json::from_str::<Value>(&line?) else {
            return Err(io::Error::other("a line of standard input is not JSON"));
        };
        if let Some(limits) = asked.get("limits") {
            let limits = volume::Limits::read(limits).ok_or_else(|| io::Error::other(format!("these are no limits: {limits}")))?;
            queue.limit(limits);
        }
        writeln!(output, "{}", queue.report())?;
    }
    Ok(())
}
