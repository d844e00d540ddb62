//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use kilotok_text::{Channel, Completion, Delta, ParsedMessage, Piece, Prompt, Tokenizer};
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::Answer;
use super::conversation::conversation;
use super::params::{self, Streaming};
use super::rules::{self, Rules};
use super::{ids, logprobs};
use crate::App;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::events::{self, Events, Frames};
use crate::fields::Fields;
use crate::generation::{Generation, Job};
use crate::receipt;

/// Answers a conversation.
pub(crate) async fn chat(
    State(app): State<App>,
    JsonBody(mut fields): JsonBody,
) -> Result<Response, ApiError> {
    let request = fields.string("model")?;
    app.check_model(request.as_deref())?;
    let streaming = params::streaming(&mut fields)?;
    let logprobs = read_logprobs(&mut fields, app.config().limits.logprobs)?;
    let (conversation, tools) = conversation(&mut fields, app.config())?;
    let budget = fields.integer("thinking_token_budget", 0, i64::from(u32::MAX))?;
    let rules = Rules::new(rules::answer(&mut fields)?)
        .with_tools(&tools)
        .with_budget("thinking_token_budget", budget.map(|tokens| tokens as u32));
    if conversation.continue_final_message {
        rules.check_continued("continue_final_message")?;
    }
    let mut common = params::common(&mut fields, app.config())?;
    common.params.sampling.logprobs = logprobs;
    // Markup that the parser looks for consists of special tokens.
    common.params.skip_special_tokens &= !app.format().needs_special_tokens();
    let header = Header::new("chatcmpl-", &app);
    let n = common.params.n as usize;
    let stop_token_ids = common.params.sampling.stop_token_ids.clone();
    let tokenizer = app.engine()?.tokenizer().cloned();
    let job = Job {
        prompts: vec![Prompt::Chat(conversation)],
        params: common.params,
        rules,
        max_tokens: common.max_tokens,
        deadline: common.deadline,
    };
    let generation = Generation::start(&app, job).await?;
    let prompt_tokens = generation.prompt_tokens();
    let answers = (0..n).map(|index| {
        let id = format!("{}_{index}", header.short_id());
        Answer::new(&app, generation.rendered(), &tools, &id)
    });
    let mut answers: Vec<Answer> = answers.collect();
    if streaming.on {
        let stream = ChatStream {
            header,
            streaming,
            prompt_tokens,
            stop_token_ids,
            tokenizer,
            started: vec![false; n],
            tokens: vec![0; n],
            answers,
            completions: Vec::new(),
        };
        return Ok(events::respond(&app, generation, stream));
    }
    let completions = generation.collect(|piece| drop(answers[piece.index].read(piece))).await?;
    let choices: Vec<Value> = completions
        .iter()
        .map(|completion| {
            let answer = &answers[completion.index];
            json!({
                "index": completion.index,
                "message": message(&answer.message),
                "logprobs": logprobs.map(|_| logprobs::chat(&completion.logprobs)),
                "finish_reason": answer.finish_reason(completion),
                "stop_reason": receipt::stop_reason(completion, &stop_token_ids),
            })
        })
        .collect();
    let reasoning = reasoning_tokens(&answers, tokenizer.as_deref(), &completions);
    let body = json!({
        "id": header.id,
        "object": "chat.completion",
        "created": header.created,
        "model": header.model,
        "choices": choices,
        "usage": receipt::usage(prompt_tokens, reasoning, &completions),
        "metrics": receipt::metrics(&completions),
    });
    Ok(receipt::with_header(Json(body).into_response(), &completions))
}

/// The message of a choice; reasoning under both of its names.
fn message(parsed: &ParsedMessage) -> Value {
    let calls: Vec<Value> = parsed
        .tool_calls
        .iter()
        .map(|call| {
            let function = json!({ "name": call.name, "arguments": call.arguments });
            json!({ "id": call.id, "type": "function", "function": function })
        })
        .collect();
    let silent = parsed.content.is_empty() && !calls.is_empty();
    let mut message = json!({
        "role": "assistant",
        "content": (!silent).then_some(&parsed.content),
        "refusal": null,
    });
    if !parsed.reasoning.is_empty() {
        message["reasoning"] = parsed.reasoning.as_str().into();
        message["reasoning_content"] = parsed.reasoning.as_str().into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    message
}

fn reasoning_tokens(
    answers: &[Answer],
    tokenizer: Option<&Tokenizer>,
    completions: &[Completion],
) -> usize {
    let tokens = |c: &Completion| answers[c.index].reasoning_tokens(tokenizer, c);
    completions.iter().map(tokens).sum()
}

/// `logprobs` and `top_logprobs` of chat.
fn read_logprobs(fields: &mut Fields, most: u32) -> Result<Option<u32>, ApiError> {
    let on = fields.bool("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0, i64::from(most))?;
    match top {
        Some(top) if !on && top > 0 => {
            Err(fields.invalid("top_logprobs", "needs `logprobs: true`"))
        }
        top => Ok(on.then(|| top.unwrap_or(0) as u32)),
    }
}

/// What every chunk begins with.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
}

impl Header {
    /// A new reply's.
    pub(crate) fn new(prefix: &str, app: &App) -> Self {
        Self { id: ids::unique(prefix), created: ids::now(), model: app.config().model.clone() }
    }

    /// Enough of the id to tell the calls of one reply from those of others.
    pub(crate) fn short_id(&self) -> &str {
        &self.id[self.id.len() - 12..]
    }
}

struct ChatStream {
    header: Header,
    streaming: Streaming,
    prompt_tokens: usize,
    stop_token_ids: Vec<u32>,
    tokenizer: Option<Arc<Tokenizer>>,
    /// Choices whose role was sent.
    started: Vec<bool>,
    /// Tokens of each choice so far.
    tokens: Vec<usize>,
    answers: Vec<Answer>,
    completions: Vec<Completion>,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
    #[serde(skip_serializing_if = "Value::is_null")]
    metrics: Value,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    delta: ChunkDelta<'a>,
    logprobs: Option<Value>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Value::is_null")]
    stop_reason: Value,
}

#[derive(Serialize, Default)]
struct ChunkDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Value::is_null")]
    tool_calls: Value,
}

