//! Metrics as Cloud Foundry's metron reads them (contract, section 18): one dropsonde v1 envelope a UDP datagram.
//!
//! Never in the way: an endpoint that cannot be used, or a datagram that cannot be sent, is a line in the log.

use crate::lager::Logger;
use crate::system_text;
use groot_document::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use std::{io, thread};

const ORIGIN: &str = "grootfs";
const VALUE_METRIC: u64 = 6;
const COUNTER_EVENT: u64 = 7;
const ERROR: u64 = 8;

/// Commands whose runs and errors metron hears of.
const COUNTED: [&str; 4] = ["create", "delete", "clean", "stats"];

/// Bytes of an error's text: a datagram must not become too large to be sent.
const MAX_MESSAGE: usize = 4096;

/// How long a command that is done waits for the name of the endpoint to be resolved.
const RESOLVE_DEADLINE: Duration = Duration::from_millis(500);

/// Sends to a metron agent. A host that is a name is resolved by a thread, because that may take any time.
#[derive(Debug)]
pub struct Metron {
    socket: UdpSocket,
    log: Logger,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    target: Target,
    is_held: bool,
    /// Datagrams that cannot go yet, with names for the log.
    waiting: Vec<(String, Vec<u8>)>,
}

#[derive(Debug)]
enum Target {
    Known(SocketAddr),
    /// The name, and the answer of the thread that resolves it.
    Asked(String, Receiver<io::Result<SocketAddr>>),
    /// Nowhere: the name is not known, which has been said.
    Unknown,
}

impl Metron {
    /// The agent at `endpoint` (`host:port`). What makes no sense is a line in the log.
    pub fn open(endpoint: &str, log: &Logger) -> Option<Self> {
        let opened = parse(endpoint).and_then(|(host, port)| Self::connect(host, port, log, resolve));
        opened.inspect_err(|error| log.error("failed-to-initialize-metrics-emitter", error, Value::Null)).ok()
    }

    fn connect(host: &str, port: u16, log: &Logger, resolve: fn(&str, u16) -> io::Result<SocketAddr>) -> Result<Self, String> {
        let text = |error: io::Error| system_text(&error);
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(text)?;
        socket.set_nonblocking(true).map_err(text)?;
        let target = if let Ok(address) = host.parse::<Ipv4Addr>() {
            Target::Known(SocketAddrV4::new(address, port).into())
        } else {
            let (answer, answers) = channel();
            let name = host.to_owned();
            // Nobody joins it: the process ends whether the name is known or not.
            let work = move || {
                let _ = answer.send(resolve(&name, port));
            };
            thread::Builder::new().name("metron".to_owned()).spawn(work).map_err(text)?;
            Target::Asked(host.to_owned(), answers)
        };
        let state = Mutex::new(State { target, is_held: false, waiting: Vec::new() });
        Ok(Self { socket, log: log.clone(), state })
    }

    pub fn send(&self, name: &str, value: f64, unit: &str) {
        self.emit(name, envelope(name, value, unit, now()));
    }

    pub fn began(&self, command: &str) {
        if COUNTED.contains(&command) {
            self.count(&format!("grootfs-{command}.run"));
        }
    }

    pub fn ended(&self, command: &str, code: u8, failure: &str) {
        if !COUNTED.contains(&command) {
            return;
        }
        self.count(&format!("grootfs-{command}.run.{}", if code == 0 { "success" } else { "fail" }));
        if code != 0 {
            let name = format!("grootfs-error.{command}");
            self.emit(&name, error_envelope(&name, code, failure, now()));
        }
    }

    pub fn hold(&self) {
        self.state().is_held = true;
    }

    pub fn release(&self) {
        let mut state = self.state();
        state.is_held = false;
        self.flush(&mut state);
    }

    pub fn close(&self) {
        let mut state = self.state();
        if let Target::Asked(host, answers) = &state.target {
            let late = || io::Error::new(io::ErrorKind::TimedOut, format!("`{host}` was not resolved in time"));
            state.target = match answers.recv_timeout(RESOLVE_DEADLINE).unwrap_or_else(|_| Err(late())) {
                Ok(address) => Target::Known(address),
                Err(error) => {
                    self.log.error("failed-to-initialize-metrics-emitter", system_text(&error), Value::Null);
                    Target::Unknown
                }
            };
        }
        state.is_held = false;
        self.flush(&mut state);
    }

    fn count(&self, name: &str) {
        self.emit(name, counter_envelope(name, 1, now()));
    }

