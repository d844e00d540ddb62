//! The events of a response.

use kilotok_text::{Completion, Piece};
use serde_json::{Value, json};

use super::super::answer::Answer;
use super::super::blocks::{Block, Blocks, Step};
use super::{Reply, part};
use crate::error::ApiError;
use crate::events::{Events, Frames};

/// Writes `response.*` events.
pub(super) struct ResponseStream {
    reply: Reply,
    answer: Answer,
    blocks: Blocks,
    /// Items as they were last shown.
    items: Vec<Value>,
    /// Item and kind of the open block.
    current: Option<(Value, Kind)>,
    sequence: u64,
    completions: Vec<Completion>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Text,
    Call,
}

impl ResponseStream {
    pub(super) fn new(reply: Reply, answer: Answer) -> Self {
        Self {
            reply,
            answer,
            blocks: Blocks::default(),
            items: Vec::new(),
            current: None,
            sequence: 0,
            completions: Vec::new(),
        }
    }

    fn event(&mut self, name: &str, mut data: Value, out: &mut Frames) {
        data["type"] = name.into();
        data["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        out.event(name, &data);
    }

    /// An event about the open item.
    fn item_event(&mut self, name: &str, mut data: Value, out: &mut Frames) {
        let Some((item, kind)) = &self.current else { return };
        data["item_id"] = item["id"].clone();
        data["output_index"] = self.items.len().into();
        if *kind != Kind::Call {
            data["content_index"] = 0.into();
        }
        self.event(name, data, out);
    }

    fn step(&mut self, step: Step, out: &mut Frames) {
        match step {
            Step::Open(block) => self.open(&block, out),
            Step::More(text) => {
                let name = match self.current {
                    Some((_, Kind::Reasoning)) => "response.reasoning_text.delta",
                    Some((_, Kind::Text)) => "response.output_text.delta",
                    _ => "response.function_call_arguments.delta",
                };
                let mut data = json!({ "delta": text });
                if name == "response.output_text.delta" {
                    data["logprobs"] = json!([]);
                }
                self.item_event(name, data, out);
            }
            Step::Close(block) => self.close(&block, out),
        }
    }

    fn open(&mut self, block: &Block, out: &mut Frames) {
        let kind = match block {
            Block::Reasoning(_) => Kind::Reasoning,
            Block::Text(_) => Kind::Text,
            Block::Call { .. } => Kind::Call,
        };
        let index = self.items.len();
        let Some(item) = self.reply.item(index, block, "in_progress") else { return };
        self.current = Some((item.clone(), kind));
        let added = json!({ "output_index": index, "item": item });
        self.event("response.output_item.added", added, out);
        if kind == Kind::Text {
            self.item_event("response.content_part.added", json!({ "part": part("") }), out);
        }
    }

    fn close(&mut self, block: &Block, out: &mut Frames) {
        match block {
            Block::Reasoning(text) => {
                self.item_event("response.reasoning_text.done", json!({ "text": text }), out);
            }
            Block::Text(text) => {
                let done = json!({ "text": text, "logprobs": [] });
                self.item_event("response.output_text.done", done, out);
                let part = json!({ "part": part(text) });
                self.item_event("response.content_part.done", part, out);
            }
            Block::Call { name, arguments, complete: true, .. } => {
                let done = json!({ "name": name, "arguments": arguments });
                self.item_event("response.function_call_arguments.done", done, out);
            }
            // Its arguments are no JSON and never will be.
            Block::Call { .. } => {}
        }
        let index = self.items.len();
        let complete = !matches!(block, Block::Call { complete: false, .. });
        let status = if complete { "completed" } else { "incomplete" };
        let Some(item) = self.reply.item(index, block, status) else { return };
        let done = json!({ "output_index": index, "item": item });
        self.event("response.output_item.done", done, out);
        self.items.push(item);
        self.current = None;
    }
}

impl Events for ResponseStream {
    fn begin(&mut self, out: &mut Frames) {
        for name in ["response.created", "response.in_progress"] {
            let response = self.reply.open("in_progress");
            self.event(name, json!({ "response": response }), out);
        }
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
        // Calls that broke off are in the text behind them.
        let mut items = std::mem::take(&mut self.items);
        items.retain(|item| item["status"] == "completed");
        let response = self.reply.finished(&items, &self.answer, &self.completions);
        let name = if response["status"] == "incomplete" {
            "response.incomplete"
        } else {
            "response.completed"
        };
        self.event(name, json!({ "response": response }), out);
    }

    fn error(&mut self, error: &ApiError, out: &mut Frames) {
        let mut response = self.reply.open("failed");
        response["error"] = json!({ "code": "server_error", "message": error.message });
        response["output"] = json!(self.items);
        self.event("response.failed", json!({ "response": response }), out);
    }
}
