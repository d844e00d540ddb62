//! One sequence on a backend: its tokens, its place in the cache and how it ends.

use super::executor::{DecodeRun, DraftBlock, MAX_STOPS, Row};
use super::{End, Page, SequenceInit, Slot};
use crate::error::{Error, Result};
use crate::sample::{Chooser, History, SamplingParams};

/// State of an open slot.
#[derive(Debug)]
pub(super) struct Sequence {
    prompt: Vec<u32>,
    params: SamplingParams,
    seed: u64,
    stop_tokens: Vec<u32>,
    pages: Vec<Page>,
    keeps_context: bool,
    history: Option<History>,
    /// Positions in the target's cache that count.
    committed: usize,
    /// The newest tokens, at least the last round's; the last one is the anchor.
    recent: Vec<u32>,
    generated: usize,
    end: Option<End>,
}

impl Sequence {
    pub(super) fn new(init: SequenceInit, vocab: usize, max_drafts: usize) -> Result<Self> {
        if init.prompt.is_empty() {
            return Err(Error::invalid("prompt", "it has no tokens"));
        }
        if let Some(token) = init.prompt.iter().find(|t| **t as usize >= vocab) {
            let reason = format!("token id {token} is not below {vocab}");
            return Err(Error::invalid("prompt", reason));
        }
        let history = init.params.has_penalties().then(|| History::new(vocab, &init.prompt));
        Ok(Self {
            history,
            committed: 0,
            recent: Vec::with_capacity(2 * (max_drafts + 1)),
            generated: 0,
            end: None,
            keeps_context: init.speculative && max_drafts > 0,
            prompt: init.prompt,
            params: init.params,
            seed: init.seed,
            stop_tokens: init.stop_tokens,
            pages: init.pages,
        })
    }

    pub(super) fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// Number of positions the sequence can reach in the cache (the last token never enters it).
    pub(super) fn last_position(&self) -> usize {
        self.prompt.len() + self.params.max_tokens as usize - 1
    }

    /// Tokens that may still be generated.
    pub(super) fn remaining(&self) -> usize {
        self.params.max_tokens as usize - self.generated
    }

    pub(super) fn keeps_context(&self) -> bool {
        self.keeps_context
    }

    pub(super) fn end(&self) -> Option<End> {
        self.end
    }

    pub(super) fn logprobs(&self) -> Option<usize> {
        self.params.logprobs.map(|n| n as usize)
    }

    fn anchor(&self) -> u32 {
        self.recent.last().copied().unwrap_or_default()
    }

    /// The block to draft behind the anchor.
    pub(super) fn block(&self, slot: Slot, drafts: usize) -> DraftBlock {
        let (start, anchor) = (self.committed as u32, self.anchor());
        DraftBlock { slot, start, anchor, drafts: drafts as u32 }
    }

    /// The anchor's row.
    pub(super) fn anchor_row(&self, slot: Slot) -> Row {
        let (position, token) = (self.committed as u32, self.anchor());
        Row { slot, position, token, needs_logits: true }
    }

    /// What a device needs to decode this sequence by itself, or `None` where only the host can
    /// choose its tokens.
    pub(super) fn decode_run(&self, slot: Slot, drafts: usize) -> Option<DecodeRun> {
        let params = &self.params;
        let plain = params.logit_bias.is_empty()
            && self.history.is_none()
            && params.logprobs.is_none()
            && (params.temperature == 0.0
                || (params.top_k == 0 && params.top_p >= 1.0 && params.min_p <= 0.0));
        let mut stops = [0; MAX_STOPS];
        if !plain || self.stop_tokens.len() > MAX_STOPS || self.end.is_some() {
            return None;
        }
        stops[..self.stop_tokens.len()].copy_from_slice(&self.stop_tokens);
        let drafts = if self.keeps_context { drafts.min(self.remaining() - 1) } else { 0 };
        Some(DecodeRun {
            slot,
            position: self.committed as u32,
            anchor: self.anchor(),
            drafts: drafts as u32,
            remaining: self.remaining() as u32,
            seed: self.seed,
            temperature: params.temperature,
            stops,
            num_stops: self.stop_tokens.len() as u32,
            keeps_context: self.keeps_context,
        })
    }

    /// Rows of a prefill chunk; the prompt's last row needs logits.
    pub(super) fn prefill_rows(
        &self,
        slot: Slot,
        start: usize,
        len: usize,
        rows: &mut Vec<Row>,
    ) -> Result<()> {
        let end = start + len;
        if start != self.committed || len == 0 || end > self.prompt.len() {
            let (at, of) = (self.committed, self.prompt.len());
            let reason = format!("prefill {start}..{end} where {at} of {of} positions are done");
            return Err(Error::invalid("plan", reason));
        }
        rows.extend(self.prompt[start..end].iter().enumerate().map(|(i, &token)| {
            let position = start + i;
            let needs_logits =
                position + 1 == self.prompt.len() || self.params.prompt_logprobs.is_some();
            Row { slot, position: position as u32, token, needs_logits }
        }));
        Ok(())
    }

    /// The prompt token at `position`, and how many likely ones to report with it, where its
    /// log-probability was asked for.
    pub(super) fn scored_prompt_token(&self, position: usize) -> Option<(u32, usize)> {
        let top = self.params.prompt_logprobs?;
        Some((*self.prompt.get(position)?, top as usize))
    }

    /// Counts prompt positions up to `end` as committed; whether the prompt is complete.
    pub(super) fn prefilled(&mut self, end: usize) -> bool {
        self.committed = end;
        end == self.prompt.len()
    }

    /// Counts the anchor and the accepted drafts of a round as committed.
    pub(super) fn advance(&mut self, emitted: usize) {
        self.committed += emitted;
    }

    /// The target's own token for `position`.
    pub(super) fn choose(&self, chooser: &mut Chooser, logits: &[f32], position: u64) -> u32 {
        chooser.choose(logits, &self.params, self.history.as_ref(), self.seed, position)
    }

    /// Takes one chosen token; whether the sequence goes on.
    pub(super) fn emit(&mut self, token: u32) -> bool {
        if self.recent.len() == self.recent.capacity() {
            // Keep the newer half: a block never reaches further back.
            self.recent.drain(..self.recent.len() / 2);
        }
        self.recent.push(token);
        self.generated += 1;
        if let Some(history) = &mut self.history {
            history.push(token);
        }
        if self.stop_tokens.contains(&token) {
            self.end = Some(End::StopToken);
        } else if self.remaining() == 0 {
            self.end = Some(End::Length);
        }
        self.end.is_none()
    }

    /// The last `count` emitted tokens.
    pub(super) fn newest(&self, count: usize) -> &[u32] {
        &self.recent[self.recent.len() - count..]
    }
}
