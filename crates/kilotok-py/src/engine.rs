//! The engine and its text layer, as one Python object.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kilotok::backend::Trace;
use kilotok::engine::{self, Request};
use kilotok::sample::Grammar;
use kilotok_text::{
    ChatTemplate, Detokenizer, EncodeOptions, Format, GrammarPart, Grammars, OutputRules,
    StopMatcher, TemplateInput, TextError, Tokenizer,
};
use parking_lot::RwLock;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{closed, guard, invalid, raised, text_raised};
use crate::info::{Info, to_python};
use crate::load::{RawTensor, tensor_data};
use crate::options::{self, RequestOptions};
use crate::process;
use crate::stream::{Text, TokenStream};

const NO_TOKENIZER: &str =
    "the model has no tokenizer.json, so text can neither go in nor come out; use token ids";

/// Everything that one loaded model needs.
pub(crate) struct Loaded {
    pub(crate) engine: engine::Engine,
    pub(crate) info: Info,
    pub(crate) tokenizer: Option<Arc<Tokenizer>>,
    pub(crate) template: Option<ChatTemplate>,
    /// Made at the first request that constrains its text.
    grammars: OnceLock<Result<Grammars, String>>,
}

impl Loaded {
    /// Adds the text layer of a directory, where it has one.
    pub(crate) fn new(
        engine: engine::Engine,
        info: Info,
        text_dir: Option<&Path>,
    ) -> PyResult<Self> {
        let tokenizer = text_dir.map(Tokenizer::from_dir).transpose().map_err(text_raised)?;
        let tokenizer = tokenizer.flatten().map(Arc::new);
        let template = match (text_dir, &tokenizer) {
            (Some(dir), Some(tokenizer)) => {
                ChatTemplate::from_dir(dir, tokenizer.special_tokens()).map_err(text_raised)?
            }
            _ => None,
        };
        Ok(Self { engine, info, tokenizer, template, grammars: OnceLock::new() })
    }

    fn tokenizer(&self, parameter: &str) -> PyResult<&Arc<Tokenizer>> {
        self.tokenizer.as_ref().ok_or_else(|| invalid(parameter, NO_TOKENIZER))
    }

    fn encode(&self, text: &str, options: EncodeOptions) -> PyResult<Vec<u32>> {
        self.tokenizer("prompt")?.encode(text, options).map_err(text_raised)
    }

    fn submit(
        &self,
        prompt: Vec<u32>,
        options: &RequestOptions,
        asked: Asked,
    ) -> PyResult<TokenStream> {
        let text = match &self.tokenizer {
            None if options.stop.is_empty() => None,
            None => return Err(invalid("stop", NO_TOKENIZER)),
            Some(tokenizer) => Some(Text {
                detokenizer: Detokenizer::new(Arc::clone(tokenizer), options.skip_special_tokens),
                stop: StopMatcher::new(&options.stop, false).map_err(text_raised)?,
            }),
        };
        let params = options.sampling();
        let grammar = self.constrain(&prompt, options, asked.message)?;
        let Asked { speculation, priority, cache_salt, .. } = asked;
        let request = Request { prompt, params, speculation, priority, cache_salt, grammar };
        let stream = self.engine.submit(request).map_err(raised)?;
        Ok(TokenStream::new(stream, text))
    }

    /// What the text has to be; behind the thinking, where it is a message.
    fn constrain(
        &self,
        prompt: &[u32],
        options: &RequestOptions,
        message: bool,
    ) -> PyResult<Option<Arc<dyn Grammar>>> {
        let (name, answer) = options.rule()?.unzip();
        let thinking_budget = options.thinking_budget;
        let name = name.unwrap_or("thinking_budget");
        if answer.is_none() && thinking_budget.is_none() {
            return Ok(None);
        }
        let tokenizer = self.tokenizer(name)?;
        let refuse = |error: TextError| match error {
            TextError::Grammar { part: GrammarPart::Thinking, reason } => {
                invalid("thinking_budget", &reason)
            }
            TextError::Grammar { reason, .. } => invalid(name, &reason),
            other => text_raised(other),
        };
        let made = self.grammars.get_or_init(|| {
            let info = self.engine.info();
            Grammars::new(tokenizer, self.template.as_ref(), info.vocab, &info.eos_token_ids)
                .map_err(|error| match error {
                    TextError::Grammar { reason, .. } => reason,
                    other => other.to_string(),
                })
        });
        let grammars = made.as_ref().map_err(|reason| invalid(name, reason))?;
        if message {
            let format = Format::of_checkpoint(self.template.as_ref(), Some(tokenizer));
            let text = tokenizer.decode(prompt, false).map_err(text_raised)?;
            let rules = OutputRules { answer, thinking_budget, ..OutputRules::default() };
            return grammars.message(format, &text, &rules).map_err(refuse);
        }
        match answer {
            Some(answer) => grammars.text(&answer).map(Some).map_err(refuse),
            None => Err(invalid("thinking_budget", "only `chat` knows where the thinking is")),
        }
    }

