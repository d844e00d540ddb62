//! The events of a message.

use kilotok_text::{Completion, Piece};
use serde_json::{Value, json};

use super::super::answer::Answer;
use super::super::blocks::{Block, Blocks, Step};
use super::{Reply, stop};
use crate::error::ApiError;
use crate::events::{Events, Frames};
use crate::receipt;

/// Writes `message_*` and `content_block_*` events.
pub(super) struct MessageStream {
    reply: Reply,
    answer: Answer,
    blocks: Blocks,
    /// Number of the newest block.
    index: usize,
    /// Name of the newest block's delta and of its field.
    delta: (&'static str, &'static str),
    completions: Vec<Completion>,
}

impl MessageStream {
    pub(super) fn new(reply: Reply, answer: Answer) -> Self {
        Self {
            reply,
            answer,
            blocks: Blocks::default(),
            index: 0,
            delta: ("", ""),
            completions: Vec::new(),
        }
    }

    fn step(&mut self, step: Step, out: &mut Frames) {
        let index = self.index;
        match step {
            Step::Open(block) => {
                let (delta, start) = match block {
                    Block::Reasoning(_) => (
                        ("thinking_delta", "thinking"),
                        json!({ "type": "thinking", "thinking": "", "signature": "" }),
                    ),
                    Block::Text(_) => {
                        (("text_delta", "text"), json!({ "type": "text", "text": "" }))
                    }
                    Block::Call { id, name, .. } => (
                        ("input_json_delta", "partial_json"),
                        json!({ "type": "tool_use", "id": id, "name": name, "input": {} }),
                    ),
                };
                self.delta = delta;
                event(
                    "content_block_start",
                    json!({ "index": index, "content_block": start }),
                    out,
                );
            }
            Step::More(text) => {
                let (kind, field) = self.delta;
                let delta = json!({ "type": kind, field: text });
                event("content_block_delta", json!({ "index": index, "delta": delta }), out);
            }
            Step::Close(_) => {
                event("content_block_stop", json!({ "index": index }), out);
                self.index += 1;
            }
        }
    }
}

fn event(name: &str, mut data: Value, out: &mut Frames) {
    data["type"] = name.into();
    out.event(name, &data);
}

impl Events for MessageStream {
    fn begin(&mut self, out: &mut Frames) {
        event("message_start", json!({ "message": self.reply.message(0) }), out);
    }

    fn piece(&mut self, piece: Piece, out: &mut Frames) {
        let mut steps = Vec::new();
        for delta in self.answer.read(&piece) {
            self.blocks.push(delta, &mut steps);
        }
        if piece.completion.is_some() {
            self.blocks.close(&mut steps);
        }
        for step in steps {
            self.step(step, out);
        }
        self.completions.extend(piece.completion.map(|completion| *completion));
    }

    fn end(&mut self, out: &mut Frames) {
        if let [completion] = self.completions.as_slice() {
            let (reason, sequence) = stop(completion, &self.answer);
            let delta = json!({ "stop_reason": reason, "stop_sequence": sequence });
            let data = json!({
                "delta": delta,
                "usage": self.reply.usage(&self.completions),
                "metrics": receipt::metrics(&self.completions),
            });
            event("message_delta", data, out);
        }
        event("message_stop", json!({}), out);
    }

    fn error(&mut self, error: &ApiError, out: &mut Frames) {
        out.event("error", &error.anthropic_body());
    }
}
