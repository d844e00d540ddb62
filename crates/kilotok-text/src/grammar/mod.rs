//! Constrained output: rules of a request, compiled for the engine.
//!
//! The library `llguidance` turns schemas, expressions and grammars into masks over the
//! vocabulary. What is ours is where they hold: an answer is constrained from the end of the
//! thinking on, and calls are written in the checkpoint's own form.

mod calls;
mod compile;
mod function_form;
mod gate;
mod harmony;
mod rule;
mod spec;
mod spelling;
mod vocabulary;

use std::fmt;

use serde_json::Value;

pub use self::compile::Grammars;
pub use self::spec::{
    GrammarSpec, MAX_CHOICES, MAX_GRAMMAR_BYTES, MAX_LARK_BYTES, MAX_REGEX_BYTES,
};

/// What a request demands of a message.
#[derive(Debug, Clone, Default)]
pub struct OutputRules {
    /// What the answer has to be, thinking and calls aside.
    pub answer: Option<GrammarSpec>,
    /// Tools that may be called.
    pub calls: Vec<CallRule>,
    /// How far calls are constrained.
    pub mode: CallMode,
    /// More than one call may be made.
    pub parallel: bool,
    /// Tokens of the thinking at most; it is then closed, and the answer begins.
    pub thinking_budget: Option<u32>,
}

impl OutputRules {
    /// Whether nothing is demanded.
    pub fn is_empty(&self) -> bool {
        self.answer.is_none() && self.mode == CallMode::Free && self.thinking_budget.is_none()
    }
}

/// One tool.
#[derive(Debug, Clone)]
pub struct CallRule {
    /// Its name.
    pub name: String,
    /// Schema of its arguments; any object without one.
    pub schema: Option<Value>,
    /// Every word of the schema counts: what cannot be enforced is an error. Otherwise an
    /// argument that is written as raw text may be any text.
    pub strict: bool,
}

/// How far calls are constrained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallMode {
    /// Not at all.
    #[default]
    Free,
    /// A call, once begun, follows the schema of its tool.
    Strict,
    /// The message is a call.
    Required,
}

/// Which rule an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrammarPart {
    /// [`OutputRules::answer`].
    Answer,
    /// This one of [`OutputRules::calls`].
    Call(usize),
    /// That there be a call at all.
    Calls,
    /// [`OutputRules::thinking_budget`].
    Thinking,
}

impl fmt::Display for GrammarPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer => f.write_str("the form of the answer"),
            Self::Call(index) => write!(f, "the schema of tool {index}"),
            Self::Calls => f.write_str("the choice of a tool"),
            Self::Thinking => f.write_str("the budget of the thinking"),
        }
    }
}
