//! One sequence on a backend: its tokens, its place in the cache and how it ends.

use super::executor::{DecodeRun, DraftBlock, MAX_STOPS, Row, Rules};
use super::{Cached, End, Page, SequenceInit, Slot};
use crate::dflash::kind;
use crate::error::{Error, Result};
use crate::sample::{Chooser, Constraint, History, SamplingParams, TokenMask};

/// State of an open slot.
#[derive(Debug)]
pub(super) struct Sequence {
    /// The prompt and what was emitted; the last one is the anchor once there is one.
    tokens: Vec<u32>,
    /// Tokens of `tokens` that prefill feeds: the prompt, or all of them after a restart.
    to_feed: usize,
    params: SamplingParams,
    seed: u64,
    stop_tokens: Vec<u32>,
    pages: Vec<Page>,
    keeps_context: bool,
    history: Option<History>,
    constraint: Option<Box<dyn Constraint>>,
    /// Positions in the target's cache that count.
    committed: usize,
    /// Of them, those that are drafter context too.
    context: usize,
    cached: Option<Cached>,
    prompt_len: usize,
    generated: usize,
    /// What a device knows of what its rules look up.
    told: Told,
    /// Whether no token has two biases, whose sum would depend on how they are added.
    biases_are_single: bool,
    end: Option<End>,
    failure: Option<Error>,
}

/// What was brought to a device.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    biases: bool,
    /// How many generated tokens its counts include; none where it has no counts.
    generated: Option<usize>,
}

/// What is to be brought to a device before it can apply a sequence's rules.
#[derive(Debug)]
pub(super) enum Untold<'s> {
    Nothing,
    /// All counts.
    Counts(&'s History),
    /// Those of tokens that the host has chosen.
    CountsOf(&'s History, &'s [u32]),
}

impl Sequence {
    pub(super) fn new(init: SequenceInit, vocab: usize, max_drafts: usize) -> Result<Self> {
        let prompt_len = init.prompt.len();
        if init.prompt.is_empty() {
            return Err(Error::invalid("prompt", "it has no tokens"));
        }
        if let Some(token) = init.prompt.iter().find(|t| **t as usize >= vocab) {
            let reason = format!("token id {token} is not below {vocab}");
            return Err(Error::invalid("prompt", reason));
        }
        let start = init.cached.map_or(0, |cached| cached.positions);
        if start >= init.prompt.len() {
            let reason = format!("{start} positions of a prompt of {}", init.prompt.len());
            return Err(Error::invalid("cached", reason));
        }
        let history = init.params.has_penalties().then(|| History::new(vocab, &init.prompt));
        let mut biased: Vec<u32> = init.params.logit_bias.iter().map(|(token, _)| *token).collect();
        biased.sort_unstable();
        let biases_are_single = biased.windows(2).all(|pair| pair[0] != pair[1]);
        let mut tokens = init.prompt;
        // Nothing is allocated while decoding (law 4).
        tokens.reserve_exact(init.params.max_tokens as usize);
        Ok(Self {
            history,
            committed: start,
            context: start,
            cached: init.cached,
            to_feed: prompt_len,
            prompt_len,
            tokens,
            generated: 0,
            told: Told::default(),
            biases_are_single,
            end: None,
            failure: None,
            constraint: init.constraint,
            keeps_context: init.speculative && max_drafts > 0,
            params: init.params,
            seed: init.seed,
            stop_tokens: init.stop_tokens,
            pages: init.pages,
        })
    }

    pub(super) fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// The prefix that was in the cache before.
    pub(super) fn cached(&self) -> Option<Cached> {
        self.cached
    }

    /// Counts all committed positions as drafter context.
    pub(super) fn context_kept(&mut self) {
        self.context = self.committed;
    }

    /// Positions whose cache entries are complete.
    pub(super) fn kept(&self) -> usize {
        if self.keeps_context { self.context } else { self.committed }
    }

    /// Number of positions the sequence can reach in the cache (the last token never enters it).
    pub(super) fn last_position(&self) -> usize {
        self.prompt_len + self.params.max_tokens as usize - 1
    }

    /// Tokens that may still be generated.
    pub(super) fn remaining(&self) -> usize {
        self.params.max_tokens as usize - self.generated
    }