impl<'a> ChunkDelta<'a> {
    fn content(text: &'a str) -> Self {
        Self { content: Some(text), ..Self::default() }
    }

    fn reasoning(text: &'a str) -> Self {
        Self { reasoning: Some(text), reasoning_content: Some(text), ..Self::default() }
    }

    /// `None` where nothing is to be said.
    fn of(delta: &'a Delta) -> Option<Self> {
        Some(match delta {
            Delta::Content(text) => Self::content(text),
            Delta::Reasoning(text) => Self::reasoning(text),
            Delta::ToolCallStart { index, id, name } => {
                let function = json!({ "name": name, "arguments": "" });
                let call =
                    json!([{ "index": index, "id": id, "type": "function", "function": function }]);
                Self { tool_calls: call, ..Self::default() }
            }
            Delta::ToolCallArguments { index, json_fragment } => {
                let call = json!([{ "index": index, "function": { "arguments": json_fragment } }]);
                Self { tool_calls: call, ..Self::default() }
            }
            Delta::ToolCallEnd { .. } => return None,
            // What was streamed of the call cannot be taken back; its text is not lost.
            Delta::ToolCallBroken { markup, channel: Channel::Content, .. } => {
                Self::content(markup)
            }
            Delta::ToolCallBroken { markup, channel: Channel::Reasoning, .. } => {
                Self::reasoning(markup)
            }
        })
    }
}

impl<'a> Choice<'a> {
    fn new(index: usize, delta: ChunkDelta<'a>) -> Self {
        Self { index, delta, logprobs: None, finish_reason: None, stop_reason: Value::Null }
    }
}

impl ChatStream {
    fn chunk(&self, choice: Choice<'_>, out: &mut Frames) {
        let tokens = self.tokens[choice.index];
        let usage = self.streaming.usage_of_chunk(self.prompt_tokens, tokens);
        self.write(&[choice], usage, Value::Null, out);
    }

    fn write(
        &self,
        choices: &[Choice<'_>],
        usage: Option<Value>,
        metrics: Value,
        out: &mut Frames,
    ) {
        out.data(&Chunk {
            id: &self.header.id,
            object: "chat.completion.chunk",
            created: self.header.created,
            model: &self.header.model,
            choices,
            usage,
            metrics,
        });
    }
}

impl Events for ChatStream {
    fn piece(&mut self, piece: Piece, out: &mut Frames) {
        let index = piece.index;
        // With the first token, not before: the time to the first chunk is the time to a token.
        if !std::mem::replace(&mut self.started[index], true) {
            let role = ChunkDelta { role: Some("assistant"), ..ChunkDelta::content("") };
            self.chunk(Choice::new(index, role), out);
        }
        self.tokens[index] += piece.token_ids.len();
        let deltas = self.answers[index].read(&piece);
        let mut logprobs = (!piece.logprobs.is_empty()).then(|| logprobs::chat(&piece.logprobs));
        for delta in deltas.iter().filter_map(ChunkDelta::of) {
            let logprobs = logprobs.take();
            self.chunk(Choice { logprobs, ..Choice::new(index, delta) }, out);
        }
        if logprobs.is_some() {
            self.chunk(Choice { logprobs, ..Choice::new(index, ChunkDelta::content("")) }, out);
        }
        if let Some(completion) = piece.completion {
            let choice = Choice {
                finish_reason: Some(self.answers[index].finish_reason(&completion)),
                stop_reason: receipt::stop_reason(&completion, &self.stop_token_ids),
                ..Choice::new(index, ChunkDelta::default())
            };
            self.chunk(choice, out);
            self.completions.push(*completion);
        }
    }

    fn end(&mut self, out: &mut Frames) {
        if self.streaming.include_usage {
            self.completions.sort_by_key(|completion| completion.index);
            let completions = &self.completions;
            let reasoning = reasoning_tokens(&self.answers, self.tokenizer.as_deref(), completions);
            let usage = receipt::usage(self.prompt_tokens, reasoning, completions);
            self.write(&[], Some(usage), receipt::metrics(completions), out);
        }
        out.done();
    }
}
