//! `/v1/completions`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use kilotok_text::{Completion, Piece, Prompt, TextEngine};
use serde_json::{Value, json};

use super::chat::Header;
use super::logprobs;
use super::params::{self, Streaming};
use super::rules::{self, Rules};
use super::tokenize::token_strings;
use crate::App;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::events::{self, Events, Frames};
use crate::fields::{Fields, found};
use crate::generation::{Generation, Job};
use crate::receipt;

/// OpenAI's default, which clients of this old route rely on.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// Continues prompts.
pub(crate) async fn completions(
    State(app): State<App>,
    JsonBody(mut fields): JsonBody,
) -> Result<Response, ApiError> {
    let model = fields.string("model")?;
    app.check_model(model.as_deref())?;
    let streaming = params::streaming(&mut fields)?;
    let prompts = read_prompts(&mut fields, app.config().limits.prompts)?;
    let most = i64::from(app.config().limits.logprobs);
    let logprobs = fields.integer("logprobs", 0, most)?.map(|top| top as u32);
    let echo = fields.bool("echo")?.unwrap_or(false);
    if echo && logprobs.is_some() && streaming.on {
        let reason = "with `logprobs` only without `stream`";
        return Err(ApiError::unsupported("echo", reason));
    }
    let token_ids = fields.bool("return_token_ids")?.unwrap_or(false);
    let no_suffix = |value: &Value| value.as_str() == Some("");
    fields.refuse("suffix", "text is not filled in", no_suffix)?;
    let rules = Rules::new(rules::answer(&mut fields)?);
    let mut common = params::common(&mut fields, app.config())?;
    params::check_sequences(prompts.len(), common.params.n, app.config())?;
    common.params.sampling.logprobs = logprobs;
    // What scoring of texts asks for: the likelihood of the prompt itself.
    common.params.sampling.prompt_logprobs = logprobs.filter(|_| echo);
    let n = common.params.n as usize;
    let writer = Writer {
        header: Header::new("cmpl-", &app),
        streaming,
        n,
        token_ids,
        wants_logprobs: logprobs.is_some(),
        stop_token_ids: common.params.sampling.stop_token_ids.clone(),
        prompts: Vec::new(),
        echoes: Vec::new(),
        first_tokens: Vec::new(),
    };
    let sequences = prompts.len() * n;
    let job = Job {
        prompts,
        params: common.params,
        rules,
        max_tokens: Some(common.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS)),
        deadline: common.deadline,
    };
    let engine = app.engine()?;
    let count = job.prompts.len();
    let generation = Generation::start(&app, job).await?;
    let writer = writer.with_prompts(&engine, &generation, count, echo);
    let prompt_tokens = generation.prompt_tokens();
    if streaming.on {
        let offsets = (0..sequences).map(|index| writer.echo(index).chars().count());
        let stream = CompletionStream {
            logprobs: offsets.map(logprobs::Completions::at).collect(),
            tokens: vec![0; sequences],
            writer,
            prompt_tokens,
            completions: Vec::new(),
        };
        return Ok(events::respond(&app, generation, stream));
    }
    let completions = generation.collect(|_| ()).await?;
    let choices: Vec<Value> = completions.iter().map(|c| writer.choice(c)).collect();
    let mut body = writer.frame(&choices);
    body["usage"] = receipt::usage(prompt_tokens, 0, &completions);
    body["metrics"] = receipt::metrics(&completions);
    Ok(receipt::with_header(Json(body).into_response(), &completions))
}

/// A string, a list of strings, a list of token ids, or a list of such lists.
fn read_prompts(fields: &mut Fields, most: usize) -> Result<Vec<Prompt>, ApiError> {
    const NAME: &str = "prompt";
    let ids = |list: &[Value]| list.iter().map(params::token_id).collect::<Option<Vec<u32>>>();
    let list = match fields.take(NAME) {
        Some(Value::String(text)) => return Ok(vec![Prompt::Text(text)]),
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(Value::Array(_)) => return Err(fields.invalid(NAME, "the list is empty")),
        Some(other) => return Err(fields.invalid(NAME, found(&other, "a string or a list"))),
        None => return Err(fields.invalid(NAME, "missing, expected a string or a list")),
    };
    if let Some(ids) = ids(&list) {
        return Ok(vec![Prompt::Tokens(ids)]);
    }
    if list.len() > most {
        return Err(fields.invalid(NAME, format!("{} prompts, at most {most}", list.len())));
    }
    list.into_iter()
        .map(|prompt| match prompt {
            Value::String(text) => Ok(Prompt::Text(text)),
            Value::Array(list) => match ids(&list) {
                Some(ids) if !ids.is_empty() => Ok(Prompt::Tokens(ids)),
                _ => Err(fields.invalid(NAME, "a list holds something else than token ids")),
            },
            other => Err(fields.invalid(NAME, found(&other, "text or token ids"))),
        })
        .collect()
}

