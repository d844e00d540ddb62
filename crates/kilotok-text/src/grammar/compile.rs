//! From rules to something the engine can follow.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use kilotok::sample::{Grammar, TokenMask};
use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use parking_lot::Mutex;

use super::calls::{self, Form, wrong};
use super::gate::{Gate, Gated};
use super::rule::{Rule, Whole, plain};
use super::spelling::Speller;
use super::{CallMode, GrammarPart, GrammarSpec, OutputRules, harmony, vocabulary};
use crate::{ChatTemplate, Format, ReasoningState, TagLayout, TextError, Tokenizer};

/// Compiled grammars that are kept.
const KEPT: usize = 32;
/// Bytes of stack for compiling; only what is used is ever taken from the system.
const COMPILER_STACK: usize = 256 << 20;
/// States of a lexer, of 1 to 2 kB each: what one request may use up.
const MAX_LEXER_STATES: usize = 50_000;

/// Compiles rules for one model. Made once: it holds the vocabulary as a trie.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    factory: ParserFactory,
    eos: Arc<[u32]>,
    /// The template writes calls as `<function=NAME>`.
    function_calls: bool,
    /// Everything that is text.
    text: Arc<TokenMask>,
    newlines: [TokenMask; 2],
    close_speller: Arc<Speller>,
    call_speller: Arc<Speller>,
    kept: Mutex<HashMap<String, Arc<Rule>>>,
}

impl Grammars {
    /// For a tokenizer and a model with `vocab` token ids, of which `eos` end a text. `template`
    /// shows in which form the model writes its calls.
    ///
    /// # Errors
    /// [`TextError::Grammar`] where output of this model cannot be constrained.
    pub fn new(
        tokenizer: &Arc<Tokenizer>,
        template: Option<&ChatTemplate>,
        vocab: usize,
        eos: &[u32],
    ) -> Result<Self, TextError> {
        let fail = |reason: String| wrong(GrammarPart::Answer, reason);
        let mut eos: Vec<u32> = eos.iter().copied().filter(|id| (*id as usize) < vocab).collect();
        eos.sort_unstable();
        eos.dedup();
        let environment = vocabulary::environment(tokenizer, vocab, &eos).map_err(fail)?;
        let slices = SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
                .map_err(|error| fail(plain(&error.to_string())))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_lexer_states: MAX_LEXER_STATES,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        let word = |id: u32| match tokenizer.token_bytes(id) {
            Some(bytes) if !tokenizer.is_markup(id) => bytes.into_boxed_slice(),
            _ => Box::default(),
        };
        let words: Arc<[Box<[u8]>]> = (0..vocab as u32).map(word).collect();
        let having = |fits: &dyn Fn(&[u8]) -> bool| {
            let mut mask = TokenMask::new(vocab);
            let ids = words.iter().enumerate().filter(|(_, word)| fits(word));
            for (id, _) in ids {
                mask.allow(id as u32);
            }
            mask
        };
        let mut text = having(&|word| !word.is_empty());
        for &id in &eos {
            text.forbid(id);
        }
        Ok(Self {
            newlines: [having(&|word| word == b"\n"), having(&|word| word == b"\n\n")],
            text: Arc::new(text),
            close_speller: Arc::new(Speller::new("</think>", Arc::clone(&words))),
            call_speller: Arc::new(Speller::new("<tool_call>", Arc::clone(&words))),
            tokenizer: Arc::clone(tokenizer),
            function_calls: template.is_some_and(|t| t.source().contains("<function=")),
            factory,
            eos: eos.into(),
            kept: Mutex::default(),
        })
    }

    /// A rule for plain text, from its first token to its last.
    ///
    /// # Errors
    /// [`TextError::Grammar`] where it cannot be compiled.
    pub fn text(&self, spec: &GrammarSpec) -> Result<Arc<dyn Grammar>, TextError> {
        Ok(Arc::new(Whole(self.answer(spec)?)))
    }

    /// Rules for a message; `None` where there are none. `prompt`: as rendered, since its end
    /// decides where the output begins.
    ///
    /// # Errors
    /// [`TextError::Grammar`] naming the rule that cannot be compiled or enforced.
    pub fn message(
        &self,
        format: Format,
        prompt: &str,
        rules: &OutputRules,
    ) -> Result<Option<Arc<dyn Grammar>>, TextError> {
        let constrained = rules.answer.is_some() || rules.mode != CallMode::Free;
        if rules.is_empty() {
            return Ok(None);
        }
        match format {
            Format::Tagged(layout) => self.tagged(layout, prompt, rules).map(Some),
            Format::Harmony if constrained => {
                let text = harmony::turn(&self.tokenizer, prompt, rules)?;
                let part =
                    if rules.answer.is_some() { GrammarPart::Answer } else { GrammarPart::Calls };
                let rule = self.compile(text, rules.answer.as_ref(), part)?;
                Ok(Some(Arc::new(Whole(rule))))
            }
            Format::Harmony => {
                Err(wrong(GrammarPart::Thinking, "this model's thinking cannot be cut short"))
            }
            Format::Plain => match (&rules.answer, rules.mode) {
                (_, CallMode::Required | CallMode::Strict) => {
                    Err(wrong(GrammarPart::Calls, "this model has no form for calls"))
                }
                (Some(answer), CallMode::Free) => self.text(answer).map(Some),
                // A model without thinking keeps within any budget of it.
                (None, CallMode::Free) => Ok(None),
            },
        }
    }

