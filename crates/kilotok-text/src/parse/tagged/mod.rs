//! `<think>` and `<tool_call>` markup: MiMo, Qwen, Hermes and the demo checkpoint.
//!
//! One character at a time, so how the text was cut cannot matter. Text that may be markup is held
//! until that is decided; if it is not, its first character is text and the rest is read again.

mod call;
mod function;
mod json_call;

use self::call::{Call, Progress, Said};
use super::delta::Deltas;
use super::{
    Channel, Delta, MAX_SPACE_BYTES, OutputParser, ParserOptions, ReasoningState, TagLayout,
};

const THINK: &str = "<think>";
const END_THINK: &str = "</think>";
const TOOL_CALL: &str = "<tool_call>";

/// Parser of one message with tags.
pub(super) struct TaggedParser {
    layout: TagLayout,
    options: ParserOptions,
    channel: Channel,
    /// What the text at hand follows.
    after: After,
    /// Newlines of the format that may still follow the last tag.
    newlines_due: u8,
    /// Whitespace that is text, or the format's if a tag follows.
    space: String,
    /// A tag's beginning.
    tag: String,
    call: Option<Call>,
    /// Number of the next call.
    next_call: usize,
    /// Characters to be read again, last first.
    again: Vec<char>,
    out: Deltas,
}

/// What came before the present text, ignoring whitespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// The prompt, and the model may open its thinking.
    Turn,
    /// A tag of the thinking.
    Think,
    /// A tool call.
    Call,
    Text,
}

impl TaggedParser {
    pub(super) fn new(layout: TagLayout, state: ReasoningState, options: ParserOptions) -> Self {
        let (channel, after) = match state {
            ReasoningState::Inside => (Channel::Reasoning, After::Turn),
            ReasoningState::Closed | ReasoningState::Undecided => (Channel::Content, After::Turn),
        };
        Self {
            layout,
            options,
            channel,
            after,
            newlines_due: 0,
            space: String::new(),
            tag: String::new(),
            call: None,
            next_call: 0,
            again: Vec::new(),
            out: Deltas::default(),
        }
    }

    fn read(&mut self, c: char) {
        self.again.push(c);
        self.read_again();
    }

    fn read_again(&mut self) {
        while let Some(c) = self.again.pop() {
            if self.call.is_some() {
                self.in_call(c);
            } else if self.tag.is_empty() {
                self.in_text(c);
            } else {
                self.in_tag(c);
            }
        }
    }

    fn in_text(&mut self, c: char) {
        if c == '\n' && self.newlines_due > 0 {
            self.newlines_due -= 1;
            return;
        }
        self.newlines_due = 0;
        if c == '<' {
            self.tag.push(c);
        } else if c.is_ascii_whitespace() && self.space.len() < MAX_SPACE_BYTES {
            self.space.push(c);
        } else {
            self.show(c.encode_utf8(&mut [0; 4]));
        }
    }

    fn in_tag(&mut self, c: char) {
        self.tag.push(c);
        let open = [
            (THINK, self.may_open_thinking()),
            (END_THINK, self.channel == Channel::Reasoning),
            (TOOL_CALL, self.options.tool_calls),
        ];
        let mut matches =
            open.iter().filter(|(tag, allowed)| *allowed && tag.starts_with(&self.tag));
        match matches.next() {
            None => {
                self.tag.pop();
                let text = std::mem::take(&mut self.tag);
                self.show(&text);
                self.again.push(c);
            }
            Some((tag, _)) if *tag == self.tag => {
                self.tag.clear();
                match *tag {
                    TOOL_CALL => self.call = Some(Call::new(self.layout)),
                    THINK => self.open_thinking(),
                    _ => self.close_thinking(),
                }
            }
            Some(_) => {}
        }
    }

    /// A tag that opens the thinking stands where nothing but whitespace has come: elsewhere it
    /// is talk about the tag.
    fn may_open_thinking(&self) -> bool {
        match self.channel {
            Channel::Content => self.after != After::Text,
            Channel::Reasoning => self.after == After::Turn,
        }
    }

    fn open_thinking(&mut self) {
        self.space.clear();
        self.channel = Channel::Reasoning;
        self.after = After::Think;
        self.newlines_due = self.layout.newlines_in_thinking;
    }

    fn close_thinking(&mut self) {
        for _ in 0..self.layout.newlines_in_thinking {
            if self.space.ends_with('\n') {
                self.space.pop();
            }
        }
        self.flush_space();
        self.channel = Channel::Content;
        self.after = After::Think;
        self.newlines_due = self.layout.newlines_after_thinking;
    }

    fn in_call(&mut self, c: char) {
        let Some(call) = &mut self.call else { return };
        let mut said = Said::default();
        let progress = call.push(c, &self.options.tools, &mut said);
        if let Some(name) = said.name {
            self.announce(name);
        }
        let index = self.next_call;
        self.out.arguments(index, &said.arguments);
        match progress {
            Progress::More => {}
            Progress::Complete => {
                self.out.push(Delta::ToolCallEnd { index });
                self.next_call += 1;
                self.after = After::Call;
            }
            Progress::Closed => self.call = None,
            Progress::Wrong => {
                self.again.push(c);
                self.give_up_call();
            }
        }
    }

    fn announce(&mut self, name: String) {
        let Some(call) = &self.call else { return };
        if self.after != After::Text {
            self.space.clear();
        } else if call.wrapped && self.space.ends_with('\n') {
            self.space.pop();
        }
        self.flush_space();
        let index = self.next_call;
        let id = format!("{}{index}", self.options.call_id_prefix);
        self.out.push(Delta::ToolCallStart { index, id, name });
    }

    /// What was taken for a call, or for what follows one, is not.
    fn give_up_call(&mut self) {
        let Some(call) = self.call.take() else { return };
        if call.announced {
            let (index, markup, channel) = (self.next_call, call.markup, self.channel);
            self.out.push(Delta::ToolCallBroken { index, markup, channel });
            self.next_call += 1;
            self.after = After::Text;
            return;
        }
        let is_behind = call.is_behind();
        let mut text = call.markup.chars();
        // `<tool_call>` must not be tried again; what follows a complete call may be anything.
        if !is_behind {
            if let Some(first) = text.next() {
                self.show(first.encode_utf8(&mut [0; 4]));
            }
        }
        self.again.extend(text.rev());
    }

    fn show(&mut self, text: &str) {
        self.flush_space();
        self.out.text(self.channel, text);
        self.after = After::Text;
    }

    fn flush_space(&mut self) {
        self.out.text(self.channel, &self.space);
        self.space.clear();
    }
}

impl OutputParser for TaggedParser {
    fn push(&mut self, text: &str) -> Vec<Delta> {
        text.chars().for_each(|c| self.read(c));
        self.out.take()
    }

    fn finish(&mut self) -> Vec<Delta> {
        while self.call.is_some() {
            self.give_up_call();
            self.read_again();
        }
        if !self.tag.is_empty() {
            let text = std::mem::take(&mut self.tag);
            self.show(&text);
        }
        if self.after == After::Call {
            self.space.clear();
        }
        self.flush_space();
        self.out.take()
    }

    fn held_bytes(&self) -> usize {
        self.space.len() + self.tag.len() + self.call.as_ref().map_or(0, Call::held_bytes)
    }
}
