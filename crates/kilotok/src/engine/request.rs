//! One request.

use std::sync::Arc;

use super::Speculation;
use crate::sample::SamplingParams;

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
}
