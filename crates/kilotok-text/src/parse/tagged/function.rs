//! `<function=NAME><parameter=ARG>VALUE</parameter></function>`: the MiMo and Qwen-Coder form.

use super::super::json_scan::is_json_space;
use super::super::value::{ArgumentValue, escape};
use super::super::{MAX_SPACE_BYTES, ToolSchemas};
use super::call::{Progress, Said, is_name_char};

const PARAMETER: &str = "<parameter=";
const END_PARAMETER: &str = "</parameter>";
const END_FUNCTION: &str = "</function>";

/// Reads a function and its parameters.
///
/// Values are raw: nothing is unescaped, and whatever is not the end of the value is part of it.
/// The end is a `</parameter>` that is followed, whitespace aside, by `</function>` or by another
/// `<parameter=NAME>`: so a value may talk about these tags.
#[derive(Debug)]
pub(super) struct FunctionCall {
    name: String,
    phase: Phase,
    /// The tag or the whitespace at hand.
    part: String,
    value: Option<Value>,
    values_on_lines: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Behind `<function=`.
    Name,
    /// Whitespace behind the function's tag.
    Gap,
    /// The first tag in the function.
    Element,
    /// Behind the first `<parameter=`.
    ParameterName,
    Value,
    /// In what may be `</parameter>`.
    Closing,
    /// Behind `</parameter>`.
    ClosedGap,
    /// In the tag behind `</parameter>`, which begins at this offset of `part`.
    Next(usize),
    /// Behind a `<parameter=` at `tag`; its name begins at `name`.
    NextName {
        tag: usize,
        name: usize,
    },
}

impl FunctionCall {
    /// Begins behind `<function=`. `values_on_lines`: as in
    /// [`TagLayout::newlines_in_values`](super::super::TagLayout::newlines_in_values).
    pub(super) fn new(values_on_lines: bool) -> Self {
        let name = String::new();
        Self { name, phase: Phase::Name, part: String::new(), value: None, values_on_lines }
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.name.len() + self.part.len() + self.value.as_ref().map_or(0, Value::held_bytes)
    }

    pub(super) fn push(&mut self, c: char, tools: &ToolSchemas, said: &mut Said) -> Progress {
        match self.phase {
            Phase::Name if c == '>' && !self.name.is_empty() => self.phase = Phase::Gap,
            Phase::Name if is_name_char(c, self.name.len()) => self.name.push(c),
            Phase::Gap if is_json_space(c) && self.part.len() < MAX_SPACE_BYTES => {
                self.part.push(c);
            }
            Phase::Gap if c == '<' => {
                self.part = c.to_string();
                self.phase = Phase::Element;
            }
            Phase::Element => {
                self.part.push(c);
                if self.part == END_FUNCTION {
                    said.name = Some(self.name.clone());
                    said.arguments.push_str("{}");
                    return Progress::Complete;
                }
                if self.part == PARAMETER {
                    self.part.clear();
                    self.phase = Phase::ParameterName;
                } else if !starts_one_of(&self.part, [END_FUNCTION, PARAMETER]) {
                    return Progress::Wrong;
                }
            }
            Phase::ParameterName if c == '>' && !self.part.is_empty() => {
                said.name = Some(self.name.clone());
                said.arguments.push('{');
                let name = std::mem::take(&mut self.part);
                self.begin_value(&name, tools, &mut said.arguments);
            }
            Phase::ParameterName if is_name_char(c, self.part.len()) => self.part.push(c),
            Phase::Name | Phase::Gap | Phase::ParameterName => return Progress::Wrong,
            Phase::Value
            | Phase::Closing
            | Phase::ClosedGap
            | Phase::Next(_)
            | Phase::NextName { .. } => {
                return self.in_value(c, tools, &mut said.arguments);
            }
        }
        Progress::More
    }

    fn begin_value(&mut self, name: &str, tools: &ToolSchemas, out: &mut String) {
        out.push('"');
        escape(name, out);
        out.push_str("\": ");
        let json = ArgumentValue::begin(tools.types(&self.name, name), out);
        self.value = Some(Value::new(json, self.values_on_lines));
        self.phase = Phase::Value;
    }

