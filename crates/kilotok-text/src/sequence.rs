//! One sequence on its way from tokens to text.

use std::sync::Arc;

use kilotok::backend::TokenLogprobs;
use kilotok::engine::{FinishReason, Finished, Token};

use crate::{
    Completion, Detokenizer, Piece, PositionLogprobs, StopMatcher, StoppedBy, TextError,
    TextParams, TokenLogprob, Tokenizer,
};

/// Turns the events of one token stream into pieces.
///
/// Tokens are taken one by one, so where a text ends does not depend on how many tokens a round
/// of the engine gave.
pub(crate) struct Sequence {
    index: usize,
    tokenizer: Option<Arc<Tokenizer>>,
    detokenizer: Option<Detokenizer>,
    stop: StopMatcher,
    stop_tokens: Arc<[u32]>,
    include_stop: bool,
    stopped_by: Option<StoppedBy>,
    text: String,
    token_ids: Vec<u32>,
    logprobs: Vec<PositionLogprobs>,
}

impl Sequence {
    /// `stop_tokens`: ids that end the sequence, ascending.
    pub(crate) fn new(
        index: usize,
        tokenizer: Option<Arc<Tokenizer>>,
        params: &TextParams,
        stop: StopMatcher,
        stop_tokens: Arc<[u32]>,
    ) -> Self {
        let detokenizer = tokenizer
            .as_ref()
            .map(|tokenizer| Detokenizer::new(Arc::clone(tokenizer), params.skip_special_tokens));
        Self {
            index,
            tokenizer,
            detokenizer,
            stop,
            stop_tokens,
            include_stop: params.include_stop,
            stopped_by: None,
            text: String::new(),
            token_ids: Vec::new(),
            logprobs: Vec::new(),
        }
    }

    /// Adds a token to `piece`. Returns whether the text has ended by a stop string: the engine
    /// need not go on, and what it still sends is left out.
    pub(crate) fn push(&mut self, token: Token, piece: &mut Piece) -> Result<bool, TextError> {
        piece.index = self.index;
        if matches!(self.stopped_by, Some(StoppedBy::Text(_))) {
            return Ok(true);
        }
        let id = token.id;
        self.token_ids.push(id);
        piece.token_ids.push(id);
        if let Some(logprobs) = token.logprobs {
            let position = self.position(id, &logprobs);
            self.logprobs.push(position.clone());
            piece.logprobs.push(position);
        }
        let ends = self.stop_tokens.binary_search(&id).is_ok();
        if ends {
            self.stopped_by = Some(StoppedBy::Token(id));
        }
        if let Some(detokenizer) = self.detokenizer.as_mut().filter(|_| !ends || self.include_stop)
        {
            let text = detokenizer.push(id)?;
            self.show(&text, piece);
        }
        Ok(matches!(self.stopped_by, Some(StoppedBy::Text(_))))
    }

    /// Ends the sequence: releases held text into `piece` and attaches the completion. `prompt`: the
    /// tokens that the log-probabilities of a prompt belong to.
    pub(crate) fn finish(
        mut self,
        finished: Finished,
        prompt: &[u32],
        piece: &mut Piece,
    ) -> Result<(), TextError> {
        piece.index = self.index;
        if let Some(detokenizer) = &mut self.detokenizer {
            let tail = detokenizer.finish()?;
            self.show(&tail, piece);
            let held = self.stop.finish();
            self.append(&held, piece);
        }
        let scored = prompt.iter().skip(1).zip(&finished.prompt_logprobs);
        let prompt_logprobs = scored.map(|(&id, logprobs)| self.position(id, logprobs)).collect();
        // A stop string may end the text in the very round that also used up `max_tokens`.
        let finish_reason = match &self.stopped_by {
            Some(StoppedBy::Text(_)) => FinishReason::Stop,
            _ => finished.reason,
        };
        piece.completion = Some(Box::new(Completion {
            index: self.index,
            text: self.text,
            token_ids: self.token_ids,
            logprobs: self.logprobs,
            prompt_logprobs,
            finish_reason,
            stopped_by: self.stopped_by.filter(|_| finish_reason == FinishReason::Stop),
            receipt: finished.receipt,
        }));
        Ok(())
    }

    fn show(&mut self, text: &str, piece: &mut Piece) {
        let step = self.stop.push(text);
        self.append(&step.text, piece);
        if let Some(matched) = step.matched {
            self.stopped_by = Some(StoppedBy::Text(matched.text));
        }
    }

    fn append(&mut self, text: &str, piece: &mut Piece) {
        self.text.push_str(text);
        piece.text.push_str(text);
    }

    fn position(&self, id: u32, logprobs: &TokenLogprobs) -> PositionLogprobs {
        let chosen = self.describe(id, logprobs.chosen);
        let top = logprobs.top.iter().map(|&(id, logprob)| self.describe(id, logprob));
        PositionLogprobs { chosen, top: top.collect() }
    }

    fn describe(&self, id: u32, logprob: f32) -> TokenLogprob {
        let bytes = self.tokenizer.as_ref().and_then(|tokenizer| tokenizer.token_bytes(id));
        let text = bytes.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
        TokenLogprob { id, logprob, text, bytes }
    }
}