    /// Whose drafts are accepted alike.
    pub(super) fn kind(&self) -> usize {
        kind(&self.params, self.constraint.is_some())
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
        self.tokens.last().copied().unwrap_or_default()
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

    /// What decides about its tokens beyond temperature and noise.
    fn rules(&self) -> Rules {
        let params = &self.params;
        let mut rules = Rules { biases: !params.logit_bias.is_empty(), ..Rules::NONE };
        if self.history.is_some() {
            rules.penalties = true;
            rules.repetition = params.repetition_penalty;
            rules.presence = params.presence_penalty;
            rules.frequency = params.frequency_penalty;
        }
        if params.temperature != 0.0 {
            (rules.top_k, rules.top_p, rules.min_p) = (params.top_k, params.top_p, params.min_p);
        }
        rules
    }

    /// Its biases, where a device has yet to be told.
    pub(super) fn untold_biases(&self) -> Option<&[(u32, f32)]> {
        let biases = &*self.params.logit_bias;
        (!self.told.biases && !biases.is_empty()).then_some(biases)
    }

    /// Its counts, as far as a device has yet to be told.
    pub(super) fn untold_counts(&self) -> Untold<'_> {
        match (&self.history, self.told.generated) {
            (None, _) => Untold::Nothing,
            (Some(_), Some(told)) if told == self.generated => Untold::Nothing,
            (Some(history), None) => Untold::Counts(history),
            (Some(history), Some(told)) => {
                Untold::CountsOf(history, self.newest(self.generated - told))
            }
        }
    }

    /// From now on a device knows all of it; it counts by itself what it emits.
    pub(super) fn is_told(&mut self) {
        self.told = Told { biases: true, generated: Some(self.generated) };
    }

