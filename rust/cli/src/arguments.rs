//! argv as Go programs take it: `-name`, `--name`, `--name=value`, `--name value` (contract, section 2).

use crate::call::Given;
use crate::failure::message;
use crate::options::{Flag, Form, SECRET};
use crate::settings::Value;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Why options cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// `--help` was given.
    HelpWanted,
    /// An option that there is not; its name.
    UnknownFlag(OsString),
    /// A value of the wrong form, or none; what is wrong.
    BadFlag(OsString),
}

/// Split arguments into given options and positional arguments.
///
/// With `stop_at_command` the first positional argument ends the options; else options may stand anywhere, as the original
/// allows. `--` ends them in any case.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    flags: &'static [Flag],
    stop_at_command: bool,
) -> Result<(Given, Vec<OsString>), Stop> {
    let mut given = Given::default();
    let mut positional = Vec::new();
    let mut rest = arguments.into_iter().enumerate();
    while let Some((at, argument)) = rest.next() {
        let bytes = argument.as_bytes();
        if bytes == b"--" {
            positional.extend(rest.map(|(_, argument)| argument));
            break;
        }
        if bytes.len() < 2 || bytes[0] != b'-' {
            positional.push(argument);
            if stop_at_command {
                positional.extend(rest.map(|(_, argument)| argument));
                break;
            }
            continue;
        }
        let option = bytes.strip_prefix(b"--").unwrap_or(&bytes[1..]);
        let (name, value) = match option.iter().position(|&byte| byte == b'=') {
            Some(equals) => (&option[..equals], Some(OsStr::from_bytes(&option[equals + 1..]))),
            None => (option, None),
        };
        if name == b"h" || name == b"help" {
            return Err(Stop::HelpWanted);
        }
        let Some(flag) = flags.iter().find(|flag| flag.name.as_bytes() == name) else {
            return Err(Stop::UnknownFlag(OsStr::from_bytes(name).to_owned()));
        };
        if flag.form == Form::Switch {
            given.put(flag.name, Value::Switch(value.map_or(Ok(true), |value| truth(flag, value))?));
            continue;
        }
        let (place, value) = match value {
            Some(value) => ((at, bytes.len() - value.len()), value.to_owned()),
            None => match rest.next() {
                Some((at, value)) => ((at, 0), value),
                None => return Err(Stop::BadFlag(format!("flag needs an argument: -{}", flag.name).into())),
            },
        };
        if flag.name == SECRET {
            given.secrets.push(place);
        }
        match flag.form {
            Form::Integer => given.put(flag.name, Value::Integer(number(flag, &value, size)?)),
            Form::Count => given.put(flag.name, Value::Integer(number(flag, &value, integer)?)),
            Form::List => given.append(flag.name, value),
            Form::Text | Form::Path | Form::Choice(_) | Form::Switch => given.put(flag.name, Value::Text(value)),
        }
    }
    Ok((given, positional))
}

fn truth(flag: &Flag, value: &OsStr) -> Result<bool, Stop> {
    match value.as_bytes() {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Ok(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Ok(false),
        _ => Err(Stop::BadFlag(message(["invalid boolean value \"".as_ref(), value, "\" for -".as_ref(), flag.name.as_ref()]))),
    }
}

fn number(flag: &Flag, value: &OsStr, read: fn(&str) -> Option<i64>) -> Result<i64, Stop> {
    value
        .to_str()
        .and_then(read)
        .ok_or_else(|| Stop::BadFlag(message(["invalid value \"".as_ref(), value, "\" for flag -".as_ref(), flag.name.as_ref()])))
}

/// A number of bytes, with a unit as `truncate --size` takes it: `10G` and `10GiB` are 10 * 1024^3, `10GB` is 10 * 1000^3.
pub fn size(text: &str) -> Option<i64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let mut letters = unit.chars();
    let power = letters.next().and_then(|letter| "KMGTP".find(letter.to_ascii_uppercase()));
    let base: i64 = match (power, letters.as_str()) {
        (Some(_), "" | "iB" | "ib") => 1024,
        (Some(_), "B" | "b") => 1000,
        _ => return integer(text),
    };
    number.parse::<i64>().ok()?.checked_mul(base.checked_pow(power? as u32 + 1)?)
}

