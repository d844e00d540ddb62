//! A model's text taken apart: reasoning, content, tool calls.

use kilotok::engine::FinishReason;
use kilotok_text::{Completion, Delta, OutputParser, ParsedMessage, Piece, Tokenizer};

use super::tools::Tools;
use crate::App;

/// Reads the pieces of one sequence.
pub(crate) struct Answer {
    parser: Box<dyn OutputParser>,
    parallel: bool,
    /// Set once the only call that was allowed is complete.
    closed: bool,
    /// Everything so far.
    pub(crate) message: ParsedMessage,
}

impl Answer {
    /// `prompt`: as rendered, since its end decides where the answer begins. `id`: goes into the
    /// ids of calls.
    pub(crate) fn new(app: &App, prompt: &str, tools: &Tools, id: &str) -> Self {
        Self {
            parser: app.format().parser(prompt, tools.parser_options(id)),
            parallel: tools.parallel,
            closed: false,
            message: ParsedMessage::default(),
        }
    }

    /// What a piece adds.
    pub(crate) fn read(&mut self, piece: &Piece) -> Vec<Delta> {
        let mut deltas = self.parser.push(&piece.text);
        if piece.completion.is_some() {
            deltas.extend(self.parser.finish());
        }
        if !self.parallel {
            deltas.retain(|delta| self.keep(delta));
        }
        self.message.extend(deltas.iter().cloned());
        deltas
    }

    /// Nothing follows the one call that a request without parallel calls may have.
    fn keep(&mut self, delta: &Delta) -> bool {
        let keep = !self.closed;
        if let Delta::ToolCallEnd { .. } = delta {
            self.closed = true;
        }
        keep
    }

    /// Tokens of the thinking, its end included: those up to the first `</think>`.
    pub(crate) fn reasoning_tokens(
        &self,
        tokenizer: Option<&Tokenizer>,
        completion: &Completion,
    ) -> usize {
        if self.message.reasoning.is_empty() {
            return 0;
        }
        let close = tokenizer.and_then(|tokenizer| tokenizer.token_to_id("</think>"));
        let end = completion.token_ids.iter().position(|&id| Some(id) == close);
        end.map_or(completion.token_ids.len(), |end| end + 1)
    }

    /// `finish_reason` in OpenAI's words.
    pub(crate) fn finish_reason(&self, completion: &Completion) -> &'static str {
        match completion.finish_reason {
            FinishReason::Length => "length",
            FinishReason::Stop if self.message.tool_calls.is_empty() => "stop",
            FinishReason::Stop => "tool_calls",
        }
    }
}
