//! Which socket a call names: `--socket`, `GROOTFS_SOCKET`, or `socket:` in the configuration file.

use core::ffi::CStr;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Result, read};
use rustix::net::SocketAddrUnix;

/// As in the program: a larger file is refused there.
const MAX_CONFIG_BYTES: usize = 1 << 20;

/// Global options that take no value; all others do.
const SWITCHES: [&[u8]; 4] = [b"h", b"help", b"v", b"version"];

/// The command that is never forwarded: it is the server.
const SERVE: &[u8] = b"serve";

/// The socket that `arguments`, the variable or the configuration file name, in this order. `memory` is overwritten.
pub fn find_socket<'a>(arguments: impl Iterator<Item = &'a CStr>, variable: Option<&'a CStr>, memory: &mut [u8]) -> Option<SocketAddrUnix> {
    let globals = Globals::scan(arguments);
    if globals.command.is_some_and(|command| command.to_bytes() == SERVE) {
        return None;
    }
    let given = |path: &&CStr| !path.is_empty();
    let path = match (globals.socket.filter(given).or(variable.filter(given)), globals.config) {
        (Some(path), _) => path.to_bytes(),
        (None, Some(config)) => socket_in(read_file(config, memory).ok()?)?,
        (None, None) => return None,
    };
    // One that is too long for an address has no server, and neither has none.
    SocketAddrUnix::new(path).ok().filter(|_| !path.is_empty())
}

/// What of the global options matters here. The last of several counts, as in the program.
#[derive(Debug, Default, PartialEq)]
struct Globals<'a> {
    socket: Option<&'a CStr>,
    config: Option<&'a CStr>,
    command: Option<&'a CStr>,
}

impl<'a> Globals<'a> {
    /// Go's syntax: `-name value`, `--name=value`; the first other argument is the command.
    fn scan(mut arguments: impl Iterator<Item = &'a CStr>) -> Self {
        let mut globals = Globals::default();
        while let Some(argument) = arguments.next() {
            let bytes = argument.to_bytes_with_nul();
            if bytes == b"--\0" {
                globals.command = arguments.next();
                break;
            }
            if bytes.len() < 3 || bytes[0] != b'-' {
                globals.command = Some(argument);
                break;
            }
            let option = bytes.strip_prefix(b"--").unwrap_or(&bytes[1..]);
            let (name, value) = if let Some(equals) = option.iter().position(|&byte| byte == b'=') {
                (&option[..equals], CStr::from_bytes_with_nul(&option[equals + 1..]).ok())
            } else {
                let name = &option[..option.len() - 1];
                (name, if SWITCHES.contains(&name) { None } else { arguments.next() })
            };
            match name {
                b"socket" => globals.socket = value,
                b"config" => globals.config = value,
                _ => {}
            }
        }
        globals
    }
}

/// The beginning of a file: as much of it as counts.
fn read_file<'a>(path: &CStr, memory: &'a mut [u8]) -> Result<&'a [u8]> {
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let end = memory.len().min(MAX_CONFIG_BYTES);
    let mut length = 0;
    while length < end {
        match read(&file, &mut memory[length..end])? {
            0 => break,
            count => length += count,
        }
    }
    Ok(&memory[..length])
}

