//! `/v1/chat/completions`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use kilotok_text::{Completion, Piece, Prompt};
use serde::Serialize;
use serde_json::{Value, json};

use super::conversation::conversation;
use super::params::{self, Streaming};
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
    let conversation = conversation(&mut fields, app.config())?;
    let mut common = params::common(&mut fields, app.config())?;
    common.params.sampling.logprobs = logprobs;
    let header = Header {
        id: ids::unique("chatcmpl-"),
        created: ids::now(),
        model: app.config().model.clone(),
    };
    let n = common.params.n as usize;
    let stop_token_ids = common.params.sampling.stop_token_ids.clone();
    let job = Job {
        prompts: vec![Prompt::Chat(conversation)],
        params: common.params,
        max_tokens: common.max_tokens,
        deadline: common.deadline,
    };
    let generation = Generation::start(&app, job).await?;
    let prompt_tokens = generation.prompt_tokens();
    if streaming.on {
        let stream = ChatStream {
            header,
            streaming,
            prompt_tokens,
            stop_token_ids,
            started: vec![false; n],
            completions: Vec::new(),
        };
        return Ok(events::respond(&app, generation, stream));
    }
    let completions = generation.collect().await?;
    let choices: Vec<Value> = completions
        .iter()
        .map(|completion| {
            json!({
                "index": completion.index,
                "message": { "role": "assistant", "content": completion.text, "refusal": null },
                "logprobs": logprobs.map(|_| logprobs::chat(&completion.logprobs)),
                "finish_reason": receipt::finish_reason(completion),
                "stop_reason": receipt::stop_reason(completion, &stop_token_ids),
            })
        })
        .collect();
    let body = json!({
        "id": header.id,
        "object": "chat.completion",
        "created": header.created,
        "model": header.model,
        "choices": choices,
        "usage": receipt::usage(prompt_tokens, &completions),
        "metrics": receipt::metrics(&completions),
    });
    let mut response = Json(body).into_response();
    if let Some(value) = receipt::header(&completions) {
        response.headers_mut().insert(receipt::HEADER, value);
    }
    Ok(response)
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

struct ChatStream {
    header: Header,
    streaming: Streaming,
    prompt_tokens: usize,
    stop_token_ids: Vec<u32>,
    /// Choices whose role was sent.
    started: Vec<bool>,
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
    delta: Delta<'a>,
    logprobs: Option<Value>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Value::is_null")]
    stop_reason: Value,
}

#[derive(Serialize, Default)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

impl<'a> Choice<'a> {
    fn new(index: usize, delta: Delta<'a>) -> Self {
        Self { index, delta, logprobs: None, finish_reason: None, stop_reason: Value::Null }
    }
}

impl ChatStream {
    fn chunk(&self, choice: Choice<'_>, out: &mut Frames) {
        self.write(
            &[choice],
            self.streaming.include_usage.then_some(Value::Null),
            Value::Null,
            out,
        );
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
            let delta = Delta { role: Some("assistant"), content: Some("") };
            self.chunk(Choice::new(index, delta), out);
        }
        if !piece.text.is_empty() || !piece.logprobs.is_empty() {
            let delta = Delta { role: None, content: Some(&piece.text) };
            let logprobs = (!piece.logprobs.is_empty()).then(|| logprobs::chat(&piece.logprobs));
            self.chunk(Choice { logprobs, ..Choice::new(index, delta) }, out);
        }
        if let Some(completion) = piece.completion {
            let choice = Choice {
                finish_reason: Some(receipt::finish_reason(&completion)),
                stop_reason: receipt::stop_reason(&completion, &self.stop_token_ids),
                ..Choice::new(index, Delta::default())
            };
            self.chunk(choice, out);
            self.completions.push(*completion);
        }
    }

    fn end(&mut self, out: &mut Frames) {
        if self.streaming.include_usage {
            self.completions.sort_by_key(|completion| completion.index);
            let usage = receipt::usage(self.prompt_tokens, &self.completions);
            self.write(&[], Some(usage), receipt::metrics(&self.completions), out);
        }
        out.done();
    }
}
