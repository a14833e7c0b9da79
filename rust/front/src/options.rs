//! Which socket a call names: `--socket`, `GROOTFS_SOCKET`, or `socket:` in the configuration file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// As in the program: a larger file is refused there.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Global options that take no value; all others do.
const SWITCHES: [&[u8]; 4] = [b"h", b"help", b"v", b"version"];

/// The command that is never forwarded: it is the server.
const SERVE: &[u8] = b"serve";

/// The socket that `arguments`, the variable or the configuration file name, in this order.
pub fn find_socket(arguments: &[OsString], variable: Option<OsString>) -> Option<OsString> {
    let globals = Globals::scan(arguments);
    if globals.command.is_some_and(|command| command.as_bytes() == SERVE) {
        return None;
    }
    let given = |socket: &OsString| !socket.is_empty();
    globals.socket.filter(given).or(variable.filter(given)).or_else(|| globals.config.as_deref().and_then(socket_in_file)).filter(given)
}

/// What of the global options matters here. The last of several counts, as in the program.
#[derive(Debug, Default, PartialEq)]
struct Globals<'a> {
    socket: Option<OsString>,
    config: Option<OsString>,
    command: Option<&'a OsStr>,
}

impl<'a> Globals<'a> {
    /// Go's syntax: `-name value`, `--name=value`; the first other argument is the command.
    fn scan(arguments: &'a [OsString]) -> Self {
        let mut globals = Globals::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let bytes = argument.as_bytes();
            if bytes == b"--" {
                globals.command = rest.next().map(OsString::as_os_str);
                break;
            }
            if bytes.len() < 2 || bytes[0] != b'-' {
                globals.command = Some(argument);
                break;
            }
            let option = bytes.strip_prefix(b"--").unwrap_or(&bytes[1..]);
            let (name, value) = match option.iter().position(|&byte| byte == b'=') {
                Some(equals) => (&option[..equals], Some(OsString::from_vec(option[equals + 1..].to_vec()))),
                None if SWITCHES.contains(&option) => (option, None),
                None => (option, rest.next().cloned()),
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

fn socket_in_file(path: &OsStr) -> Option<OsString> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(MAX_CONFIG_BYTES).read_to_end(&mut text).ok()?;
    socket_in(&text)
}

/// The value of the top-level key `socket` where it is a plain or quoted scalar on its line. The program parses YAML; for
/// whatever else YAML could mean there, no server is asked.
fn socket_in(text: &[u8]) -> Option<OsString> {
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
    Some(OsString::from_vec(plain.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn socket_of(text: &str, variable: Option<&str>) -> Option<String> {
        find_socket(&words(text), variable.map(OsString::from)).map(|socket| socket.into_string().unwrap())
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
        let arguments = [OsString::from_vec(b"--socket=/\xff".to_vec()), OsString::from("list")];
        assert_eq!(find_socket(&arguments, None), Some(OsString::from_vec(b"/\xff".to_vec())));
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
            assert_eq!(socket_in(text.as_bytes()), expected.map(OsString::from), "{text}");
        }
    }
}
