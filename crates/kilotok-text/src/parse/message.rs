//! A parsed message as a whole.

use super::{Channel, Delta};

/// A complete tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The call's id.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// What a whole output says; also collects the deltas of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParsedMessage {
    /// The model's thinking.
    pub reasoning: String,
    /// The answer, including the markup of broken calls outside the thinking.
    pub content: String,
    /// Complete calls, in order.
    pub tool_calls: Vec<ToolCall>,
    /// Calls that turned out to be text: worth a warning.
    pub broken_calls: usize,
    open: Option<ToolCall>,
}

impl ParsedMessage {
    fn channel(&mut self, channel: Channel) -> &mut String {
        match channel {
            Channel::Reasoning => &mut self.reasoning,
            Channel::Content => &mut self.content,
        }
    }
}

impl Extend<Delta> for ParsedMessage {
    fn extend<I: IntoIterator<Item = Delta>>(&mut self, deltas: I) {
        for delta in deltas {
            match delta {
                Delta::Reasoning(text) => self.reasoning.push_str(&text),
                Delta::Content(text) => self.content.push_str(&text),
                Delta::ToolCallStart { id, name, .. } => {
                    self.open = Some(ToolCall { id, name, arguments: String::new() });
                }
                Delta::ToolCallArguments { json_fragment, .. } => {
                    if let Some(call) = &mut self.open {
                        call.arguments.push_str(&json_fragment);
                    }
                }
                Delta::ToolCallEnd { .. } => self.tool_calls.extend(self.open.take()),
                Delta::ToolCallBroken { markup, channel, .. } => {
                    self.open = None;
                    self.broken_calls += 1;
                    self.channel(channel).push_str(&markup);
                }
            }
        }
    }
}
