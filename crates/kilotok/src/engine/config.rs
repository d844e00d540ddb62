//! Settings of an engine.

use crate::error::{Error, Result};

/// Whether and how far ahead drafts are made; never changes which tokens come out (law 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Speculation {
    /// Plain decoding: one token per round.
    Off,
    /// Block length from measured acceptance and cost.
    #[default]
    Auto,
    /// A fixed block length, anchor included: `Block(8)` verifies 7 drafts a round.
    Block(usize),
}

impl Speculation {
    /// Checks the block length against the drafter's.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] for `speculation`.
    pub fn validate(self, max_drafts: usize) -> Result<()> {
        match self {
            Self::Block(_) if max_drafts == 0 => {
                Err(Error::invalid("speculation", "the checkpoint has no drafter"))
            }
            Self::Block(length) if !(1..=max_drafts + 1).contains(&length) => Err(Error::invalid(
                "speculation",
                format!("block length {length} is not within [1, {}]", max_drafts + 1),
            )),
            _ => Ok(()),
        }
    }
}

/// How an engine plans rounds.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// For requests that do not say.
    pub speculation: Speculation,
    /// Requests that may wait to be taken in.
    pub queue_capacity: usize,
    /// Prompt positions of one round at most; 0 uses all rows that decoding leaves free.
    pub prefill_chunk: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { speculation: Speculation::Auto, queue_capacity: 1024, prefill_chunk: 0 }
    }
}

impl EngineConfig {
    pub(super) fn validate(&self, max_drafts: usize) -> Result<()> {
        if self.queue_capacity == 0 {
            return Err(Error::invalid("queue_capacity", "0 is not at least 1"));
        }
        self.speculation.validate(max_drafts)
    }
}
