//! Numeric header fields.

use crate::error::{Error, Result, printable};

/// An octal field, or GNU base-256 when the top bit of the first byte is set. May be negative (times).
pub(super) fn parse(field: &[u8], name: &str) -> Result<i64> {
    match field.first() {
        Some(&first) if first & 0x80 != 0 => parse_binary(field, name),
        _ => parse_octal(field, name),
    }
}

/// As `parse`, for fields that cannot be negative.
pub(super) fn parse_unsigned(field: &[u8], name: &str) -> Result<u64> {
    u64::try_from(parse(field, name)?).map_err(|_| Error::layer(format!("tar header: negative {name}")))
}

fn parse_octal(field: &[u8], name: &str) -> Result<i64> {
    // Blanks, digits, then nothing but blanks and NULs: what stands after a NUL is read by some and not by others.
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|&b| matches!(b, b' ' | 0)).unwrap_or(digits.len());
    let (digits, padding) = digits.split_at(end);
    let valid = digits.iter().all(|b| matches!(b, b'0'..=b'7')) && padding.iter().all(|&b| matches!(b, b' ' | 0));
    if !valid {
        return Err(Error::layer(format!("tar header: {name} is not a number: `{}`", printable(field))));
    }
    // At most 12 digits of 3 bits: no overflow.
    Ok(digits.iter().fold(0, |value, digit| value << 3 | i64::from(digit - b'0')))
}

fn parse_binary(field: &[u8], name: &str) -> Result<i64> {
    let negative = field[0] & 0x40 != 0;
    let fill = if negative { 0xff } else { 0 };
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let too_large = || Error::layer(format!("tar header: {name} is out of range"));
    let mut bytes = [fill; 8];
    for (i, byte) in std::iter::once(first).chain(field[1..].iter().copied()).rev().enumerate() {
        match bytes.len().checked_sub(i + 1) {
            Some(at) => bytes[at] = byte,
            None if byte == fill => {}
            None => return Err(too_large()),
        }
    }
    let value = i64::from_be_bytes(bytes);
    if (value < 0) == negative { Ok(value) } else { Err(too_large()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn octal_fields() {
        for (field, value) in [(b"0000644\0", 0o644), (b"   644 \0", 0o644), (b"\0\0\0\0\0\0\0\0", 0), (b"77777777", 0o7777_7777)] {
            assert_eq!(parse(field, "mode").unwrap(), value);
        }
        for field in [b"0000648\0", b"-0000001", b"1 2\0\0\0\0\0", b"0x1f\0\0\0\0", b"\x00000005\0", b"1\x002\0\0\0\0\0"] {
            parse(field, "mode").unwrap_err();
        }
    }

    #[test]
    fn binary_fields() {
        assert_eq!(parse(b"\x80\0\0\0\xb2\xd0\x5e\0", "uid").unwrap(), 3_000_000_000);
        assert_eq!(parse(&[0xff; 12], "mtime").unwrap(), -1);
        parse_unsigned(&[0xff; 12], "size").unwrap_err();
        parse(b"\x80\0\0\x01\0\0\0\0\0\0\0\0", "size").unwrap_err(); // 2^64
        parse(b"\x80\0\0\0\x80\0\0\0\0\0\0\0", "size").unwrap_err(); // 2^63
    }

    proptest! {
        #[test]
        fn binary_round_trip(value: i64) {
            let mut field = [if value < 0 { 0xff } else { 0 }; 12];
            field[4..].copy_from_slice(&value.to_be_bytes());
            field[0] |= 0x80;
            prop_assert_eq!(parse(&field, "x").unwrap(), value);
        }

        #[test]
        fn never_panics(field in proptest::collection::vec(any::<u8>(), 1..13)) {
            let _ = parse(&field, "x");
        }
    }
}
