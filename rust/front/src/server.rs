//! A call to a listening server: `POST /v1/commands` over a UNIX socket (docs/server.md, "The front's call").
//!
//! Our standard streams and working directory go along with it. A worker of the server answers 101, runs the command, and sends
//! one byte more: the exit code. Output never passes through here.

use crate::sys::{self, Caught, Process};
use crate::text::Text;
use core::iter;
use core::mem::MaybeUninit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, open, readlinkat_raw, stat};
use rustix::io::{Errno, IoSlice, IoSliceMut, Result, read, retry_on_intr};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, send, sendmsg, socket_with,
};
use rustix::process::{Signal, geteuid, pidfd_send_signal, umask};

/// The version of what a call holds.
const VERSION: &[u8] = b"2";

/// How the answer begins when a worker is about to run the command.
const TAKEN: &[u8] = b"HTTP/1.1 101 ";

/// How the line of that answer begins that has the command's number.
const NUMBER: &[u8] = b"Grootfs-Command: ";

/// The end of an answer's head. The exit code follows.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// The longest answer.
const MAX_ANSWER: usize = 4096;

/// The longest head of a request of ours.
const MAX_REQUEST: usize = 512;

/// How long no warm command takes.
const LONG: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

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

/// Run the call in the server at `address`. `memory` is overwritten.
pub fn run(address: &SocketAddrUnix, process: &Process, memory: &mut [u8]) -> Outcome {
    let mut body = Text::new(memory);
    if describe(process, &mut body).is_err() {
        return Outcome::NotRun;
    }
    let Some(body) = body.bytes() else { return Outcome::NotRun };
    // Before the command can start, so that no signal is lost.
    let Ok(signals) = sys::catch_signals() else { return Outcome::NotRun };
    // Last, so that the call is there when the server has woken up.
    let Ok(connection) = send_call(address, body) else { return Outcome::NotRun };
    hide_password(process);
    let outcome = Call { connection, address, answer: [0; MAX_ANSWER], length: 0, worker: None, signal: None }.wait(&signals);
    if matches!(outcome, Outcome::NotRun) {
        show_arguments(process, body); // the program needs the password
    }
    outcome
}

/// A connection to the server, if it is one of our own.
fn reach(address: &SocketAddrUnix) -> Result<OwnedFd> {
    let connection = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    connect(&connection, address)?;
    // A call may hold a password, and whoever listens there acts in our name.
    if socket_peercred(&connection)?.uid == geteuid() { Ok(connection) } else { Err(Errno::PERM) }
}

/// Everything of this process that the command depends on, but for the descriptors: fields that end with a zero byte.
fn describe(process: &Process, body: &mut Text<'_>) -> Result<()> {
    body.put(VERSION);
    body.put(b"\0");
    put_world(body)?;
    body.put(b"\0");
    let mask = umask(Mode::RWXU);
    umask(mask);
    body.put_number(mask.bits().into(), 8);
    body.put(b"\0");
    body.put_number(process.arguments().count() as u64, 10);
    body.put(b"\0");
    for string in process.arguments().chain(process.environment()) {
        body.put(string.to_bytes_with_nul());
    }
    Ok(())
}

/// The fields of a body before the arguments: version, world, mask, count.
const FIELDS: usize = 4;

/// The namespaces and the root directory that paths, ids and addresses mean something in.
fn put_world(body: &mut Text<'_>) -> Result<()> {
    for link in [c"/proc/self/ns/mnt", c"/proc/self/ns/user", c"/proc/self/ns/net"] {
        body.put_read(|memory| readlinkat_raw(CWD, link, memory))?;
        body.put(b" ");
    }
    let root = stat(c"/")?;
    body.put_number(root.st_dev, 10);
    body.put(b":");
    body.put_number(root.st_ino, 10);
    Ok(())
}

/// Connect and send the call, and the descriptors with its first bytes.
fn send_call(address: &SocketAddrUnix, body: &[u8]) -> Result<OwnedFd> {
    let mut space = [0; MAX_REQUEST];
    let mut head = Text::new(&mut space);
    head.put(
        b"POST /v1/commands HTTP/1.1\r\nHost: grootfs\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
        Content-Type: application/vnd.grootfs.command\r\nContent-Length: ",
    );
    head.put_number(body.len() as u64, 10);
    head.put(HEAD_END);
    let head = head.bytes().ok_or(Errno::NOBUFS)?;
    let directory = open(c".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let [input, output, errors] = sys::streams();
    let descriptors: [BorrowedFd<'_>; 4] = [input, output, errors, directory.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    rights.push(SendAncillaryMessage::ScmRights(&descriptors));
    let connection = reach(address)?;
    let sent = sendmsg(&connection, &[IoSlice::new(head), IoSlice::new(body)], &mut rights, SendFlags::NOSIGNAL)?;
    send_all(&connection, &head[sent.min(head.len())..])?;
    send_all(&connection, &body[sent.saturating_sub(head.len())..])?;
    Ok(connection)
}

fn send_all(connection: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        bytes = &bytes[send(connection, bytes, SendFlags::NOSIGNAL)?..];
    }
    Ok(())
}

/// Take the password out of what the process list shows; the program does the same.
fn hide_password(process: &Process) {
    let mut arguments = process.arguments().enumerate();
    while let Some((number, argument)) = arguments.next() {
        let bytes = argument.to_bytes();
        let dashes = if bytes.starts_with(b"--") { 2 } else { 1 };
        let Some(behind) = bytes.get(dashes..).filter(|_| bytes[0] == b'-').and_then(|option| option.strip_prefix(b"password")) else {
            continue;
        };
        let secret = match behind {
            b"" => arguments.next().map(|(number, _)| (number, 0)),
            [b'=', ..] => Some((number, bytes.len() - behind.len() + 1)),
            _ => None,
        };
        if let Some((number, from)) = secret {
            process.overwrite(number, from, iter::repeat(b'x'));
        }
    }
}

/// Undo it, from the `body` of the call.
fn show_arguments(process: &Process, body: &[u8]) {
    let fields = body.split(|&byte| byte == 0).skip(FIELDS);
    for ((number, _), argument) in process.arguments().enumerate().zip(fields) {
        process.overwrite(number, 0, argument.iter().copied());
    }
}

/// A call that has been sent.
struct Call<'a> {
    connection: OwnedFd,
    address: &'a SocketAddrUnix,
    /// What has come back, and how much of it there is.
    answer: [u8; MAX_ANSWER],
    length: usize,
    /// The process that runs it, for the time after the server.
    worker: Option<OwnedFd>,
    /// The last signal that was passed on.
    signal: Option<i32>,
}

