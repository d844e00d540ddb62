//! Harmony markup (gpt-oss): messages in channels, tool calls by recipient.
//!
//! Special tokens are read as their text. A message in `analysis` is reasoning; in `commentary`,
//! `final` or no channel it is content; one with a recipient is a call of that tool if its body is
//! a JSON object. Whatever does not follow the format is text.

mod header;
mod tag;

use self::header::{Addressed, Header};
use self::tag::Tag;
use super::delta::Deltas;
use super::json_scan::{JsonScanner, is_json_space};
use super::{Channel, Delta, MAX_CALL_BYTES, OutputParser, ParserOptions};

const PROMPT_ROLE: &str = "<|start|>assistant";

/// Parser of the messages of one turn.
pub(super) struct HarmonyParser {
    options: ParserOptions,
    state: State,
    /// A tag's beginning.
    tag: String,
    /// Number of the next call.
    next_call: usize,
    out: Deltas,
}

#[derive(Debug)]
enum State {
    /// A message has ended.
    Between,
    /// In a header. If it is none, it is text of the channel.
    Header(Header, Channel),
    /// In a message.
    Body(Channel),
    Call(Call),
}

/// A message to a tool.
#[derive(Debug)]
struct Call {
    tool: String,
    /// Where the message belongs if it is no call.
    channel: Channel,
    /// Everything read of it, header and all.
    markup: String,
    json: JsonScanner,
    announced: bool,
}

impl HarmonyParser {
    /// `prompt`: the rendered prompt, which usually ends with `<|start|>assistant` and may already
    /// hold a part of the answer.
    pub(super) fn new(prompt: &str, options: ParserOptions) -> Self {
        let mut parser = Self {
            options,
            state: State::Between,
            tag: String::new(),
            next_call: 0,
            out: Deltas::default(),
        };
        let Some(at) = prompt.rfind(Tag::Start.text()) else { return parser };
        if let Some(begun) = prompt[at..].strip_prefix(PROMPT_ROLE) {
            parser.state = State::Header(Header::behind_role(), Channel::Content);
            begun.chars().for_each(|c| parser.read(c));
            // A tag that the prompt leaves open is no tag of the output, and a call that the
            // prompt began is not the output's to report.
            parser.end_tag_text();
            parser.out.take();
            parser.next_call = 0;
            match &mut parser.state {
                State::Header(header, _) => header.markup.clear(),
                State::Call(call) => parser.state = State::Body(call.channel),
                State::Between | State::Body(_) => {}
            }
        }
        parser
    }

    fn read(&mut self, c: char) {
        if self.tag.is_empty() && c != '<' {
            self.character(c);
            return;
        }
        self.tag.push(c);
        match Tag::beginning_with(&self.tag) {
            Some(tag) if tag.text() == self.tag => {
                self.tag.clear();
                self.markup(tag);
            }
            Some(_) => {}
            None => {
                self.tag.pop();
                self.end_tag_text();
                self.read(c);
            }
        }
    }

    /// What looked like a tag is text.
    fn end_tag_text(&mut self) {
        let text = std::mem::take(&mut self.tag);
        text.chars().for_each(|c| self.character(c));
    }

    fn character(&mut self, c: char) {
        match &mut self.state {
            State::Between => self.state = State::Body(Channel::Content),
            State::Header(header, _) => {
                if header.push(c) {
                    return;
                }
                self.header_is_text();
            }
            State::Call(_) => {
                if self.in_call(c) {
                    return;
                }
                self.leave_call();
            }
            State::Body(_) => {}
        }
        if let State::Body(channel) = self.state {
            self.out.text(channel, c.encode_utf8(&mut [0; 4]));
        }
    }

    fn markup(&mut self, tag: Tag) {
        match &mut self.state {
            State::Between => match tag {
                Tag::Start | Tag::Channel => {
                    self.state = State::Header(Header::begin(tag), Channel::Content);
                }
                _ => self.text(tag.text()),
            },
            State::Body(channel) => match tag {
                Tag::Start | Tag::Channel => {
                    self.state = State::Header(Header::begin(tag), *channel);
                }
                Tag::End | Tag::Return | Tag::Call => self.state = State::Between,
                Tag::Message | Tag::Constrain => self.text(tag.text()),
            },
            State::Header(header, _) => match tag {
                Tag::Channel | Tag::Constrain => {
                    if !header.tag(tag) {
                        self.header_is_text();
                        self.markup(tag);
                    }
                }
                Tag::Message => {
                    if let Some(addressed) = header.finish() {
                        self.begin_message(addressed);
                    } else {
                        self.header_is_text();
                        self.text(tag.text());
                    }
                }
                _ => {
                    self.header_is_text();
                    self.markup(tag);
                }
            },
            State::Call(call) => match tag {
                // In a JSON string, text that spells a tag is part of the string.
                _ if call.json.in_string() => self.text(tag.text()),
                Tag::End | Tag::Return | Tag::Call => {
                    self.end_call();
                    self.state = State::Between;
                }
                _ => {
                    self.leave_call();
                    self.markup(tag);
                }
            },
        }
    }

