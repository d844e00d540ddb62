//! A raw argument on its way to JSON.

use super::MAX_TYPED_VALUE_BYTES;
use super::json_scan::{JsonScanner, is_json_space};
use super::schema::TypeSet;

/// Python's spelling of constants, which templates write for values that are not text.
const PYTHON: [(&str, &str, TypeSet); 3] = [
    ("True", "true", TypeSet::BOOLEAN),
    ("False", "false", TypeSet::BOOLEAN),
    ("None", "null", TypeSet::NULL),
];

/// Turns a raw value, fed character by character, into JSON.
///
/// * Declared a string: a JSON string of exactly the characters written, streamed.
/// * Declared without `string`: the JSON text that is written, if it is one; else a string.
/// * Declared with `string` among others, or undeclared: the JSON text if it is one of an allowed
///   type other than a string; else a string. `"quoted"` keeps its quotes.
/// * `True`, `False` and `None` are JSON's `true`, `false` and `null` where those may stand.
///
/// A value that may be JSON is held back until it ends or turns out not to be.
#[derive(Debug)]
pub(super) struct ArgumentValue {
    types: TypeSet,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The opening quote has been written.
    Text,
    /// May be JSON, or a constant in Python's spelling.
    Open { held: String, json: Option<JsonScanner>, python: Option<PythonConstant> },
}

impl ArgumentValue {
    /// Begins a value; `out` takes the JSON.
    pub(super) fn begin(types: TypeSet, out: &mut String) -> Self {
        let state = if types == TypeSet::STRING {
            out.push('"');
            State::Text
        } else {
            State::Open {
                held: String::new(),
                json: Some(JsonScanner::new()),
                python: Some(PythonConstant::default()),
            }
        };
        Self { types, state }
    }

    pub(super) fn held_bytes(&self) -> usize {
        match &self.state {
            State::Text => 0,
            State::Open { held, .. } => held.len(),
        }
    }

    pub(super) fn push(&mut self, c: char, out: &mut String) {
        let State::Open { held, json, python } = &mut self.state else {
            escape_char(c, out);
            return;
        };
        held.push(c);
        let fits = |scanner: &mut JsonScanner| {
            let begins = scanner.at_start() && !is_json_space(c);
            (!begins || may_begin(c, self.types)) && scanner.push(c)
        };
        json.take_if(|scanner| !fits(scanner));
        python.take_if(|python| !python.push(c, self.types));
        if (json.is_none() && python.is_none()) || held.len() > MAX_TYPED_VALUE_BYTES {
            out.push('"');
            escape(held, out);
            self.state = State::Text;
        }
    }

    /// Ends the value.
    pub(super) fn finish(self, out: &mut String) {
        let State::Open { held, json, python } = self.state else {
            out.push('"');
            return;
        };
        if json.is_some_and(|json| json.is_complete()) {
            out.push_str(held.trim_matches(is_json_space));
        } else if let Some(constant) = python.and_then(|python| python.complete()) {
            out.push_str(constant);
        } else {
            out.push('"');
            escape(&held, out);
            out.push('"');
        }
    }
}

/// Whether a JSON text that begins with `c` may stand where `types` are declared.
fn may_begin(c: char, types: TypeSet) -> bool {
    !types.contains(TypeSet::STRING)
        || match c {
            '{' => types.contains(TypeSet::OBJECT),
            '[' => types.contains(TypeSet::ARRAY),
            't' | 'f' => types.contains(TypeSet::BOOLEAN),
            'n' => types.contains(TypeSet::NULL),
            '-' | '0'..='9' => types.contains(TypeSet::NUMBER),
            // A quoted string, where strings are written without quotes, has quotes in it.
            _ => false,
        }
}

/// One of Python's constants with whitespace around it, as far as it has been read.
#[derive(Debug, Default)]
struct PythonConstant {
    word: String,
    ended: bool,
}

impl PythonConstant {
    /// `false` when this is no constant of one of `types`.
    fn push(&mut self, c: char, types: TypeSet) -> bool {
        if is_json_space(c) {
            self.ended |= !self.word.is_empty();
        } else if self.ended {
            return false;
        } else {
            self.word.push(c);
        }
        let fits = |word: &str| {
            if self.ended { word == self.word } else { word.starts_with(self.word.as_str()) }
        };
        PYTHON.iter().any(|(python, _, kind)| types.contains(*kind) && fits(python))
    }

    fn complete(&self) -> Option<&'static str> {
        PYTHON.iter().find(|(python, _, _)| *python == self.word).map(|(_, json, _)| *json)
    }
}

/// Appends `text` as the inside of a JSON string.
pub(super) fn escape(text: &str, out: &mut String) {
    text.chars().for_each(|c| escape_char(c, out));
}

fn escape_char(c: char, out: &mut String) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\0'..='\x1f' => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.push_str("\\u00");
            out.push(HEX[c as usize >> 4] as char);
            out.push(HEX[c as usize & 15] as char);
        }
        c => out.push(c),
    }
}
