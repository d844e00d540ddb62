//! From generated text to reasoning, content and tool calls, while it streams.
//!
//! A parser is a total function. Whatever the model writes, it never fails and never panics, and
//! no character is lost: text that is not the format's markup appears in a delta, and markup that
//! is malformed or cut off appears as text. The deltas do not depend on how the text was cut into
//! pieces (adjacent deltas of one kind may be merged differently), time is linear in the text and
//! memory is bounded (see [`OutputParser::held_bytes`]).

mod delta;
mod format;
mod harmony;
mod json_scan;
mod message;
mod plain;
mod reasoning;
mod schema;
mod tagged;
mod value;

pub use self::delta::{Channel, Delta};
pub use self::format::{Format, TagLayout};
pub use self::message::{ParsedMessage, ToolCall};
pub use self::reasoning::ReasoningState;
pub use self::schema::ToolSchemas;

/// Longest markup of one tool call, in bytes. A longer one is text.
pub const MAX_CALL_BYTES: usize = 4 << 20;
/// Longest argument that is held back to find out whether it is JSON. A longer one is a string.
pub const MAX_TYPED_VALUE_BYTES: usize = 1 << 20;
/// Longest name of a tool or of a parameter, in bytes. A longer one is no name.
const MAX_NAME_BYTES: usize = 256;
/// Longest run of whitespace, in bytes, that may be the format's own and not text.
const MAX_SPACE_BYTES: usize = 256;

/// What a request says about the parsing of its output.
#[derive(Debug, Clone)]
pub struct ParserOptions {
    /// Recognise tool calls; else their markup is text (`tool_choice: none`, no tools).
    pub tool_calls: bool,
    /// Types of the tools' parameters.
    pub tools: ToolSchemas,
    /// Call `i` gets the id `{call_id_prefix}{i}`. Ids should differ between the turns of a
    /// conversation, so the prefix should contain something of the request.
    pub call_id_prefix: String,
}

impl Default for ParserOptions {
    fn default() -> Self {
        Self { tool_calls: true, tools: ToolSchemas::default(), call_id_prefix: "call_".to_owned() }
    }
}

/// Takes the text of one generated message apart.
///
/// Made by [`Format::parser`]; one parser reads one message.
pub trait OutputParser: Send {
    /// Feeds the next piece of text and returns what is now certain.
    fn push(&mut self, text: &str) -> Vec<Delta>;

    /// Ends the text: releases what was held back.
    fn finish(&mut self) -> Vec<Delta>;

    /// Bytes kept because their meaning is open or because an open call may yet turn out to be
    /// text. At most twice [`MAX_CALL_BYTES`] and a few kilobytes.
    fn held_bytes(&self) -> usize;

    /// Parses a whole text at once. The same as collecting the deltas of any pieces of it.
    fn parse_complete(&mut self, text: &str) -> ParsedMessage {
        let mut message = ParsedMessage::default();
        message.extend(self.push(text));
        message.extend(self.finish());
        message
    }
}
