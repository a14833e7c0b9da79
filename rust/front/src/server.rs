//! A call to a listening server: `POST /v1/commands` over a UNIX socket (docs/server.md, "The front's call").
//!
//! The server answers 101 when a worker of its is ready; from then on the connection is the worker's. One byte carries our
//! standard streams and working directory to it, and one byte comes back: the exit code. Output never passes through here.

use crate::sys;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Signal, pidfd_send_signal};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The version of what a call's body holds.
const VERSION: &str = "1";

/// How the answer begins that hands the connection to a worker.
const TAKEN: &str = "HTTP/1.1 101 ";

/// The longest head of an answer.
const MAX_HEAD: usize = 4096;

/// How a call ended.
pub enum Outcome {
    /// No server would take it; nothing has run.
    NotRun,
    /// The command ended with this code.
    Exited(u8),
    /// The command ended by a signal that was sent to us.
    Killed(i32),
    /// The connection ended before the command did.
    Lost,
}

/// Run the call in the server at `socket`.
pub fn run(socket: &Path, arguments: &[OsString]) -> Outcome {
    let Ok(mut running) = ask(socket, arguments) else { return Outcome::NotRun };
    // Before the command can start, so that no signal is lost.
    let Ok(signals) = sys::catch_signals() else { return Outcome::NotRun };
    if send_descriptors(&running.connection).is_err() {
        return Outcome::NotRun;
    }
    wait(&mut running, &signals, socket).unwrap_or(Outcome::Lost)
}

/// A command that a worker is about to run.
struct Running {
    connection: UnixStream,
    /// Its number, for the server.
    number: String,
    /// The worker, for the time after the server.
    worker: Option<OwnedFd>,
}

/// Send the call and wait until the server has a worker for it.
fn ask(socket: &Path, arguments: &[OsString]) -> io::Result<Running> {
    let mut connection = UnixStream::connect(socket)?;
    // A call may hold a password, and whoever listens there acts in our name.
    if socket_peercred(&connection)?.uid != rustix::process::geteuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let body = describe(arguments)?;
    let head = format!(
        "POST /v1/commands HTTP/1.1\r\nHost: grootfs\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
         Content-Type: application/vnd.grootfs.command\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(&[head.as_bytes(), &body].concat())?;
    hide_password(arguments);
    let (head, worker) = read_head(&connection)?;
    if !head.starts_with(TAKEN) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let number = head.lines().find_map(|line| line.strip_prefix("Grootfs-Command: ")).unwrap_or_default().to_owned();
    Ok(Running { connection, number, worker })
}

/// Everything of this process that the command depends on, but for the descriptors: fields that end with a zero byte.
fn describe(arguments: &[OsString]) -> io::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(8192);
    let mut field = |bytes: &[u8]| {
        body.extend_from_slice(bytes);
        body.push(0);
    };
    field(VERSION.as_bytes());
    field(world()?.as_bytes());
    field(format!("{:o}", sys::umask()).as_bytes());
    field(arguments.len().to_string().as_bytes());
    for argument in arguments {
        field(argument.as_bytes());
    }
    for (name, value) in std::env::vars_os() {
        field(&[name.as_bytes(), b"=", value.as_bytes()].concat());
    }
    Ok(body)
}

/// The namespaces and the root directory that paths, ids and addresses mean something in.
fn world() -> io::Result<String> {
    let mut parts = Vec::new();
    for kind in ["mnt", "user", "net"] {
        parts.push(fs::read_link(format!("/proc/self/ns/{kind}"))?.to_string_lossy().into_owned());
    }
    let root = fs::metadata("/")?;
    parts.push(format!("{}:{}", root.dev(), root.ino()));
    Ok(parts.join(" "))
}

/// Take the password out of what the process list shows; the program does the same.
fn hide_password(arguments: &[OsString]) {
    let mut rest = arguments.iter().map(OsString::as_os_str);
    while let Some(argument) = rest.next() {
        let bytes = argument.as_bytes();
        let Some(option) = bytes.strip_prefix(b"--").or(bytes.strip_prefix(b"-")) else { continue };
        let secret = match option.strip_prefix(b"password") {
            Some(b"") => rest.next(),
            Some([b'=', value @ ..]) => Some(OsStr::from_bytes(value)),
            _ => None,
        };
        if let Some(secret) = secret.filter(|secret| !secret.is_empty()) {
            sys::hide_in_arguments(secret.as_bytes());
        }
    }
}

/// The head of an answer, and the descriptor that comes with it. Of another answer than `TAKEN` its beginning is enough.
fn read_head(connection: &UnixStream) -> io::Result<(String, Option<OwnedFd>)> {
    let mut head = Vec::new();
    let mut worker = None;
    let mut chunk = [0; 512];
    while !head.ends_with(b"\r\n\r\n") {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(connection, &mut [IoSliceMut::new(&mut chunk)], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                worker = descriptors.last();
            }
        }
        if received.bytes == 0 || head.len() > MAX_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&chunk[..received.bytes]);
        if head.len() >= TAKEN.len() && !head.starts_with(TAKEN.as_bytes()) {
            break;
        }
    }
    let head = String::from_utf8(head).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((head, worker))
}

fn send_descriptors(connection: &UnixStream) -> io::Result<()> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let directory = rustix::fs::open(".", flags, rustix::fs::Mode::empty())?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let descriptors: [BorrowedFd<'_>; 4] = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), directory.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    rights.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(connection, &[IoSlice::new(&[0])], &mut rights, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Wait for the exit code, and pass signals on.
fn wait(running: &mut Running, signals: &OwnedFd, socket: &Path) -> io::Result<Outcome> {
    let mut passed = None;
    loop {
        let mut ready = [PollFd::new(&running.connection, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        poll(&mut ready, None)?;
        let [ended, signalled] = ready.map(|fd| !fd.revents().is_empty());
        if ended {
            let mut code = [0];
            let count = running.connection.read(&mut code).unwrap_or(0);
            return Ok(match (count, passed) {
                (1, _) => Outcome::Exited(code[0]),
                (_, Some(signal)) => Outcome::Killed(signal),
                (_, None) => Outcome::Lost,
            });
        }
        if signalled {
            let signal = sys::next_signal(signals)?;
            passed = Some(signal);
            if pass_signal(socket, &running.number, signal).is_err() {
                // The server is dead, so the worker has no other caller than us.
                if let (Some(worker), Some(signal)) = (&running.worker, Signal::from_named_raw(signal)) {
                    let _ = pidfd_send_signal(worker, signal); // where it has ended, so will the connection
                }
            }
        }
    }
}

/// Have the server send a signal to the command.
fn pass_signal(socket: &Path, number: &str, signal: i32) -> io::Result<()> {
    let mut connection = UnixStream::connect(socket)?;
    let body = format!("{{\"signal\":{signal}}}");
    let request = format!(
        "POST /v1/commands/{number}/signal HTTP/1.1\r\nHost: grootfs\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes())?;
    read_head(&connection)?;
    Ok(())
}