    fn render_chat(&self, input: &TemplateInput) -> PyResult<Vec<u32>> {
        self.tokenizer("messages")?;
        let template = self
            .template
            .as_ref()
            .ok_or_else(|| invalid("messages", "the model has no chat template; use `generate`"))?;
        let text = template.render(input).map_err(text_raised)?;
        // The template writes every special token itself.
        self.encode(&text, EncodeOptions { add_special_tokens: false, parse_special: true })
    }
}

/// What a request asks for besides its sampling.
struct Asked {
    speculation: Option<engine::Speculation>,
    priority: i32,
    cache_salt: Option<Arc<str>>,
    /// The prompt is a conversation's.
    message: bool,
}

/// A loaded model and its engine thread.
#[pyclass(frozen, module = "kilotok._core")]
pub(crate) struct Engine {
    loaded: RwLock<Option<Arc<Loaded>>>,
}

impl Engine {
    pub(crate) fn new(loaded: Loaded) -> Self {
        Self { loaded: RwLock::new(Some(Arc::new(loaded))) }
    }

    /// What every call starts with: a closed or broken engine answers nothing.
    fn alive(&self) -> PyResult<Arc<Loaded>> {
        process::check()?;
        let loaded = self.loaded.read().clone().ok_or_else(closed)?;
        loaded.engine.alive().map_err(raised)?;
        Ok(loaded)
    }

    /// Runs `body` without the GIL.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        body: impl FnOnce(&Loaded) -> PyResult<T> + Send,
    ) -> PyResult<T> {
        guard(|| {
            let loaded = self.alive()?;
            py.detach(|| body(&loaded))
        })
    }
}

#[pymethods]
impl Engine {
    /// Hands in one request. `options` is what `SamplingParams.request` returns.
    #[pyo3(signature = (prompt, options, speculation = None, priority = 0, cache_salt = None, message = false))]
    fn submit(
        &self,
        py: Python<'_>,
        prompt: Vec<u32>,
        options: RequestOptions,
        speculation: Option<Bound<'_, PyAny>>,
        priority: i32,
        cache_salt: Option<&str>,
        message: bool,
    ) -> PyResult<TokenStream> {
        let speculation = speculation.as_ref().map(options::speculation).transpose()?;
        let cache_salt = cache_salt.map(Arc::from);
        let asked = Asked { speculation, priority, cache_salt, message };
        self.with(py, move |loaded| loaded.submit(prompt, &options, asked))
    }

    /// Token ids of a prompt.
    fn encode(&self, py: Python<'_>, text: &str) -> PyResult<Vec<u32>> {
        self.with(py, |loaded| loaded.encode(text, EncodeOptions::default()))
    }

    /// Text of token ids.
    fn decode(
        &self,
        py: Python<'_>,
        token_ids: Vec<u32>,
        skip_special_tokens: bool,
    ) -> PyResult<String> {
        self.with(py, |loaded| {
            let tokenizer = loaded.tokenizer("token_ids")?;
            tokenizer.decode(&token_ids, skip_special_tokens).map_err(text_raised)
        })
    }

    /// Token ids of a conversation: JSON with `messages`, and maybe `tools` and `template_args`.
    fn render_chat(&self, py: Python<'_>, json: &str) -> PyResult<Vec<u32>> {
        let input = template_input(json)?;
        self.with(py, |loaded| loaded.render_chat(&input))
    }

    /// Whether text can go in and come out.
    #[getter]
    fn has_tokenizer(&self) -> PyResult<bool> {
        Ok(self.alive()?.tokenizer.is_some())
    }

    /// Longest sequence, prompt and output together.
    #[getter]
    fn max_positions(&self) -> PyResult<usize> {
        Ok(self.alive()?.engine.limits().max_positions)
    }