struct Writer {
    header: Header,
    streaming: Streaming,
    n: usize,
    token_ids: bool,
    wants_logprobs: bool,
    stop_token_ids: Vec<u32>,
    /// Token ids of the prompts, where asked for.
    prompts: Vec<Vec<u32>>,
    /// Text of the prompts, where asked for.
    echoes: Vec<String>,
    /// First tokens of the prompts, which have no log-probability.
    first_tokens: Vec<String>,
}

impl Writer {
    fn with_prompts(
        mut self,
        engine: &TextEngine,
        generation: &Generation,
        count: usize,
        echo: bool,
    ) -> Self {
        for prompt in 0..count {
            let ids = generation.prompt_token_ids(prompt);
            if echo {
                let text = engine.tokenizer().and_then(|t| t.decode(ids, false).ok());
                self.echoes.push(text.unwrap_or_else(|| token_strings(engine, ids).concat()));
            }
            if echo && self.wants_logprobs {
                self.first_tokens.push(token_strings(engine, &ids[..1]).concat());
            }
            if self.token_ids {
                self.prompts.push(ids.to_vec());
            }
        }
        self
    }

    fn echo(&self, index: usize) -> &str {
        self.echoes.get(index / self.n).map_or("", String::as_str)
    }

    fn frame(&self, choices: &[Value]) -> Value {
        json!({
            "id": self.header.id,
            "object": "text_completion",
            "created": self.header.created,
            "model": self.header.model,
            "choices": choices,
        })
    }

    fn choice(&self, completion: &Completion) -> Value {
        let echo = self.echo(completion.index);
        let logprobs = self.wants_logprobs.then(|| {
            let mut logprobs = logprobs::Completions::at(echo.chars().count());
            if let Some(first) = self.first_tokens.get(completion.index / self.n) {
                logprobs = logprobs::Completions::at(0);
                logprobs.plain(first);
                completion.prompt_logprobs.iter().for_each(|position| logprobs.push(position));
            }
            completion.logprobs.iter().for_each(|position| logprobs.push(position));
            logprobs.take()
        });
        let mut choice = json!({
            "index": completion.index,
            "text": format!("{echo}{}", completion.text),
            "logprobs": logprobs,
            "finish_reason": receipt::finish_reason(completion),
            "stop_reason": receipt::stop_reason(completion, &self.stop_token_ids),
        });
        if self.token_ids {
            choice["token_ids"] = json!(completion.token_ids);
            choice["prompt_token_ids"] = json!(self.prompts[completion.index / self.n]);
        }
        choice
    }
}

struct CompletionStream {
    writer: Writer,
    prompt_tokens: usize,
    logprobs: Vec<logprobs::Completions>,
    /// Tokens of each sequence so far.
    tokens: Vec<usize>,
    completions: Vec<Completion>,
}

impl CompletionStream {
    fn chunk(&self, choice: Value, tokens: usize, out: &mut Frames) {
        let mut frame = self.writer.frame(&[choice]);
        let usage = self.writer.streaming.usage_of_chunk(self.prompt_tokens, tokens);
        if let Some(usage) = usage {
            frame["usage"] = usage;
        }
        out.data(&frame);
    }
}

impl Events for CompletionStream {
    fn begin(&mut self, out: &mut Frames) {
        for index in 0..self.logprobs.len() {
            let echo = self.writer.echo(index);
            if !echo.is_empty() {
                let choice = json!({ "index": index, "text": echo, "logprobs": null, "finish_reason": null });
                self.chunk(choice, 0, out);
            }
        }
    }

    fn piece(&mut self, piece: Piece, out: &mut Frames) {
        let index = piece.index;
        self.tokens[index] += piece.token_ids.len();
        let ended = piece.completion.as_deref();
        if piece.text.is_empty() && piece.logprobs.is_empty() && ended.is_none() {
            return;
        }
        let logprobs = (!piece.logprobs.is_empty()).then(|| {
            piece.logprobs.iter().for_each(|position| self.logprobs[index].push(position));
            self.logprobs[index].take()
        });
        let mut choice = json!({
            "index": index,
            "text": piece.text,
            "logprobs": logprobs,
            "finish_reason": ended.map(receipt::finish_reason),
        });
        if let Some(completion) = ended {
            choice["stop_reason"] = receipt::stop_reason(completion, &self.writer.stop_token_ids);
        }
        if self.writer.token_ids {
            choice["token_ids"] = json!(piece.token_ids);
        }
        self.chunk(choice, self.tokens[index], out);
        self.completions.extend(piece.completion.map(|completion| *completion));
    }

    fn end(&mut self, out: &mut Frames) {
        if self.writer.streaming.include_usage {
            self.completions.sort_by_key(|completion| completion.index);
            let mut frame = self.writer.frame(&[]);
            frame["usage"] = receipt::usage(self.prompt_tokens, 0, &self.completions);
            frame["metrics"] = receipt::metrics(&self.completions);
            out.data(&frame);
        }
        out.done();
    }
}