/// The value of the top-level key `socket` where it is a plain or quoted scalar on its line. The program parses YAML; for
/// whatever else YAML could mean there, no server is asked.
fn socket_in(text: &[u8]) -> Option<&[u8]> {
    let value = text.split(|&byte| byte == b'\n').rev().find_map(|line| line.strip_prefix(b"socket:"))?;
    if !value.first().is_none_or(u8::is_ascii_whitespace) {
        return None;
    }
    let value = value.trim_ascii();
    let plain = match value.first()? {
        quote @ (b'"' | b'\'') => {
            let rest = &value[1..];
            let end = rest.iter().position(|byte| byte == quote)?;
            let behind = rest[end + 1..].trim_ascii();
            if !(behind.is_empty() || behind[0] == b'#') || rest[..end].contains(&b'\\') {
                return None;
            }
            &rest[..end]
        }
        b'/' | b'.' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => {
            let end = value.windows(2).position(|pair| pair[0].is_ascii_whitespace() && pair[1] == b'#').unwrap_or(value.len());
            value[..end].trim_ascii_end()
        }
        _ => return None,
    };
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;

    fn socket_of(text: &str, variable: Option<&str>) -> Option<String> {
        let words: Vec<_> = text.split_whitespace().map(|word| CString::new(word).unwrap()).collect();
        let variable = variable.map(|value| CString::new(value).unwrap());
        let socket = find_socket(words.iter().map(CString::as_c_str), variable.as_deref(), &mut [0; 4096])?;
        Some(str::from_utf8(socket.path_bytes().unwrap()).unwrap().to_owned())
    }

    #[test]
    fn options_come_before_the_command() {
        for (text, expected) in [
            ("--socket /s list", Some("/s")),
            ("-socket /s list", Some("/s")),
            ("--socket=/s list", Some("/s")),
            ("--store /x --socket /s create a b", Some("/s")),
            ("--socket /a --socket /b list", Some("/b")),
            ("--socket /s", Some("/s")),
            ("list --socket /s", None),
            ("-- list --socket /s", None),
            // The value of another option is not an option.
            ("--store --socket list /s", None),
            ("--version --socket /s", Some("/s")),
            ("--socket", None),
            ("--socket= list", None),
            ("- --socket /s", None),
            ("", None),
        ] {
            assert_eq!(socket_of(text, None).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn the_option_comes_before_the_variable() {
        assert_eq!(socket_of("list", Some("/v")).as_deref(), Some("/v"));
        assert_eq!(socket_of("--socket /s list", Some("/v")).as_deref(), Some("/s"));
        assert_eq!(socket_of("--socket= list", Some("/v")).as_deref(), Some("/v"));
        assert_eq!(socket_of("list", Some("")), None);
    }

    #[test]
    fn the_server_is_never_forwarded() {
        assert_eq!(socket_of("--socket /s serve", None), None);
        assert_eq!(socket_of("serve", Some("/v")), None);
        assert_eq!(socket_of("--store serve list", Some("/v")).as_deref(), Some("/v"));
    }

    #[test]
    fn bytes_that_are_no_text() {
        let socket = find_socket([c"--socket=/\xff", c"list"].into_iter(), None, &mut []).unwrap();
        assert_eq!(socket.path_bytes(), Some(&b"/\xff"[..]));
    }

    #[test]
    fn the_configuration_file_is_the_last_resort() {
        let path = std::env::temp_dir().join(format!("grootfs-front-{}.yml", std::process::id()));
        std::fs::write(&path, "store: /x\nsocket: /from/file\n").unwrap();
        let text = format!("--config {} list", path.display());
        assert_eq!(socket_of(&text, None).as_deref(), Some("/from/file"));
        assert_eq!(socket_of(&text, Some("/v")).as_deref(), Some("/v"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(socket_of(&text, None), None);
    }

    #[test]
    fn scalars_of_yaml() {
        for (text, expected) in [
            ("socket: /a", Some("/a")),
            ("socket:   /a/b c  # why", Some("/a/b c")),
            ("socket: \"/a b\" # why", Some("/a b")),
            ("socket: '/a#b'", Some("/a#b")),
            ("socket: /a#b\r", Some("/a#b")),
            ("create:\n  socket: /a", None),
            ("sockets: /a", None),
            ("socket:/a", None),
            ("socket:", None),
            ("socket: ~", None),
            ("socket: |\n  /a", None),
            ("socket: &x /a", None),
            ("socket: \"/a\\n\"", None),
            ("socket: '/a' b", None),
            ("# socket: /a", None),
        ] {
            assert_eq!(socket_in(text.as_bytes()), expected.map(str::as_bytes), "{text}");
        }
    }
}
