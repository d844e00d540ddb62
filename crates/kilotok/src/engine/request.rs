//! One request.

use std::sync::Arc;

use super::Speculation;
use crate::sample::{Grammar, SamplingParams};

/// A prompt and how to continue it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Prompt tokens, not empty.
    pub prompt: Vec<u32>,
    /// How tokens are chosen and when the sequence ends.
    pub params: SamplingParams,
    /// Overrides the engine's setting.
    pub speculation: Option<Speculation>,
    /// Keeps apart what equal prompts would share: a request finds prefixes of requests with the
    /// same salt only, so that its time tells nothing about others.
    pub cache_salt: Option<Arc<str>>,
    /// Requests with lower values are taken in first; those of one value in order of arrival.
    pub priority: i32,
    /// What the output has to be. The model's end-of-sequence tokens then end the sequence even
    /// with `ignore_eos`: the grammar decides where they may come.
    pub grammar: Option<Arc<dyn Grammar>>,
}

impl Request {
    /// A greedy request with default parameters.
    pub fn new(prompt: impl Into<Vec<u32>>) -> Self {
        Self { prompt: prompt.into(), ..Self::default() }
    }

    /// Sets the parameters.
    #[must_use]
    pub fn params(mut self, params: SamplingParams) -> Self {
        self.params = params;
        self
    }

    /// Overrides the engine's speculation.
    #[must_use]
    pub fn speculation(mut self, speculation: Speculation) -> Self {
        self.speculation = Some(speculation);
        self
    }

    /// Shares prefixes with requests of the same salt only.
    #[must_use]
    pub fn cache_salt(mut self, salt: impl Into<Arc<str>>) -> Self {
        self.cache_salt = Some(salt.into());
        self
    }

    /// Sets the place in the queue: lower values first.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Constrains the output.
    #[must_use]
    pub fn grammar(mut self, grammar: Arc<dyn Grammar>) -> Self {
        self.grammar = Some(grammar);
        self
    }
}