    fn tagged(
        &self,
        layout: TagLayout,
        prompt: &str,
        rules: &OutputRules,
    ) -> Result<Arc<dyn Grammar>, TextError> {
        let id = |text: &str| self.tokenizer.token_to_id(text);
        let tags = (id("<tool_call>"), id("</tool_call>"));
        let values_on_lines = layout.newlines_in_values;
        let form =
            if self.function_calls { Form::Function { values_on_lines } } else { Form::Json };
        let calls = || calls::tagged(form, &rules.calls, rules.parallel, tags);
        let mut call = None;
        let answer = match (&rules.answer, rules.mode) {
            (_, CallMode::Required) => {
                let text = format!("start: calls\n{}", calls()?);
                Some(self.calls(text, None, rules)?)
            }
            (Some(answer), _) if rules.calls.is_empty() => Some(self.answer(answer)?),
            (Some(answer), _) => {
                let text = format!("start: @answer | calls\n{}", calls()?);
                Some(self.calls(text, Some(answer), rules)?)
            }
            (None, CallMode::Strict) => {
                let Some(open) = tags.0 else {
                    let reason = "the vocabulary has no token that opens a call";
                    return Err(wrong(GrammarPart::Calls, reason));
                };
                let rule = self.calls(format!("start: rest\n{}", calls()?), None, rules)?;
                call = Some((open, Arc::clone(&self.call_speller), rule));
                None
            }
            (None, CallMode::Free) => None,
        };
        let start = ReasoningState::from_prompt_suffix(prompt);
        let close = id("</think>").map(|close| (close, Arc::clone(&self.close_speller)));
        if close.is_none() && start == ReasoningState::Inside {
            let part = if answer.is_some() { GrammarPart::Answer } else { GrammarPart::Thinking };
            return Err(wrong(part, "the vocabulary has no token that ends the thinking"));
        }
        if let (Some(answer), None, None) = (&answer, &call, &close) {
            return Ok(Arc::new(Whole(Arc::clone(answer))));
        }
        Ok(Arc::new(Gated(Arc::new(Gate {
            start,
            open: id("<think>"),
            close,
            budget: rules.thinking_budget,
            newlines: self.newlines.clone(),
            newlines_after: layout.newlines_after_thinking,
            text: Arc::clone(&self.text),
            answer,
            call,
        }))))
    }

    fn answer(&self, spec: &GrammarSpec) -> Result<Arc<Rule>, TextError> {
        let fail = |reason| wrong(GrammarPart::Answer, reason);
        spec.check().map_err(fail)?;
        self.compile(spec.lark().map_err(fail)?, None, GrammarPart::Answer)
    }

    /// Compiles rules with calls in them, and says which part is to blame if that fails.
    fn calls(
        &self,
        text: String,
        answer: Option<&GrammarSpec>,
        rules: &OutputRules,
    ) -> Result<Arc<Rule>, TextError> {
        let bytes: usize =
            rules.calls.iter().map(|c| c.schema.as_ref().map_or(0, |s| s.to_string().len())).sum();
        if bytes > super::MAX_GRAMMAR_BYTES {
            let reason = format!("schemas of {bytes} bytes, at most {}", super::MAX_GRAMMAR_BYTES);
            return Err(wrong(GrammarPart::Calls, reason));
        }
        self.compile(text, answer, GrammarPart::Calls).map_err(|error| {
            if let Some(Err(blamed)) = answer.map(|answer| self.answer(answer)) {
                return blamed;
            }
            let blame = |(index, call)| {
                let schema = calls::arguments_schema(call, index).ok()?;
                match self.answer(&GrammarSpec::JsonSchema(schema)) {
                    Err(TextError::Grammar { reason, .. }) => {
                        Some(wrong(GrammarPart::Call(index), reason))
                    }
                    _ => None,
                }
            };
            rules.calls.iter().enumerate().find_map(blame).unwrap_or(error)
        })
    }

    fn compile(
        &self,
        text: String,
        answer: Option<&GrammarSpec>,
        part: GrammarPart,
    ) -> Result<Arc<Rule>, TextError> {
        let mut grammars = vec![named("start", text)];
        if let Some(answer) = answer {
            let fail = |reason| wrong(GrammarPart::Answer, reason);
            answer.check().map_err(fail)?;
            grammars.push(named("answer", answer.lark().map_err(fail)?));
        }
        let texts: Vec<&str> = grammars.iter().filter_map(|g| g.lark_grammar.as_deref()).collect();
        let key = texts.join("\0");
        if let Some(rule) = self.kept.lock().get(&key) {
            return Ok(Arc::clone(rule));
        }
        let grammar = TopLevelGrammar { grammars, max_tokens: None };
        let matcher = on_large_stack(|| Matcher::new(self.factory.create_parser(grammar)));
        let matcher = matcher.map_err(|reason| wrong(part, reason))?;
        if let Some(error) = matcher.get_error() {
            return Err(wrong(part, plain(&error)));
        }
        let rule = Arc::new(Rule::new(matcher, Arc::clone(&self.eos)));
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(key, Arc::clone(&rule));
        Ok(rule)
    }
}

/// The library compiles rules that refer to each other recursively, and no error can be made of a
/// stack that overflows. Sizes are limited such that this much is enough.
fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().stack_size(COMPILER_STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| format!("no thread to compile it: {error}"))?;
        thread.join().map_err(|_| "it cannot be compiled".to_owned())
    })
}

fn named(name: &str, text: String) -> GrammarWithLexer {
    GrammarWithLexer { name: Some(name.to_owned()), ..GrammarWithLexer::from_lark(text) }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").field("kept", &self.kept.lock().len()).finish_non_exhaustive()
    }
}