    /// Requests that one caller should keep in flight: enough to fill every slot.
    #[getter]
    fn queue_window(&self) -> PyResult<usize> {
        Ok(2 * self.alive()?.engine.limits().slots)
    }

    /// Counters since the start and gauges of the moment.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.alive()?.engine.stats();
        let out = PyDict::new(py);
        out.set_item("running", stats.running)?;
        out.set_item("waiting", stats.waiting)?;
        out.set_item("pages_used", stats.pages_used)?;
        out.set_item("pages_cached", stats.pages_cached)?;
        out.set_item("pages_total", stats.pages_total)?;
        out.set_item("finished", stats.finished)?;
        out.set_item("cancelled", stats.cancelled)?;
        out.set_item("tokens", stats.tokens)?;
        out.set_item("prefix_queries", stats.prefix_queries)?;
        out.set_item("prefix_hits", stats.prefix_hits)?;
        out.set_item("rounds", stats.rounds)?;
        out.set_item("drafted", stats.drafted)?;
        out.set_item("accepted", stats.accepted)?;
        out.set_item("speculative_rounds", stats.speculative_rounds)?;
        out.set_item("plain_step_ms", (stats.plain_step_ms > 0.0).then_some(stats.plain_step_ms))?;
        out.set_item("warning", stats.warning)?;
        Ok(out)
    }

    /// The model and what the engine was built to hold.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let loaded = self.alive()?;
        to_python(py, &loaded.info.describe(&loaded.engine))
    }

    /// Bytes by what holds them.
    fn memory<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let loaded = self.alive()?;
        to_python(py, &loaded.info.memory(&loaded.engine))
    }

    /// Replaces weights between two rounds. Tensors are read before this returns, not kept.
    fn update_weights(
        &self,
        py: Python<'_>,
        tensors: BTreeMap<String, RawTensor<'_>>,
        keep_kv: bool,
    ) -> PyResult<()> {
        let tensors = tensor_data(tensors)?;
        self.with(py, |loaded| loaded.engine.update_weights(tensors, keep_kv).map_err(raised))
    }

    /// Keeps what the device does in its newest `ops` ops from the next round on.
    fn start_trace(&self, py: Python<'_>, ops: u32) -> PyResult<()> {
        self.with(py, |loaded| loaded.engine.start_trace(ops).map_err(raised))
    }

    /// Ends the trace, writes its timeline to `path`, and returns its summary.
    fn end_trace(&self, py: Python<'_>, path: PathBuf) -> PyResult<String> {
        self.with(py, |loaded| {
            let trace = loaded.engine.end_trace().map_err(raised)?;
            write_trace(&trace, &path)?;
            Ok(trace.summary())
        })
    }

    /// Ends every request and frees the model before returning.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        process::check()?;
        py.detach(|| {
            let loaded = self.loaded.write().take();
            if let Some(loaded) = loaded {
                loaded.engine.close();
            }
        });
        Ok(())
    }
}

impl Drop for Engine {
    /// Stops the engine thread without the GIL, which it never needs but others may hold.
    fn drop(&mut self) {
        if let Some(loaded) = self.loaded.get_mut().take() {
            if !process::is_owner() {
                // The thread to join is in another process.
                let _ = ManuallyDrop::new(loaded);
                return;
            }
            Python::try_attach(|py| py.detach(|| loaded.engine.close()));
        }
    }
}

/// Writes the timeline of a trace.
pub(crate) fn write_trace(trace: &Trace, path: &Path) -> PyResult<()> {
    let mut file = BufWriter::new(File::create(path)?);
    trace.write_json(&mut file)?;
    Ok(file.flush()?)
}

fn template_input(json: &str) -> PyResult<TemplateInput> {
    use serde_json::Value;
    let list = |value: Option<Value>| match value {
        Some(Value::Array(items)) => Some(items),
        _ => None,
    };
    let refuse = |reason: String| invalid("messages", &reason);
    let value: Value = serde_json::from_str(json).map_err(|e| refuse(e.to_string()))?;
    let Value::Object(mut fields) = value else {
        return Err(refuse("expected a JSON object".to_owned()));
    };
    Ok(TemplateInput {
        messages: list(fields.remove("messages")).unwrap_or_default(),
        tools: list(fields.remove("tools")),
        add_generation_prompt: true,
        kwargs: match fields.remove("template_args") {
            Some(Value::Object(arguments)) => arguments,
            _ => serde_json::Map::new(),
        },
        ..TemplateInput::default()
    })
}
