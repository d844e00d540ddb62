//! What a text request gives back.

use kilotok::engine::{FinishReason, Receipt};

/// A token with its log-probability.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability, before filters and temperature.
    pub logprob: f32,
    /// The token as text, U+FFFD where it is not UTF-8 on its own; empty without a tokenizer.
    pub text: String,
    /// The bytes it stands for; `None` without a tokenizer or for ids without a token.
    pub bytes: Option<Vec<u8>>,
}

/// Log-probabilities at one generated position.
#[derive(Debug, Clone, PartialEq)]
pub struct PositionLogprobs {
    /// Of the chosen token.
    pub chosen: TokenLogprob,
    /// Of the most likely tokens, best first.
    pub top: Vec<TokenLogprob>,
}

/// What ended a text, where it was not its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoppedBy {
    /// An end-of-sequence or stop token, the last of the token ids.
    Token(u32),
    /// A stop string. The token that completed it is the last of the token ids.
    Text(String),
}

/// The next part of one sequence.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Piece {
    /// Which of the `n` sequences.
    pub index: usize,
    /// Text that is now certain. It can lag behind the tokens: an unfinished character or what
    /// may become a stop string is held back.
    pub text: String,
    /// New tokens.
    pub token_ids: Vec<u32>,
    /// One entry per new token; empty unless asked for.
    pub logprobs: Vec<PositionLogprobs>,
    /// Set on the last piece of a sequence.
    pub completion: Option<Box<Completion>>,
}

/// One whole sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Which of the `n` sequences.
    pub index: usize,
    /// All text: the concatenation of the pieces.
    pub text: String,
    /// All tokens, up to the one that ended the text.
    pub token_ids: Vec<u32>,
    /// One entry per token; empty unless asked for.
    pub logprobs: Vec<PositionLogprobs>,
    /// One entry per prompt token but the first; empty unless asked for.
    pub prompt_logprobs: Vec<PositionLogprobs>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What ended it; `None` for [`FinishReason::Length`].
    pub stopped_by: Option<StoppedBy>,
    /// How fast it was. Counts what the engine did, tokens after a stop string included.
    pub receipt: Receipt,
}
