//! `str()` and `repr()` of template values, as Python writes them.

use std::fmt::Write as _;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::environment::float_of;
use super::number::float_repr;

/// Nesting that is followed; Python's own limit is of this order.
const MAX_DEPTH: usize = 200;

/// What `{{ value }}` and the filter `string` print.
pub(super) fn python_str(state: &State, value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::Number => {
            let mut out = String::new();
            write_repr(state, value, 0, &mut out)?;
            Ok(out)
        }
        _ => Ok(value.to_string()),
    }
}

fn write_repr(state: &State, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        let reason = format!("a value nested deeper than {MAX_DEPTH} cannot be printed");
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    // Values may share their parts, so what is printed can be far larger than what exists.
    state.consume_fuel(1)?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Number => match float_of(value) {
            Some(float) => out.push_str(&float_repr(float)),
            None => out.push_str(&value.to_string()),
        },
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            state.consume_fuel(text.len() as u64 / 64)?;
            write_string(text, out);
        }
        ValueKind::Seq => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                out.push_str(if count > 0 { ", " } else { "" });
                write_repr(state, &item?, depth + 1, out)?;
                count += 1;
            }
            out.push_str(if value.is_tuple() && count == 1 { "," } else { "" });
            out.push(close);
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(state, &key, depth + 1, out)?;
                out.push_str(": ");
                write_repr(state, &value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// Single quotes, unless that would need escaping and double quotes would not.
fn write_string(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == '\\' || c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            // Writing to a string cannot fail.
            c if c <= '\u{FF}' => drop(write!(out, "\\x{:02x}", c as u32)),
            c if c <= '\u{FFFF}' => drop(write!(out, "\\u{:04x}", c as u32)),
            c => drop(write!(out, "\\U{:08x}", c as u32)),
        }
    }
    out.push(quote);
}

/// `str.isprintable`: no control, format, surrogate, private, unassigned or separator character
/// but the space. The standard library escapes just these where it stands after a letter.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    let mut after_letter = [b'a', 0, 0, 0, 0];
    let width = c.encode_utf8(&mut after_letter[1..]).len();
    let text = std::str::from_utf8(&after_letter[..=width]).unwrap_or_default();
    text.escape_debug().nth(1) == Some(c)
}

#[cfg(test)]
mod tests {
    use super::write_string;

    #[test]
    fn strings_read_as_in_python() {
        // Reference: Python's repr().
        let expected = [
            ("it's", "\"it's\""),
            ("say \"it's\"", "'say \"it\\'s\"'"),
            ("a\\b\u{7f}\u{85}\u{a0}\u{ad}", "'a\\\\b\\x7f\\x85\\xa0\\xad'"),
            ("\u{200b}\u{2028}\u{3000}\u{feff}", "'\\u200b\\u2028\\u3000\\ufeff'"),
            ("é漢🙂e\u{301}\u{fe0f}", "'é漢🙂e\u{301}\u{fe0f}'"),
            ("\u{e0001}\u{e000}\u{10ffff}", "'\\U000e0001\\ue000\\U0010ffff'"),
        ];
        for (text, repr) in expected {
            let mut out = String::new();
            write_string(text, &mut out);
            assert_eq!(out, repr);
        }
    }
}
