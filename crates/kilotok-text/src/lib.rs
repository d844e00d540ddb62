//! Tokens to text and back for the kilotok engine.
//!
//! * [`Tokenizer`]: `tokenizer.json` and the special tokens around it.
//! * [`Detokenizer`]: incremental decoding that never shows part of a character.
//! * [`StopMatcher`]: stop strings that never leak a partial match.
//! * [`ChatTemplate`]: the checkpoint's chat template, sandboxed, with Hugging Face conventions.
#![forbid(unsafe_code)]

mod error;
mod special_tokens;
mod stop;
mod stream;
mod template;
mod tokenizer;
mod utf8;

pub use error::TextError;
pub use special_tokens::{SpecialTokens, eos_token_ids};
pub use stop::{StopMatch, StopMatcher, StopStep};
pub use stream::Detokenizer;
pub use template::{ChatTemplate, Clock, RenderLimits, TemplateInput};
pub use tokenizer::{EncodeOptions, Tokenizer};