    fn text(&mut self, text: &str) {
        text.chars().for_each(|c| self.character(c));
    }

    fn header_is_text(&mut self) {
        if let State::Header(header, channel) = &mut self.state {
            let channel = *channel;
            self.out.text(channel, &header.markup);
            self.state = State::Body(channel);
        }
    }

    fn begin_message(&mut self, addressed: Addressed) {
        let State::Header(header, _) = &mut self.state else { return };
        let channel = addressed.channel;
        let Some(tool) = addressed.tool else {
            self.state = State::Body(channel);
            return;
        };
        let markup = std::mem::take(&mut header.markup);
        if self.options.tool_calls {
            let json = JsonScanner::new();
            self.state = State::Call(Call { tool, channel, markup, json, announced: false });
        } else {
            self.out.text(channel, &markup);
            self.state = State::Body(channel);
        }
    }

    /// Takes a character of a call's body; `false` when it has no place there.
    fn in_call(&mut self, c: char) -> bool {
        let State::Call(call) = &mut self.state else { return false };
        let fits = (call.announced || c == '{' || is_json_space(c))
            && call.markup.len() < MAX_CALL_BYTES
            && call.json.push(c);
        if !fits {
            return false;
        }
        call.markup.push(c);
        if c == '{' && !call.announced {
            self.announce();
        }
        let State::Call(call) = &self.state else { return false };
        if call.announced {
            self.out.arguments(self.next_call, c.encode_utf8(&mut [0; 4]));
        }
        true
    }

    fn announce(&mut self) {
        let State::Call(call) = &mut self.state else { return };
        call.announced = true;
        let index = self.next_call;
        let id = format!("{}{index}", self.options.call_id_prefix);
        self.out.push(Delta::ToolCallStart { index, id, name: call.tool.clone() });
    }

    /// The body of a call has ended: the call is complete, broken, or was none.
    fn end_call(&mut self) {
        let State::Call(call) = &mut self.state else { return };
        if !call.announced && call.json.at_start() {
            // No body at all: a call without arguments.
            self.announce();
            self.out.arguments(self.next_call, "{}");
        } else if !call.json.is_complete() {
            self.leave_call();
            return;
        }
        self.out.push(Delta::ToolCallEnd { index: self.next_call });
        self.next_call += 1;
    }

    /// Leaves a call for the text of its channel.
    fn leave_call(&mut self) {
        let State::Call(call) = &mut self.state else { return };
        let channel = call.channel;
        let index = self.next_call;
        if call.json.is_complete() {
            self.out.push(Delta::ToolCallEnd { index });
            self.next_call += 1;
        } else if call.announced {
            let markup = std::mem::take(&mut call.markup);
            self.out.push(Delta::ToolCallBroken { index, markup, channel });
            self.next_call += 1;
        } else {
            self.out.text(channel, &call.markup);
        }
        self.state = State::Body(channel);
    }
}

impl OutputParser for HarmonyParser {
    fn push(&mut self, text: &str) -> Vec<Delta> {
        text.chars().for_each(|c| self.read(c));
        self.out.take()
    }

    fn finish(&mut self) -> Vec<Delta> {
        self.end_tag_text();
        match &self.state {
            State::Header(..) => self.header_is_text(),
            State::Call(call) if call.json.is_complete() || call.announced => self.end_call(),
            State::Call(_) => self.leave_call(),
            State::Between | State::Body(_) => {}
        }
        self.state = State::Between;
        self.out.take()
    }

    fn held_bytes(&self) -> usize {
        self.tag.len()
            + match &self.state {
                State::Header(header, _) => header.markup.len(),
                State::Call(call) => call.markup.len(),
                State::Between | State::Body(_) => 0,
            }
    }
}
