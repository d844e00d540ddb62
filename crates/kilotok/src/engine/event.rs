//! What arrives on a token stream.

use super::Receipt;
use crate::backend::TokenLogprobs;

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its log-probabilities, where asked for.
    pub logprobs: Option<Box<TokenLogprobs>>,
}

/// Why a request finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token came; it is the last token of the stream.
    Stop,
    /// `max_tokens` were generated.
    Length,
}

/// The end of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// How fast it was and how many tokens each round gave.
    pub receipt: Receipt,
    /// One for every prompt token but the first; empty unless asked for.
    pub prompt_logprobs: Vec<TokenLogprobs>,
}

/// One item of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The next token.
    Token(Token),
    /// The last item.
    Finished(Box<Finished>),
}
