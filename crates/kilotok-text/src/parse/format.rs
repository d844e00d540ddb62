//! Which format a checkpoint writes.

use super::harmony::HarmonyParser;
use super::plain::PlainParser;
use super::tagged::TaggedParser;
use super::{OutputParser, ParserOptions, ReasoningState};
use crate::{ChatTemplate, Tokenizer};

/// The markup in a model's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// None: all output is content.
    Plain,
    /// `<think>` and `<tool_call>`, the latter around `<function=...>` (MiMo, Qwen-Coder) or a
    /// JSON object (Hermes, Qwen, the demo checkpoint). Both forms of calls are read.
    Tagged(TagLayout),
    /// gpt-oss: `<|channel|>`, `<|message|>` and their kin.
    Harmony,
}

/// Which newlines around tags belong to the format and not to the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TagLayout {
    /// Newlines behind `<think>` and before `</think>`, at most.
    pub newlines_in_thinking: u8,
    /// Newlines behind `</think>`, at most.
    pub newlines_after_thinking: u8,
    /// One newline behind `<parameter=ARG>` and one before `</parameter>`.
    pub newlines_in_values: bool,
}

impl TagLayout {
    /// MiMo: every character between tags is text.
    pub const BARE: Self =
        Self { newlines_in_thinking: 0, newlines_after_thinking: 0, newlines_in_values: false };
    /// Tags of the thinking on lines of their own, as the demo checkpoint writes them.
    pub const LINES: Self =
        Self { newlines_in_thinking: 1, newlines_after_thinking: 1, newlines_in_values: false };
}

impl Format {
    /// Finds the format of a checkpoint by what its chat template writes, and where that says
    /// nothing by the special tokens it has.
    pub fn of_checkpoint(template: Option<&ChatTemplate>, tokenizer: Option<&Tokenizer>) -> Self {
        let source = template.map(ChatTemplate::source).unwrap_or_default();
        let has = |token: &str| tokenizer.is_some_and(|t| t.token_to_id(token).is_some());
        Self::detect(&source, has)
    }

    /// [`Format::of_checkpoint`] on the template's source and a test for tokens of the vocabulary.
    pub fn detect(template: &str, has_token: impl Fn(&str) -> bool) -> Self {
        let writes = |text: &str| template.contains(text);
        if writes("<|channel|>") {
            return Self::Harmony;
        }
        if writes("<think>") || writes("</think>") || writes("<tool_call>") || writes("<function=")
        {
            let thinks = writes("<think>") || writes("</think>");
            return Self::Tagged(if thinks {
                layout_of(template)
            } else {
                TagLayout { newlines_in_values: values_on_lines(template), ..TagLayout::LINES }
            });
        }
        if has_token("<|channel|>") && has_token("<|message|>") {
            Self::Harmony
        } else if has_token("<think>") || has_token("<tool_call>") {
            Self::Tagged(TagLayout::LINES)
        } else {
            Self::Plain
        }
    }

    /// Makes the parser of one output.
    ///
    /// `prompt` is the rendered prompt that was sent (its end decides where the output begins).
    pub fn parser(self, prompt: &str, options: ParserOptions) -> Box<dyn OutputParser> {
        match self {
            Self::Plain => Box::new(PlainParser),
            Self::Tagged(layout) => {
                let state = ReasoningState::from_prompt_suffix(prompt);
                Box::new(TaggedParser::new(layout, state, options))
            }
            Self::Harmony => Box::new(HarmonyParser::new(prompt, options)),
        }
    }

    /// Whether the text must contain the special tokens: generate with
    /// [`crate::TextParams::skip_special_tokens`] off.
    pub fn needs_special_tokens(self) -> bool {
        self != Self::Plain
    }
}

/// A newline in template source is an escape in a string or the character itself.
fn newlines_behind(template: &str, tag: &str) -> u8 {
    let count = |behind: &str| {
        let mut rest = behind;
        let mut newlines = 0;
        while let Some(next) = rest.strip_prefix("\\n").or_else(|| rest.strip_prefix('\n')) {
            rest = next;
            newlines += 1;
        }
        newlines
    };
    template.match_indices(tag).map(|(at, _)| count(&template[at + tag.len()..])).max().unwrap_or(0)
}

fn layout_of(template: &str) -> TagLayout {
    TagLayout {
        newlines_in_thinking: newlines_behind(template, "<think>").min(1),
        newlines_after_thinking: newlines_behind(template, "</think>").min(2),
        newlines_in_values: values_on_lines(template),
    }
}

/// Whether `<parameter=NAME>` is followed by a newline. The name is an example in the
/// instructions, or an expression between two strings.
fn values_on_lines(template: &str) -> bool {
    const PARAMETER: &str = "<parameter=";
    template.match_indices(PARAMETER).any(|(at, _)| {
        let rest = &template[at + PARAMETER.len()..];
        let rest = rest.split_once('>').map_or("", |(_, rest)| rest);
        rest.starts_with("\\n") || rest.starts_with('\n')
    })
}
