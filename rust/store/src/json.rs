//! JSON as the original writes it.

use serde_json::Value;

/// Compact JSON, escaped as Go's encoder does it: `<`, `>`, `&` and the line separators of Unicode too.
#[must_use]
pub fn format(value: &Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text.push_str(&format!("\\u{:04x}", c as u32)),
            c => text.push(c),
        }
    }
    text
}

/// The strings of an array of strings; None for anything else.
#[must_use]
pub fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_go() {
        assert_eq!(format(&serde_json::json!({"a": "<&>\u{2028}"})), r#"{"a":"\u003c\u0026\u003e\u2028"}"#);
    }
}
