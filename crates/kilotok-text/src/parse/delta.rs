//! What a parser says.

/// Where text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// The model's thinking.
    Reasoning,
    /// The answer.
    Content,
}

/// One step of a parsed message.
///
/// Calls are numbered from 0 in order of appearance and do not overlap. Every call that starts
/// ends exactly once, with [`Delta::ToolCallEnd`] or [`Delta::ToolCallBroken`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// More of the model's thinking.
    Reasoning(String),
    /// More of the answer.
    Content(String),
    /// A call has begun: its name is complete and arguments, or their end, are in sight.
    ToolCallStart {
        /// Number of the call.
        index: usize,
        /// The call's id.
        id: String,
        /// Name of the tool, as written.
        name: String,
    },
    /// More of a call's arguments.
    ToolCallArguments {
        /// Number of the call.
        index: usize,
        /// Part of a JSON text. The fragments of a call that ends with [`Delta::ToolCallEnd`]
        /// concatenate to one JSON object.
        json_fragment: String,
    },
    /// The call is complete.
    ToolCallEnd {
        /// Number of the call.
        index: usize,
    },
    /// The call cannot be completed: the text ended inside it or its markup is malformed. What was
    /// said of its arguments is not closed on purpose: half an argument must not be acted upon.
    ToolCallBroken {
        /// Number of the call.
        index: usize,
        /// The call as the model wrote it, markup and all: the text it has turned out to be.
        markup: String,
        /// Where that text belongs.
        channel: Channel,
    },
}

/// Collects deltas, merging text where it can.
#[derive(Debug, Default)]
pub(super) struct Deltas(Vec<Delta>);

impl Deltas {
    pub(super) fn text(&mut self, channel: Channel, text: &str) {
        if text.is_empty() {
            return;
        }
        match (self.0.last_mut(), channel) {
            (Some(Delta::Reasoning(last)), Channel::Reasoning)
            | (Some(Delta::Content(last)), Channel::Content) => last.push_str(text),
            (_, Channel::Reasoning) => self.0.push(Delta::Reasoning(text.to_owned())),
            (_, Channel::Content) => self.0.push(Delta::Content(text.to_owned())),
        }
    }

    /// The fragment that text for the arguments of call `index` is appended to.
    fn fragment(&mut self, index: usize) -> Option<&mut String> {
        let open = |delta: &Delta| matches!(delta, Delta::ToolCallArguments { index: i, .. } if *i == index);
        if !self.0.last().is_some_and(open) {
            self.0.push(Delta::ToolCallArguments { index, json_fragment: String::new() });
        }
        match self.0.last_mut() {
            Some(Delta::ToolCallArguments { json_fragment, .. }) => Some(json_fragment),
            _ => None,
        }
    }

    /// Appends to the arguments of call `index`.
    pub(super) fn arguments(&mut self, index: usize, json: &str) {
        if !json.is_empty() {
            self.write_arguments(index, |fragment| fragment.push_str(json));
        }
    }

    /// Lets `write` append to the arguments of call `index`.
    pub(super) fn write_arguments(&mut self, index: usize, write: impl FnOnce(&mut String)) {
        if let Some(fragment) = self.fragment(index) {
            write(fragment);
        }
        if matches!(self.0.last(), Some(Delta::ToolCallArguments { json_fragment, .. }) if json_fragment.is_empty())
        {
            self.0.pop();
        }
    }

    pub(super) fn push(&mut self, delta: Delta) {
        self.0.push(delta);
    }

    pub(super) fn take(&mut self) -> Vec<Delta> {
        std::mem::take(&mut self.0)
    }
}
