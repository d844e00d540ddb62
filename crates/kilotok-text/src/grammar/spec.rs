//! What a request may ask its output to be.

use std::fmt::Write as _;

use llguidance::regex_to_lark;
use serde_json::{Value, json};

/// Bytes of a schema (as JSON text), or of all choices together.
pub const MAX_GRAMMAR_BYTES: usize = 256 << 10;
/// Bytes of a regular expression.
pub const MAX_REGEX_BYTES: usize = 16 << 10;
/// Bytes of a grammar.
pub const MAX_LARK_BYTES: usize = 64 << 10;
/// Lines of a grammar: a rule needs one, and rules that refer to each other are followed one
/// inside of the other.
const MAX_LARK_LINES: usize = 2000;
/// Brackets of a grammar inside of each other.
const MAX_LARK_NESTING: usize = 200;
/// Number of choices.
pub const MAX_CHOICES: usize = 1024;

/// Whitespace that JSON may have between two of its parts: any layout, but not without end, which
/// models that have nothing left to say fall into.
const WHITESPACE: &str = r"[\x20\x0A\x0D\x09]{1,32}";

/// A rule for a whole answer.
#[derive(Debug, Clone, PartialEq)]
pub enum GrammarSpec {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema (draft 2020-12 or older) allows.
    JsonSchema(Value),
    /// Text that the whole of a regular expression matches, in the syntax of the Rust crate
    /// `regex` without look-around and back-references.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of a grammar in llguidance's dialect of Lark, from its rule `start`.
    Lark(String),
}

impl GrammarSpec {
    /// Checks sizes before any work is done.
    pub(crate) fn check(&self) -> Result<(), String> {
        let within = |what: &str, bytes: usize, most: usize| {
            if bytes <= most {
                Ok(())
            } else {
                Err(format!("{what} of {bytes} bytes, at most {most}"))
            }
        };
        match self {
            Self::JsonObject => Ok(()),
            Self::JsonSchema(schema) => {
                within("a schema", schema.to_string().len(), MAX_GRAMMAR_BYTES)
            }
            Self::Regex(regex) => within("an expression", regex.len(), MAX_REGEX_BYTES),
            Self::Lark(grammar) => {
                within("a grammar", grammar.len(), MAX_LARK_BYTES)?;
                let lines = grammar.lines().count();
                if lines > MAX_LARK_LINES {
                    return Err(format!("a grammar of {lines} lines, at most {MAX_LARK_LINES}"));
                }
                // Brackets in texts count as well, which matters to no grammar of good sense.
                if nesting(grammar) > MAX_LARK_NESTING {
                    return Err(format!("brackets nest deeper than {MAX_LARK_NESTING}"));
                }
                Ok(())
            }
            Self::Choice(choices) => {
                if choices.is_empty() || choices.len() > MAX_CHOICES {
                    let count = choices.len();
                    return Err(format!("{count} choices, expected 1 to {MAX_CHOICES}"));
                }
                if choices.iter().any(String::is_empty) {
                    return Err("a choice is empty".into());
                }
                within("choices", choices.iter().map(String::len).sum(), MAX_GRAMMAR_BYTES)
            }
        }
    }

    /// The body of a Lark rule that stands for it, and the grammar's own text where it has one.
    pub(crate) fn lark(&self) -> Result<String, String> {
        Ok(match self {
            Self::JsonObject => format!("start: {}", json_rule(&json!({ "type": "object" }))?),
            Self::JsonSchema(schema) => format!("start: {}", json_rule(schema)?),
            Self::Regex(regex) => format!("start: /{}/", regex_to_lark(regex, "")),
            Self::Choice(choices) => {
                let literals: Vec<String> = choices.iter().map(|choice| literal(choice)).collect();
                format!("start: {}", literals.join(" | "))
            }
            Self::Lark(grammar) => grammar.clone(),
        })
    }
}

/// Brackets that are open at once, at most.
fn nesting(text: &str) -> usize {
    let (mut depth, mut most) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        most = most.max(depth);
    }
    most
}

/// A Lark string that stands for exactly this text.
pub(super) fn literal(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' | '\x7f' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A Lark rule's body for JSON of a schema. Options that a schema brings along for the library
/// itself are not taken over: they could switch checks off.
pub(super) fn json_rule(schema: &Value) -> Result<String, String> {
    let mut schema = match schema {
        Value::Object(map) => map.clone(),
        Value::Bool(true) => serde_json::Map::new(),
        Value::Bool(false) => return Err("the schema `false` allows nothing".into()),
        _ => return Err("a schema is an object, `true` or `false`".into()),
    };
    schema.insert("x-guidance".into(), json!({ "whitespace_pattern": WHITESPACE }));
    Ok(format!("%json {}", Value::Object(schema)))
}

#[cfg(test)]
mod tests {
    use super::literal;

    #[test]
    fn texts_are_escaped_as_lark_reads_them() {
        assert_eq!(literal("a\"b\\c\n\u{1}/é"), "\"a\\\"b\\\\c\\n\\u0001/é\"");
    }
}
