//! What a text request asks for.

use std::sync::Arc;

use kilotok::SamplingParams;
use kilotok::engine::Speculation;
use kilotok::sample::Grammar;

use crate::{TemplateInput, TextError};

/// Sequences one request may ask for.
const MAX_SEQUENCES: u32 = 128;

/// A prompt in any of its forms.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Plain text; special tokens written in it are read as such.
    Text(String),
    /// Token ids, used as they are. Needs no tokenizer.
    Tokens(Vec<u32>),
    /// A conversation, rendered with the checkpoint's chat template.
    Chat(TemplateInput),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(ids: Vec<u32>) -> Self {
        Self::Tokens(ids)
    }
}

impl From<TemplateInput> for Prompt {
    fn from(chat: TemplateInput) -> Self {
        Self::Chat(chat)
    }
}

/// How to continue a prompt and what to show of it.
#[derive(Debug, Clone)]
pub struct TextParams {
    /// How tokens are chosen and how many.
    pub sampling: SamplingParams,
    /// Strings that end the text. Needs a tokenizer.
    pub stop: Vec<String>,
    /// Show the stop string, or the text of the stop token, that ended the text.
    pub include_stop: bool,
    /// Leave special tokens out of the text; they stay in the token ids.
    pub skip_special_tokens: bool,
    /// Let the tokenizer add its tokens (a BOS) to a [`Prompt::Text`].
    pub add_special_tokens: bool,
    /// Independent sequences for the same prompt. Sequence `i` samples with `seed + i`.
    pub n: u32,
    /// Overrides the engine's setting.
    pub speculation: Option<Speculation>,
    /// Shares prefixes with requests of the same salt only.
    pub cache_salt: Option<Arc<str>>,
    /// Place in the queue: lower values first, then in order of arrival.
    pub priority: i32,
    /// What the output has to be, see [`crate::Grammars`].
    pub grammar: Option<Arc<dyn Grammar>>,
}

impl Default for TextParams {
    fn default() -> Self {
        Self {
            sampling: SamplingParams::default(),
            stop: Vec::new(),
            include_stop: false,
            skip_special_tokens: true,
            add_special_tokens: true,
            n: 1,
            speculation: None,
            cache_salt: None,
            priority: 0,
            grammar: None,
        }
    }
}

impl TextParams {
    /// Whether the text goes on after an end-of-sequence token. A grammar says itself where one may
    /// come.
    pub(crate) fn goes_on(&self) -> bool {
        self.sampling.ignore_eos && self.grammar.is_none()
    }

    /// Checks what the engine does not check itself.
    pub(crate) fn validate(&self) -> Result<(), TextError> {
        if (1..=MAX_SEQUENCES).contains(&self.n) {
            return Ok(());
        }
        let reason = format!("{} is not within [1, {MAX_SEQUENCES}]", self.n);
        Err(TextError::InvalidRequest { parameter: "n", reason })
    }
}
