//! The engine with a tokenizer and a chat template around it.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use kilotok::engine::{Engine, Request};
use kilotok::sample::Grammar;

use crate::sequence::Sequence;
use crate::{
    ChatTemplate, Completion, EncodeOptions, Format, GrammarPart, GrammarSpec, Grammars,
    OutputRules, Prompt, SpecialTokens, StopMatcher, TemplateInput, TextError, TextParams,
    TextStream, Tokenizer,
};

/// Text in, text out. Cheap to clone; all methods take `&self`.
///
/// Without a tokenizer it takes and gives token ids; whatever needs text is then a typed error.
#[derive(Debug, Clone)]
pub struct TextEngine {
    engine: Arc<Engine>,
    tokenizer: Option<Arc<Tokenizer>>,
    template: Option<Arc<ChatTemplate>>,
    /// Made at the first request that constrains its output.
    grammars: Arc<OnceLock<Result<Grammars, String>>>,
}

impl TextEngine {
    /// Puts the parts together; both of the optional ones may be missing.
    pub fn new(
        engine: Arc<Engine>,
        tokenizer: Option<Tokenizer>,
        template: Option<ChatTemplate>,
    ) -> Self {
        Self {
            engine,
            tokenizer: tokenizer.map(Arc::new),
            template: template.map(Arc::new),
            grammars: Arc::default(),
        }
    }

    /// Reads tokenizer and chat template from the model directory, where it has them.
    ///
    /// # Errors
    /// As [`Tokenizer::from_dir`] and [`ChatTemplate::from_dir`].
    pub fn from_dir(engine: Arc<Engine>, dir: &Path) -> Result<Self, TextError> {
        let tokenizer = Tokenizer::from_dir(dir)?;
        let template = match &tokenizer {
            Some(tokenizer) => ChatTemplate::from_dir(dir, tokenizer.special_tokens())?,
            None => ChatTemplate::from_dir(dir, &SpecialTokens::from_dir(dir)?)?,
        };
        Ok(Self::new(engine, tokenizer, template))
    }

    /// The engine underneath.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The tokenizer, if the model has one.
    pub fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    /// The chat template, if the model has one.
    pub fn template(&self) -> Option<&Arc<ChatTemplate>> {
        self.template.as_ref()
    }

    /// The prompt text of a conversation.
    ///
    /// # Errors
    /// [`TextError::NoTemplate`], or what [`ChatTemplate::render`] finds.
    pub fn render_chat(&self, input: &TemplateInput) -> Result<String, TextError> {
        let template = self.template.as_ref().ok_or_else(|| TextError::NoTemplate {
            requested: input.template.clone(),
            available: Vec::new(),
        })?;
        template.render(input)
    }

    /// The token ids of a prompt.
    ///
    /// # Errors
    /// [`TextError::NoTokenizer`], [`TextError::NoTemplate`] or what encoding and rendering find.
    pub fn encode(&self, prompt: Prompt, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        match prompt {
            Prompt::Tokens(ids) => Ok(ids),
            Prompt::Text(text) => {
                let options = EncodeOptions { add_special_tokens, parse_special: true };
                self.need_tokenizer("a text prompt")?.encode(&text, options)
            }
            Prompt::Chat(input) => {
                let tokenizer = self.need_tokenizer("a chat prompt")?;
                let text = self.render_chat(&input)?;
                // The template writes the special tokens itself.
                let options = EncodeOptions { add_special_tokens: false, parse_special: true };
                tokenizer.encode(&text, options)
            }
        }
    }

    /// What [`TextParams::grammar`] takes for a message: `prompt` as [`TextEngine::render_chat`]
    /// gave it.
    ///
    /// # Errors
    /// [`TextError::Grammar`] naming the rule that cannot be compiled or enforced, and
    /// [`TextError::NoTokenizer`].
    pub fn constrain_message(
        &self,
        prompt: &str,
        rules: &OutputRules,
    ) -> Result<Option<Arc<dyn Grammar>>, TextError> {
        let (template, tokenizer) = (self.template.as_deref(), self.tokenizer.as_deref());
        let format = Format::of_checkpoint(template, tokenizer);
        if rules.is_empty() { Ok(None) } else { self.grammars()?.message(format, prompt, rules) }
    }