    fn end_value(&mut self, out: &mut String) {
        if let Some(value) = self.value.take() {
            value.finish(out);
        }
        self.part.clear();
    }

    fn in_value(&mut self, c: char, tools: &ToolSchemas, out: &mut String) -> Progress {
        match self.phase {
            Phase::Closing if END_PARAMETER[self.part.len()..].starts_with(c) => {
                self.part.push(c);
                if self.part == END_PARAMETER {
                    self.phase = Phase::ClosedGap;
                }
            }
            Phase::ClosedGap
                if is_json_space(c) && self.part.len() < END_PARAMETER.len() + MAX_SPACE_BYTES =>
            {
                self.part.push(c);
            }
            Phase::ClosedGap if c == '<' => {
                self.phase = Phase::Next(self.part.len());
                self.part.push(c);
            }
            Phase::Next(tag) => {
                self.part.push(c);
                if &self.part[tag..] == END_FUNCTION {
                    self.end_value(out);
                    out.push('}');
                    return Progress::Complete;
                }
                if &self.part[tag..] == PARAMETER {
                    self.phase = Phase::NextName { tag, name: self.part.len() };
                } else if !starts_one_of(&self.part[tag..], [END_FUNCTION, PARAMETER]) {
                    self.part.pop();
                    return self.reopen_value(tag, c, tools, out);
                }
            }
            Phase::NextName { name, .. } if c == '>' && self.part.len() > name => {
                let name = self.part.split_off(name);
                self.end_value(out);
                out.push_str(", ");
                self.begin_value(&name, tools, out);
            }
            Phase::NextName { name, .. } if is_name_char(c, self.part.len() - name) => {
                self.part.push(c);
            }
            Phase::NextName { tag, .. } => return self.reopen_value(tag, c, tools, out),
            Phase::Closing | Phase::ClosedGap => {
                return self.reopen_value(self.part.len(), c, tools, out);
            }
            _ if c == '<' => {
                self.part.push(c);
                self.phase = Phase::Closing;
            }
            _ => {
                if let Some(value) = &mut self.value {
                    value.push(c, out);
                }
            }
        }
        Progress::More
    }

    /// The value goes on: `part` up to `tag` belongs to it, and so does the rest unless it begins
    /// a new `</parameter>`. Then reads `c`.
    fn reopen_value(
        &mut self,
        tag: usize,
        c: char,
        tools: &ToolSchemas,
        out: &mut String,
    ) -> Progress {
        let mut part = std::mem::take(&mut self.part);
        let rest = part.split_off(tag);
        let closing = !rest.is_empty() && END_PARAMETER.starts_with(rest.as_str());
        if let Some(value) = &mut self.value {
            value.push_str(&part, out);
            if !closing {
                value.push_str(&rest, out);
            }
        }
        if closing {
            self.part = rest;
            self.phase = Phase::Closing;
        } else {
            self.phase = Phase::Value;
        }
        self.in_value(c, tools, out)
    }
}

fn starts_one_of(text: &str, tags: [&str; 2]) -> bool {
    tags.iter().any(|tag| tag.starts_with(text))
}

/// A value, with the newlines of the Qwen-Coder form taken off.
#[derive(Debug)]
struct Value {
    json: ArgumentValue,
    strips: bool,
    /// The format's newline may come.
    first: bool,
    /// A newline that is the format's if the value ends here.
    newline: bool,
}

impl Value {
    fn new(json: ArgumentValue, strips: bool) -> Self {
        Self { json, strips, first: strips, newline: false }
    }

    fn held_bytes(&self) -> usize {
        self.json.held_bytes() + usize::from(self.newline)
    }

    fn push_str(&mut self, text: &str, out: &mut String) {
        text.chars().for_each(|c| self.push(c, out));
    }

    fn push(&mut self, c: char, out: &mut String) {
        if std::mem::take(&mut self.first) && c == '\n' {
            return;
        }
        if std::mem::take(&mut self.newline) {
            self.json.push('\n', out);
        }
        if self.strips && c == '\n' {
            self.newline = true;
        } else {
            self.json.push(c, out);
        }
    }

    fn finish(self, out: &mut String) {
        self.json.finish(out);
    }
}