impl Call<'_> {
    /// Wait for the exit code, and pass signals on.
    fn wait(mut self, signals: &Caught) -> Outcome {
        let mut patience = Some(LONG);
        loop {
            let mut ready = [PollFd::new(&self.connection, PollFlags::IN), PollFd::new(signals.descriptor(), PollFlags::IN)];
            match retry_on_intr(|| poll(&mut ready, patience.as_ref())) {
                Ok(0) => {
                    sys::be_seen();
                    patience = None;
                }
                Ok(_) => {}
                Err(_) => return self.end(),
            }
            let [answered, signalled] = ready.map(|descriptor| !descriptor.revents().is_empty());
            if let Some(outcome) = answered.then(|| self.read_answer()).flatten() {
                return outcome;
            }
            if let Some(signal) = signalled.then(|| signals.next().ok()).flatten() {
                let Some(head) = self.head() else { return Outcome::Killed(signal) }; // the server hears of our end
                if pass_signal(self.address, number_in(head), signal).is_err() {
                    // The server is dead, so the worker has no other caller than us.
                    if let (Some(worker), Some(signal)) = (&self.worker, Signal::from_named_raw(signal)) {
                        let _ = pidfd_send_signal(worker, signal); // where it has ended, so will the connection
                    }
                }
                self.signal = Some(signal);
            }
        }
    }

    /// Take what is there; the outcome, once it is known.
    fn read_answer(&mut self) -> Option<Outcome> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let room = &mut [IoSliceMut::new(&mut self.answer[self.length..])];
        let count = recvmsg(&self.connection, room, &mut rights, RecvFlags::CMSG_CLOEXEC).map_or(0, |received| received.bytes);
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.worker = descriptors.last();
            }
        }
        self.length += count;
        if count == 0 {
            return Some(self.end());
        }
        if !self.answer.starts_with(&TAKEN[..self.length.min(TAKEN.len())]) {
            return Some(Outcome::NotRun);
        }
        let code = self.answer[..self.length].get(self.head()?.len())?;
        Some(Outcome::Exited(*code))
    }

    /// The head of the answer, once it is there.
    fn head(&self) -> Option<&[u8]> {
        let answer = &self.answer[..self.length];
        let end = answer.windows(HEAD_END.len()).position(|window| window == HEAD_END)?;
        Some(&answer[..end + HEAD_END.len()])
    }

    /// How it ended where the connection did before there was a code.
    fn end(&self) -> Outcome {
        match (self.head(), self.signal) {
            (None, _) => Outcome::NotRun,
            (_, Some(signal)) => Outcome::Killed(signal),
            (_, None) => Outcome::Lost,
        }
    }
}

/// The command's number, for the server.
fn number_in(head: &[u8]) -> &[u8] {
    head.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(NUMBER)).unwrap_or_default().trim_ascii()
}

/// Have the server send a signal to the command.
fn pass_signal(address: &SocketAddrUnix, number: &[u8], signal: i32) -> Result<()> {
    let connection = reach(address)?;
    let mut space = [0; MAX_REQUEST];
    let mut body = Text::new(&mut space);
    body.put(b"{\"signal\":");
    body.put_number(signal.unsigned_abs().into(), 10);
    body.put(b"}");
    let body = body.bytes().ok_or(Errno::NOBUFS)?;
    let mut space = [0; MAX_REQUEST];
    let mut request = Text::new(&mut space);
    for part in
        [b"POST /v1/commands/", number, b"/signal HTTP/1.1\r\nHost: grootfs\r\nConnection: close\r\nContent-Type: application/json\r\n"]
    {
        request.put(part);
    }
    request.put(b"Content-Length: ");
    request.put_number(body.len() as u64, 10);
    request.put(HEAD_END);
    request.put(body);
    send_all(&connection, request.bytes().ok_or(Errno::NOBUFS)?)?;
    // Taken or not, it is alive.
    match read(&connection, &mut [0; 1])? {
        0 => Err(Errno::CONNRESET),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::number_in;

    #[test]
    fn the_number_is_in_the_head() {
        assert_eq!(number_in(b"HTTP/1.1 101 X\r\nUpgrade: tcp\r\nGrootfs-Command: 17\r\n\r\n"), b"17");
        assert_eq!(number_in(b"HTTP/1.1 101 X\r\n\r\n"), b"");
    }
}
