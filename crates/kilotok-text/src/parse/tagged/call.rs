//! From `<tool_call>` to `</tool_call>`.

use super::super::json_scan::is_json_space;
use super::super::{MAX_CALL_BYTES, MAX_NAME_BYTES, MAX_SPACE_BYTES, TagLayout, ToolSchemas};
use super::TOOL_CALL;
use super::function::FunctionCall;
use super::json_call::JsonCall;

const FUNCTION: &str = "<function=";
const END_TOOL_CALL: &str = "</tool_call>";

/// What a character did to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    /// The call is complete; its closing tag may follow.
    Complete,
    /// The closing tag of a complete call has been read.
    Closed,
    /// The character has no place here and was not taken.
    Wrong,
}

/// What has become certain about a call.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The call's name: from here on it is a call.
    pub(super) name: Option<String>,
    /// More of the arguments.
    pub(super) arguments: String,
}

/// A call, or what may become one.
#[derive(Debug)]
pub(super) struct Call {
    /// Everything read of it.
    pub(super) markup: String,
    /// Its start has been reported.
    pub(super) announced: bool,
    /// The form with newlines around the parts of a call.
    pub(super) wrapped: bool,
    values_on_lines: bool,
    grammar: Grammar,
}

#[derive(Debug)]
enum Grammar {
    /// Behind `<tool_call>`, with the beginning of `<function=`.
    Open(String),
    Function(FunctionCall),
    Json(JsonCall),
    /// Behind a complete call, with the beginning of the next tag.
    Between {
        functions: bool,
        tag: String,
    },
}

impl Call {
    pub(super) fn new(layout: TagLayout) -> Self {
        Self {
            markup: TOOL_CALL.to_owned(),
            announced: false,
            wrapped: false,
            values_on_lines: layout.newlines_in_values,
            grammar: Grammar::Open(String::new()),
        }
    }

    /// The markup stands behind a complete call and before the closing tag.
    pub(super) fn is_behind(&self) -> bool {
        matches!(self.grammar, Grammar::Between { .. })
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.markup.len()
            + match &self.grammar {
                Grammar::Function(call) => call.held_bytes(),
                Grammar::Json(call) => call.held_bytes(),
                Grammar::Open(_) | Grammar::Between { .. } => 0,
            }
    }

    pub(super) fn push(&mut self, c: char, tools: &ToolSchemas, said: &mut Said) -> Progress {
        if self.markup.len() >= MAX_CALL_BYTES {
            return Progress::Wrong;
        }
        self.markup.push(c);
        let progress = match &mut self.grammar {
            Grammar::Open(_) => self.open(c),
            Grammar::Function(call) => call.push(c, tools, said),
            Grammar::Json(call) => call.push(c, &self.markup, said),
            Grammar::Between { .. } => self.between(c),
        };
        self.announced |= said.name.is_some();
        match progress {
            Progress::Wrong => {
                self.markup.pop();
            }
            Progress::Complete => {
                let functions = matches!(self.grammar, Grammar::Function(_));
                self.grammar = Grammar::Between { functions, tag: String::new() };
                self.markup.clear();
                self.announced = false;
            }
            Progress::More | Progress::Closed => {}
        }
        progress
    }

    fn open(&mut self, c: char) -> Progress {
        let Grammar::Open(tag) = &mut self.grammar else { return Progress::Wrong };
        if tag.is_empty() && c == '{' {
            self.grammar = Grammar::Json(JsonCall::new());
        } else if tag.is_empty() && is_json_space(c) {
            if self.markup.len() > TOOL_CALL.len() + MAX_SPACE_BYTES {
                return Progress::Wrong;
            }
            self.wrapped |= c == '\n';
        } else {
            tag.push(c);
            if !FUNCTION.starts_with(tag.as_str()) {
                return Progress::Wrong;
            }
            if tag == FUNCTION {
                self.grammar = Grammar::Function(FunctionCall::new(self.values_on_lines));
            }
        }
        Progress::More
    }

    fn between(&mut self, c: char) -> Progress {
        let Grammar::Between { functions, tag } = &mut self.grammar else { return Progress::Wrong };
        if tag.is_empty() && is_json_space(c) {
            let fits = self.markup.len() <= MAX_SPACE_BYTES;
            return if fits { Progress::More } else { Progress::Wrong };
        }
        tag.push(c);
        if tag == END_TOOL_CALL {
            Progress::Closed
        } else if *functions && tag == FUNCTION {
            FUNCTION.clone_into(&mut self.markup);
            self.grammar = Grammar::Function(FunctionCall::new(self.values_on_lines));
            Progress::More
        } else if END_TOOL_CALL.starts_with(tag.as_str())
            || (*functions && FUNCTION.starts_with(tag.as_str()))
        {
            Progress::More
        } else {
            Progress::Wrong
        }
    }
}

/// Whether `c` may stand in the name of a function or parameter that now has `len` bytes.
pub(super) fn is_name_char(c: char, len: usize) -> bool {
    len < MAX_NAME_BYTES && !c.is_whitespace() && !c.is_control() && !matches!(c, '<' | '>')
}
