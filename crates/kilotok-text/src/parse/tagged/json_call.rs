//! `{"name": ..., "arguments": {...}}`: the Hermes form.

use super::super::MAX_NAME_BYTES;
use super::super::json_scan::{JsonScanner, is_json_space};
use super::call::{Progress, Said};

/// Reads the object of a call.
///
/// Keys are `name` and `arguments` (or `parameters`) in any order; another key, or one twice, makes
/// it something else than a call. Arguments are streamed as they are written when the name came
/// first. They may be missing, `null`, or an object written into a JSON string, as models do.
#[derive(Debug)]
pub(super) struct JsonCall {
    scanner: JsonScanner,
    key: String,
    /// Where the present value begins in the markup.
    value_at: usize,
    field: Field,
    name: Option<String>,
    arguments: Arguments,
    announced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Arguments,
}

#[derive(Debug, PartialEq, Eq)]
enum Arguments {
    Missing,
    /// Being read, with the name still unknown or inside a JSON string.
    Open,
    /// Being passed on.
    Streaming,
    /// Read before the name.
    Held(String),
    Said,
}

impl JsonCall {
    /// Begins behind the opening brace.
    pub(super) fn new() -> Self {
        let mut scanner = JsonScanner::new();
        scanner.push('{');
        Self {
            scanner,
            key: String::new(),
            value_at: 0,
            field: Field::Name,
            name: None,
            arguments: Arguments::Missing,
            announced: false,
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.key.len() + if let Arguments::Held(text) = &self.arguments { text.len() } else { 0 }
    }

    /// `markup` ends with `c`.
    pub(super) fn push(&mut self, c: char, markup: &str, said: &mut Said) -> Progress {
        let at_top = self.scanner.depth() == 1;
        let was_key = self.scanner.in_key();
        let begins_value = at_top && self.scanner.expects_value() && !is_json_space(c);
        let was_string = self.scanner.in_string();
        if !self.scanner.push(c) {
            return Progress::Wrong;
        }
        let at_top_now = self.scanner.depth() == 1;
        if at_top_now && self.scanner.in_key() {
            if was_key { self.key.push(c) } else { self.key.clear() }
        }
        let fits = if begins_value {
            self.value_at = markup.len() - c.len_utf8();
            self.begin_value(c)
        } else if at_top && was_string && !was_key && !self.scanner.in_string() {
            self.end_string(&markup[self.value_at..])
        } else if !at_top && at_top_now && self.arguments == Arguments::Open {
            self.arguments = Arguments::Held(markup[self.value_at..].to_owned());
            true
        } else {
            true
        };
        if !fits {
            return Progress::Wrong;
        }
        self.say(c, said)
    }

    /// `false` when a value that begins with `c` has no place here.
    fn begin_value(&mut self, c: char) -> bool {
        self.field = match self.key.as_str() {
            "name" if self.name.is_none() && c == '"' => Field::Name,
            "arguments" | "parameters" if self.arguments == Arguments::Missing => {
                self.arguments = match c {
                    '{' if self.name.is_some() => Arguments::Streaming,
                    '{' | '"' => Arguments::Open,
                    'n' => Arguments::Held("{}".to_owned()),
                    _ => return false,
                };
                Field::Arguments
            }
            _ => return false,
        };
        true
    }

    fn end_string(&mut self, literal: &str) -> bool {
        let Ok(text) = serde_json::from_str::<String>(literal) else { return false };
        match self.field {
            Field::Name => {
                let valid = !text.is_empty()
                    && text.len() <= MAX_NAME_BYTES
                    && !text.chars().any(char::is_control);
                self.name = Some(text);
                valid
            }
            Field::Arguments => {
                let mut scanner = JsonScanner::new();
                let object = text.trim_start().starts_with('{');
                let valid =
                    object && text.chars().all(|c| scanner.push(c)) && scanner.is_complete();
                self.arguments = Arguments::Held(text);
                valid
            }
        }
    }

    /// Passes on what is certain after `c`.
    fn say(&mut self, c: char, said: &mut Said) -> Progress {
        let complete = self.scanner.is_complete();
        if complete && self.arguments == Arguments::Missing {
            self.arguments = Arguments::Held("{}".to_owned());
        }
        let known = matches!(self.arguments, Arguments::Streaming | Arguments::Held(_));
        if let Some(name) = self.name.as_ref().filter(|_| known && !self.announced) {
            said.name = Some(name.clone());
            self.announced = true;
        }
        match &self.arguments {
            Arguments::Streaming => {
                said.arguments.push(c);
                if self.scanner.depth() == 1 {
                    self.arguments = Arguments::Said;
                }
            }
            Arguments::Held(text) if self.announced => {
                said.arguments.push_str(text);
                self.arguments = Arguments::Said;
            }
            _ => {}
        }
        match (complete, self.announced) {
            (false, _) => Progress::More,
            (true, true) => Progress::Complete,
            (true, false) => Progress::Wrong,
        }
    }
}
