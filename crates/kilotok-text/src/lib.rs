//! Tokens to text and back for the kilotok engine.
//!
//! * [`Tokenizer`]: `tokenizer.json` and the special tokens around it.
//! * [`Detokenizer`]: incremental decoding that never shows part of a character.
//! * [`StopMatcher`]: stop strings that never leak a partial match.
//! * [`ChatTemplate`]: the checkpoint's chat template, sandboxed, with Hugging Face conventions.
//! * [`Format`] and [`OutputParser`]: reasoning, content and tool calls out of streamed text.
//! * [`Grammars`]: output that has to be JSON, match a rule or call a tool.
//! * [`TextEngine`]: an engine with all of that around it, streaming text.
#![forbid(unsafe_code)]

mod engine;
mod error;
mod grammar;
mod output;
mod params;
mod parse;
mod sequence;
mod signal;
mod special_tokens;
mod stop;
mod stream;
mod template;
mod text_stream;
mod tokenizer;
mod utf8;

pub use engine::TextEngine;
pub use error::TextError;
pub use grammar::{
    CallMode, CallRule, GrammarPart, GrammarSpec, Grammars, MAX_CHOICES, MAX_GRAMMAR_BYTES,
    MAX_LARK_BYTES, MAX_REGEX_BYTES, OutputRules,
};
pub use output::{Completion, Piece, PositionLogprobs, StoppedBy, TokenLogprob};
pub use params::{Prompt, TextParams};
pub use parse::{
    Channel, Delta, Format, MAX_CALL_BYTES, MAX_TYPED_VALUE_BYTES, OutputParser, ParsedMessage,
    ParserOptions, ReasoningState, TagLayout, ToolCall, ToolSchemas,
};
pub use special_tokens::{SpecialTokens, eos_token_ids};
pub use stop::{StopMatch, StopMatcher, StopStep};
pub use stream::Detokenizer;
pub use template::{ChatTemplate, Clock, RenderLimits, TemplateInput};
pub use text_stream::{TextCanceller, TextStream};
pub use tokenizer::{EncodeOptions, Tokenizer};