    fn emit(&self, name: &str, datagram: Vec<u8>) {
        let mut state = self.state();
        state.waiting.push((name.to_owned(), datagram));
        self.flush(&mut state);
    }

    /// Send what waits, where nothing keeps it.
    fn flush(&self, state: &mut State) {
        let address = match state.target {
            _ if state.is_held => return,
            Target::Asked(..) => return,
            Target::Known(address) => Some(address),
            Target::Unknown => None,
        };
        for (name, datagram) in state.waiting.drain(..) {
            let Some(address) = address else { continue };
            if let Err(error) = self.socket.send_to(&datagram, address) {
                self.log.error("failed-to-emit-metric", system_text(&error), json!({"metric": name}));
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(endpoint: &str) -> Result<(&str, u16), String> {
    endpoint
        .rsplit_once(':')
        .filter(|(host, port)| !host.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|(host, port)| Some((host, port.parse().ok().filter(|&port| port > 0)?)))
        .ok_or_else(|| format!("`{endpoint}` is not host:port"))
}

fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let mut found = (host, port).to_socket_addrs()?;
    found.find(SocketAddr::is_ipv4).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("`{host}` has no IPv4 address")))
}

/// Nanoseconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// The protobuf message `Envelope` with a `ValueMetric`, fields in ascending order. `timestamp`: nanoseconds since the epoch.
fn envelope(name: &str, value: f64, unit: &str, timestamp: u64) -> Vec<u8> {
    let metric = [bytes(1, name.as_bytes()), key(2, 1), value.to_le_bytes().to_vec(), bytes(3, unit.as_bytes())].concat();
    wrap(ORIGIN, VALUE_METRIC, timestamp, &bytes(9, &metric))
}

/// An `Envelope` with a `CounterEvent`.
fn counter_envelope(name: &str, delta: u64, timestamp: u64) -> Vec<u8> {
    let event = [bytes(1, name.as_bytes()), number(2, delta)].concat();
    wrap(ORIGIN, COUNTER_EVENT, timestamp, &bytes(10, &event))
}

/// An `Envelope` with an `Error`; its origin is the source (contract, section 18.2).
fn error_envelope(source: &str, code: u8, message: &str, timestamp: u64) -> Vec<u8> {
    let end = (0..=MAX_MESSAGE.min(message.len())).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
    let event = [bytes(1, source.as_bytes()), number(2, code.into()), bytes(3, &message.as_bytes()[..end])].concat();
    wrap(source, ERROR, timestamp, &bytes(11, &event))
}

fn wrap(origin: &str, kind: u64, timestamp: u64, event: &[u8]) -> Vec<u8> {
    [&bytes(1, origin.as_bytes()), &number(2, kind), &number(6, timestamp), event].concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number > 0x7f {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

fn key(field: u64, wire: u64) -> Vec<u8> {
    varint(field << 3 | wire)
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [key(field, 0), varint(value)].concat()
}

fn bytes(field: u64, data: &[u8]) -> Vec<u8> {
    [&key(field, 2), &varint(data.len() as u64), data].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lager::{Format, Sink};
    use std::path::Path;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// The example of the contract, section 18.1, seen on the wire of the original.
    #[test]
    fn bytes_of_the_original() {
        let expected =
            "0a0767726f6f74667310063080a094a58d1d4a260a144578636c75736976654c6f636b696e6754696d6511000000008061cc401a056e616e6f73";
        assert_eq!(envelope("ExclusiveLockingTime", 14531.0, "nanos", 1_000_000_000_000), hex(expected));
    }

    /// By hand from the contract's table of fields; nothing of the original shows them.
    #[test]
    fn bytes_of_a_counter_and_an_error() {
        let counter = "0a0767726f6f7466731007300152160a1267726f6f7466732d6372656174652e72756e1001";
        assert_eq!(counter_envelope("grootfs-create.run", 1, 1), hex(counter));
        let error = "0a1367726f6f7466732d6572726f722e7374617473100830015a1b0a1367726f6f7466732d6572726f722e737461747310011a026e6f";
        assert_eq!(error_envelope("grootfs-error.stats", 1, "no", 1), hex(error));
    }

    #[test]
    fn long_errors_fit_into_a_datagram() {
        let datagram = error_envelope("grootfs-error.create", 1, &"ü".repeat(100_000), 1);
        assert!((4096..5000).contains(&datagram.len()));
        // A character is not cut in two.
        let odd = error_envelope("s", 1, &format!("x{}", "ü".repeat(100_000)), 1);
        assert!(odd.ends_with("ü".as_bytes()));
    }

    fn agent() -> (UdpSocket, u16) {
        let agent = UdpSocket::bind("127.0.0.1:0").unwrap();
        agent.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let port = agent.local_addr().unwrap().port();
        (agent, port)
    }

    fn receive(agent: &UdpSocket) -> Vec<u8> {
        let mut datagram = vec![0; 2000];
        let length = agent.recv(&mut datagram).unwrap();
        datagram.truncate(length);
        datagram
    }

    fn holds(datagram: &[u8], part: &str) -> bool {
        datagram.windows(part.len()).any(|window| window == part.as_bytes())
    }

    fn nothing_comes(agent: &UdpSocket) -> bool {
        agent.set_nonblocking(true).unwrap();
        let nothing = agent.recv(&mut [0; 2000]).is_err();
        agent.set_nonblocking(false).unwrap();
        nothing
    }

    #[test]
    fn runs_and_errors() {
        let (agent, port) = agent();
        let metron = Metron::open(&format!("127.0.0.1:{port}"), &Logger::silent()).unwrap();
        for (command, code) in [("create", 0), ("list", 1), ("stats", 1)] {
            metron.began(command);
            metron.ended(command, code, "reason");
        }
        for name in ["create.run", "create.run.success", "stats.run", "stats.run.fail"] {
            let datagram = receive(&agent);
            assert!(datagram.starts_with(b"\x0a\x07grootfs\x10\x07") && datagram.ends_with(format!("grootfs-{name}\x10\x01").as_bytes()));
        }
        let error = receive(&agent);
        assert!(error.starts_with(b"\x0a\x13grootfs-error.stats\x10\x08") && error.ends_with(b"\x10\x01\x1a\x06reason"));
        assert!(nothing_comes(&agent));
    }

    #[test]
    fn a_name_is_looked_up_and_everything_is_sent_at_the_end() {
        let (agent, port) = agent();
        let metron = Metron::open(&format!("localhost:{port}"), &Logger::silent()).unwrap();
        metron.send("StoreUsage", 1.0, "bytes");
        metron.send("UnusedLayersSize", 2.0, "bytes");
        assert!(nothing_comes(&agent));
        metron.close();
        assert!(holds(&receive(&agent), "StoreUsage") && holds(&receive(&agent), "UnusedLayersSize"));
    }

    #[test]
    fn held_datagrams_wait_for_the_release() {
        let (agent, port) = agent();
        let metron = Metron::open(&format!("127.0.0.1:{port}"), &Logger::silent()).unwrap();
        metron.hold();
        metron.began("create");
        assert!(nothing_comes(&agent));
        metron.release();
        assert!(holds(&receive(&agent), "grootfs-create.run"));
    }

    fn logged(work: impl FnOnce(&Logger)) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        work(&Logger::new(Sink::open(&path, "error", Format::UnixEpoch).unwrap(), "test", Value::Null));
        std::fs::read_to_string(Path::new(&path)).unwrap()
    }

    #[test]
    fn names_that_cannot_be_resolved() {
        for host in ["no.such.host.invalid", &"x".repeat(300), "a..b", &"ü".repeat(70)] {
            let text = logged(|log| {
                let metron = Metron::open(&format!("{host}:3457"), log).unwrap();
                metron.send("StoreUsage", 1.0, "bytes");
                metron.close();
            });
            assert_eq!(text.matches("failed-to-initialize-metrics-emitter").count(), 1, "{host}: {text}");
        }
    }

    #[test]
    fn a_command_does_not_wait_for_a_name_server() {
        fn slow(_: &str, _: u16) -> io::Result<SocketAddr> {
            thread::sleep(Duration::from_mins(1));
            Err(io::ErrorKind::TimedOut.into())
        }
        let begun = std::time::Instant::now();
        let text = logged(|log| Metron::connect("slow.example.com", 3457, log, slow).unwrap().close());
        assert!(text.contains("was not resolved in time") && begun.elapsed() < Duration::from_secs(10), "{text}");
    }

    #[test]
    fn endpoints_that_make_no_sense() {
        for endpoint in ["localhost", ":1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "127.0.0.1:１", "127.0.0.1:+1"]
        {
            let text = logged(|log| assert!(Metron::open(endpoint, log).is_none()));
            assert!(text.contains("is not host:port"), "{endpoint}: {text}");
        }
    }

    #[test]
    fn nobody_there() {
        let metron = Metron::open("127.0.0.1:9", &Logger::silent()).unwrap();
        for _ in 0..3 {
            metron.send("StoreUsage", 1.0, "bytes");
        }
        metron.close();
    }
}