    /// What a device needs to decode this sequence by itself, or `None` where only the host can
    /// choose its tokens; `with_rules`: the device applies them.
    pub(super) fn decode_run(
        &self,
        slot: Slot,
        drafts: usize,
        with_rules: bool,
    ) -> Option<DecodeRun> {
        let params = &self.params;
        let rules = self.rules();
        let is_plain = rules == Rules::NONE;
        let suits = (is_plain || with_rules && self.biases_are_single)
            && self.constraint.is_none()
            && params.logprobs.is_none();
        let mut stops = [0; MAX_STOPS];
        if !suits || self.stop_tokens.len() > MAX_STOPS || self.end.is_some() {
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
            rules,
            stops,
            num_stops: self.stop_tokens.len() as u32,
            keeps_context: self.keeps_context,
        })
    }

    /// Feeds all tokens anew. Prompt tokens that were all scored are not scored again.
    pub(super) fn restart(&mut self) {
        self.committed = 0;
        self.context = 0;
        self.to_feed = self.tokens.len();
        if self.generated > 0 {
            self.params.prompt_logprobs = None;
        }
    }

    /// Rows of a prefill chunk; the last one of all needs logits.
    pub(super) fn prefill_rows(
        &self,
        slot: Slot,
        start: usize,
        len: usize,
        rows: &mut Vec<Row>,
    ) -> Result<()> {
        let end = start + len;
        if start != self.committed || len == 0 || end > self.to_feed {
            let (at, of) = (self.committed, self.to_feed);
            let reason = format!("prefill {start}..{end} where {at} of {of} positions are done");
            return Err(Error::invalid("plan", reason));
        }
        rows.extend(self.tokens[start..end].iter().enumerate().map(|(i, &token)| {
            let position = start + i;
            let needs_logits =
                position + 1 == self.to_feed || self.params.prompt_logprobs.is_some();
            Row { slot, position: position as u32, token, needs_logits }
        }));
        Ok(())
    }

    /// The prompt token at `position`, and how many likely ones to report with it, where its
    /// log-probability was asked for.
    pub(super) fn scored_prompt_token(&self, position: usize) -> Option<(u32, usize)> {
        let top = self.params.prompt_logprobs?;
        Some((*self.tokens.get(position)?, top as usize))
    }

    /// Counts positions up to `end` as committed; whether all that was to be fed is.
    pub(super) fn prefilled(&mut self, end: usize) -> bool {
        self.committed = end;
        end == self.to_feed
    }

    /// Counts the anchor and the accepted drafts of a round as committed.
    pub(super) fn advance(&mut self, emitted: usize) {
        self.committed += emitted;
    }

    /// The target's own token for `position`, among those that the constraint allows there;
    /// `None` where the constraint fails, which ends the sequence.
    pub(super) fn choose(
        &mut self,
        chooser: &mut Chooser,
        mask: &mut TokenMask,
        logits: &[f32],
        position: u64,
    ) -> Option<u32> {
        let Self { params, history, seed, constraint, .. } = self;
        let (history, seed) = (history.as_ref(), *seed);
        let Some(constraint) = constraint else {
            return Some(chooser.choose(logits, params, history, seed, position));
        };
        match constraint.allowed(mask) {
            Ok(()) => {
                let mask = Some(&*mask);
                Some(chooser.choose_allowed(logits, mask, params, history, seed, position))
            }
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    fn fail(&mut self, error: Error) {
        self.end = Some(End::Failed);
        self.failure = Some(error);
    }

    /// Why the constraint failed, once.
    pub(super) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Fits drafts to the constraint: where it leaves no choice, its token replaces the guess, and
    /// what it rules out is cut off with all that follows. Returns how many drafts may be accepted;
    /// the margins of those that must be are infinite then.
    pub(super) fn fit(&mut self, drafts: &mut [u32], margins: &mut [f32]) -> usize {
        let Self { constraint, stop_tokens, .. } = self;
        let Some(constraint) = constraint else { return drafts.len() };
        let (mut kept, mut taken) = (0, 0);
        for (draft, margin) in drafts.iter_mut().zip(margins) {
            match constraint.forced() {
                Ok(Some(token)) => (*draft, *margin) = (token, f32::INFINITY),
                Ok(None) if matches!(constraint.allows(*draft), Ok(true)) => {}
                _ => break,
            }
            // Nothing follows a token that ends the sequence.
            let ends = stop_tokens.contains(draft);
            if !ends && constraint.advance(*draft).is_err() {
                break;
            }
            kept += 1;
            if ends {
                break;
            }
            taken += 1;
        }
        if let Err(error) = constraint.rollback(taken) {
            self.fail(error);
        }
        kept
    }

    /// Takes one chosen token; whether the sequence goes on.
    pub(super) fn emit(&mut self, token: u32) -> bool {
        self.tokens.push(token);
        self.generated += 1;
        if let Some(history) = &mut self.history {
            history.push(token);
        }
        if self.stop_tokens.contains(&token) {
            self.end = Some(End::StopToken);
        } else if self.remaining() == 0 {
            self.end = Some(End::Length);
        } else if let Some(constraint) = &mut self.constraint
            && let Err(error) = constraint.advance(token)
        {
            self.fail(error);
        }
        self.end.is_none()
    }

    /// The last `count` emitted tokens.
    pub(super) fn newest(&self, count: usize) -> &[u32] {
        &self.tokens[self.tokens.len() - count..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(params: SamplingParams) -> Sequence {
        let init = SequenceInit {
            prompt: vec![1, 2],
            params,
            seed: 0,
            stop_tokens: Vec::new(),
            pages: vec![0],
            speculative: false,
            cached: None,
            constraint: None,
        };
        Sequence::new(init, 8, 0).unwrap()
    }

    #[test]
    fn a_device_that_applies_rules_decodes_what_they_say() {
        let plain = SamplingParams { temperature: 0.5, ..SamplingParams::default() };
        let ruled = [
            SamplingParams { top_p: 0.5, ..plain.clone() },
            SamplingParams { top_k: 2, ..plain.clone() },
            SamplingParams { min_p: 0.1, ..plain.clone() },
            SamplingParams { frequency_penalty: 0.1, ..plain.clone() },
            SamplingParams { logit_bias: vec![(1, 2.0), (3, 2.0)], ..plain.clone() },
        ];
        assert!(sequence(plain.clone()).decode_run(0, 0, false).is_some());
        for params in ruled {
            let of = sequence(params);
            assert!(of.decode_run(0, 0, false).is_none());
            assert_ne!(of.decode_run(0, 0, true).unwrap().rules, Rules::NONE);
        }
        // A greedy choice is the same whatever the filters keep.
        let greedy = SamplingParams { top_k: 2, ..SamplingParams::default() };
        assert!(sequence(greedy).decode_run(0, 0, false).is_some());
        // The sum of two biases depends on how they are added.
        let twice = SamplingParams { logit_bias: vec![(1, 2.0), (1, 3.0)], ..plain };
        assert!(sequence(twice).decode_run(0, 0, true).is_none());
    }
}