    /// What [`TextParams::grammar`] takes for plain text, all of which the rule is about.
    ///
    /// # Errors
    /// As [`TextEngine::constrain_message`].
    pub fn constrain_text(&self, spec: &GrammarSpec) -> Result<Arc<dyn Grammar>, TextError> {
        self.grammars()?.text(spec)
    }

    fn grammars(&self) -> Result<&Grammars, TextError> {
        self.need_tokenizer("constrained output")?;
        let made = self.grammars.get_or_init(|| {
            let Some(tokenizer) = &self.tokenizer else { return Err("no tokenizer".into()) };
            let info = self.engine.info();
            let eos: Vec<u32> =
                info.eos_token_ids.iter().chain(tokenizer.eos_token_ids()).copied().collect();
            Grammars::new(tokenizer, self.template.as_deref(), info.vocab, &eos).map_err(|error| {
                match error {
                    TextError::Grammar { reason, .. } => reason,
                    other => other.to_string(),
                }
            })
        });
        let fail = |reason: &String| TextError::Grammar {
            part: GrammarPart::Answer,
            reason: reason.clone(),
        };
        made.as_ref().map_err(fail)
    }

    /// Starts a request; pieces of its `n` sequences arrive on the returned stream.
    ///
    /// # Errors
    /// As [`TextEngine::encode`]; [`TextError::InvalidRequest`] or [`TextError::Engine`] naming
    /// the parameter that is out of range; [`TextError::Engine`] when the queue is full or the
    /// engine is dead.
    pub fn submit(
        &self,
        prompt: impl Into<Prompt>,
        params: &TextParams,
    ) -> Result<TextStream, TextError> {
        self.engine.alive()?;
        params.validate()?;
        if !params.stop.is_empty() {
            self.need_tokenizer("a stop string")?;
        }
        let stop = StopMatcher::new(&params.stop, params.include_stop)?;
        let prompt: Arc<[u32]> = self.encode(prompt.into(), params.add_special_tokens)?.into();
        let stop_tokens = self.stop_tokens(params);
        let mut sequences = Vec::with_capacity(params.n as usize);
        for index in 0..params.n {
            let mut request = Request::new(prompt.to_vec()).params(params.sampling.clone());
            request.params.seed = params.sampling.seed.map(|seed| seed.wrapping_add(index.into()));
            if !params.goes_on() {
                self.add_eos(&mut request.params.stop_token_ids);
            }
            request.speculation = params.speculation;
            request.cache_salt.clone_from(&params.cache_salt);
            request.priority = params.priority;
            request.grammar.clone_from(&params.grammar);
            let sequence = Sequence::new(
                index as usize,
                self.tokenizer.clone(),
                params,
                stop.clone(),
                Arc::clone(&stop_tokens),
            );
            sequences.push((self.engine.submit(request)?, sequence));
        }
        Ok(TextStream::new(prompt, sequences))
    }

    /// Runs a request to its end.
    ///
    /// # Errors
    /// As [`TextEngine::submit`] and [`TextStream::wait`].
    pub fn generate(
        &self,
        prompt: impl Into<Prompt>,
        params: &TextParams,
    ) -> Result<Vec<Completion>, TextError> {
        self.submit(prompt, params)?.wait()
    }

    /// Every id that ends a sequence, ascending.
    fn stop_tokens(&self, params: &TextParams) -> Arc<[u32]> {
        let mut ids = params.sampling.stop_token_ids.clone();
        if !params.goes_on() {
            ids.extend(&self.engine.info().eos_token_ids);
            self.add_eos(&mut ids);
        }
        ids.sort_unstable();
        ids.dedup();
        ids.into()
    }

    /// The ids that only the tokenizer's files declare. A tokenizer larger than the model's
    /// vocabulary is no reason to fail: such ids never come.
    fn add_eos(&self, ids: &mut Vec<u32>) {
        let vocab = self.engine.info().vocab;
        if let Some(tokenizer) = &self.tokenizer {
            ids.extend(tokenizer.eos_token_ids().iter().filter(|&&id| (id as usize) < vocab));
        }
    }

    fn need_tokenizer(&self, operation: &'static str) -> Result<&Tokenizer, TextError> {
        self.tokenizer.as_deref().ok_or(TextError::NoTokenizer { operation })
    }
}