/// Go's syntax: decimal, `0x`, `0o`, `0b`, a leading `0` for octal, single underscores between digits; 64 bits with sign.
fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (if text.starts_with('-') { "-" } else { "" }, digits),
        None => ("", text),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, digits),
        _ => (10, digits),
    };
    let split: Vec<&str> = digits.split('_').collect();
    // After a prefix an underscore may come first.
    let first_may_be_empty = usize::from(base == 16 || base == 2 || text.contains(['o', 'O']));
    if split
        .iter()
        .enumerate()
        .any(|(i, part)| !part.bytes().all(|byte| byte.is_ascii_alphanumeric()) || part.is_empty() && i >= first_may_be_empty)
    {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{}", split.concat()), base).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Given options and positional arguments.
    type Split = (Vec<(String, Value)>, Vec<String>);
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, Value)], &'a [&'a str]);

    fn split(argv: &[&str], stop_at_command: bool) -> Result<Split, Stop> {
        let (given, positional) = parse(argv.iter().map(OsString::from), crate::options::test_flags(), stop_at_command)?;
        let given = given.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
        Ok((given, positional.into_iter().map(|argument| argument.into_string().unwrap()).collect()))
    }

    fn text(value: &str) -> Value {
        Value::Text(value.into())
    }

    #[test]
    fn accepted() {
        let many = Value::List(vec!["a".into(), "b".into()]);
        let cases: [Case<'_>; 19] = [
            (&[], &[], &[]),
            (&["a", "b"], &[], &["a", "b"]),
            (&["--text", "v"], &[("text", text("v"))], &[]),
            (&["-text", "v"], &[("text", text("v"))], &[]),
            (&["--text=v=w"], &[("text", text("v=w"))], &[]),
            (&["-text="], &[("text", text(""))], &[]),
            (&["--text", "--yes"], &[("text", text("--yes"))], &[]),
            (&["--text", ""], &[("text", text(""))], &[]),
            (&["--text", "a", "--text", "b"], &[("text", text("b"))], &[]),
            (&["--yes", "v"], &[("yes", Value::Switch(true))], &["v"]),
            (&["--yes=false"], &[("yes", Value::Switch(false))], &[]),
            (&["--yes=T"], &[("yes", Value::Switch(true))], &[]),
            (&["--many", "a", "--many=b"], &[("many", many)], &[]),
            (&["a", "--yes", "b"], &[("yes", Value::Switch(true))], &["a", "b"]),
            (&["--", "--yes"], &[], &["--yes"]),
            (&["a", "--", "--yes", "--"], &[], &["a", "--yes", "--"]),
            (&["-"], &[], &["-"]),
            (&[""], &[], &[""]),
            (&["--count", "-5"], &[("count", Value::Integer(-5))], &[]),
        ];
        for (argv, given, positional) in cases {
            let given = given.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Vec<_>>();
            let positional = positional.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>();
            assert_eq!(split(argv, false), Ok((given, positional)), "{argv:?}");
        }
    }

    #[test]
    fn the_command_ends_the_global_options() {
        let (given, rest) = split(&["--yes", "create", "--text", "v"], true).unwrap();
        assert_eq!((given.len(), rest), (1, vec!["create".to_owned(), "--text".to_owned(), "v".to_owned()]));
        assert_eq!(split(&["--", "create", "--yes"], true).unwrap().1, ["create", "--yes"]);
    }

    #[test]
    fn refused() {
        for (argv, why) in [
            (&["--text"][..], "flag needs an argument: -text"),
            (&["--count", "x"], "invalid value \"x\" for flag -count"),
            (&["--yes=maybe"], "invalid boolean value \"maybe\" for -yes"),
            (&["--yes="], "invalid boolean value \"\" for -yes"),
            (&["--yes=TRue"], "invalid boolean value \"TRue\" for -yes"),
        ] {
            assert_eq!(split(argv, false), Err(Stop::BadFlag(why.into())));
        }
        for (argv, name) in [(&["--nope"][..], "nope"), (&["---yes"], "-yes"), (&["--=x"], "")] {
            assert_eq!(split(argv, false), Err(Stop::UnknownFlag(name.into())));
        }
        for argv in [&["-h"][..], &["--help"], &["x", "--help"], &["--yes", "-help"]] {
            assert_eq!(split(argv, false), Err(Stop::HelpWanted));
        }
    }

    #[test]
    fn bytes_that_are_no_text() {
        let odd = || OsStr::from_bytes(b"/\xff").to_owned();
        let (given, positional) = parse([OsString::from("--text"), odd(), odd()], crate::options::test_flags(), false).unwrap();
        assert_eq!((given.get("text"), positional), (Some(&Value::Text(odd())), vec![odd()]));
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("10", 10),
            ("010", 8),
            ("-5", -5),
            ("1K", 1024),
            ("1k", 1024),
            ("1KiB", 1024),
            ("1kB", 1000),
            ("20GiB", 20 << 30),
            ("20G", 20 << 30),
            ("20GB", 20_000_000_000),
            ("3TiB", 3 << 40),
            ("7P", 7 << 50),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "G", "1.5G", "-1G", "10X", "10 G", "10Gi", "10GiBs", "9000P", "1e3", "0x1G"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn integers() {
        for (text, number) in [
            ("0", 0),
            ("10", 10),
            ("+10", 10),
            ("-10", -10),
            ("0x1F", 31),
            ("-0x1f", -31),
            ("010", 8),
            ("-010", -8),
            ("0o17", 15),
            ("0b101", 5),
            ("00", 0),
            ("1_000", 1000),
            ("0x_ff", 255),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(integer(text), Some(number), "{text}");
        }
        for text in [
            "",
            "-",
            "+",
            "1.5",
            "1e3",
            "08",
            "0x",
            "--5",
            "+-5",
            "-+5",
            " 5",
            "5 ",
            "５",
            "9223372036854775808",
            "-9223372036854775809",
            "x10",
            "1__0",
            "1_",
            "_1",
            "0x-5",
            "0x+5",
            "0_",
        ] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_integer_of_64_bits(number: i64) {
            prop_assert_eq!(integer(&number.to_string()), Some(number));
            let sign = if number < 0 { "-" } else { "" };
            prop_assert_eq!(integer(&format!("{sign}{:#x}", number.unsigned_abs())), Some(number));
        }

        #[test]
        fn never_anything_but_a_refusal(argv: Vec<String>) {
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            if let Ok((given, positional)) = split(&argv, false) {
                prop_assert!(given.iter().all(|(name, _)| ["text", "count", "yes", "many"].contains(&name.as_str())));
                prop_assert!(positional.iter().all(|argument| argv.contains(&argument.as_str())));
            }
        }
    }
}
