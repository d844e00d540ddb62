//! `/v1/messages` and `/v1/messages/count_tokens`, Anthropic's API.

mod input;
mod stream;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use kilotok::engine::FinishReason;
use kilotok_text::{Completion, Format, GrammarSpec, Prompt, StoppedBy, TemplateInput};
use serde_json::{Value, json};

use super::answer::Answer;
use super::blocks::{Block, Blocks};
use super::chat::Header;
use super::params;
use super::rules::{self, Rules};
use crate::App;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::events;
use crate::fields::Fields;
use crate::generation::{Generation, Job};
use crate::receipt;

/// Answers a conversation.
pub(crate) async fn messages(State(app): State<App>, body: Result<JsonBody, ApiError>) -> Response {
    let answered = match body {
        Ok(JsonBody(fields)) => answer(&app, fields).await,
        Err(error) => Err(error),
    };
    answered.unwrap_or_else(ApiError::anthropic)
}

/// Counts the tokens of a conversation without answering it.
pub(crate) async fn count_tokens(
    State(app): State<App>,
    body: Result<JsonBody, ApiError>,
) -> Response {
    let counted = match body {
        Ok(JsonBody(fields)) => count(&app, fields).await,
        Err(error) => Err(error),
    };
    counted.unwrap_or_else(ApiError::anthropic)
}

async fn count(app: &App, mut fields: Fields) -> Result<Response, ApiError> {
    app.check_model(fields.string("model")?.as_deref())?;
    let (conversation, ..) = input::conversation(&mut fields, app.config())?;
    let engine = app.engine()?;
    let tokens = super::tokenize::off_thread(move || {
        Ok(engine.encode(Prompt::Chat(conversation), false)?.len())
    });
    Ok(Json(json!({ "input_tokens": tokens.await? })).into_response())
}

async fn answer(app: &App, mut fields: Fields) -> Result<Response, ApiError> {
    app.check_model(fields.string("model")?.as_deref())?;
    let stream = fields.bool("stream")?.unwrap_or(false);
    let (conversation, tools, budget) = input::conversation(&mut fields, app.config())?;
    // Models whose thinking cannot be cut short take the budget for what it says: a wish.
    let budget = budget.filter(|_| matches!(app.format(), Format::Tagged(_)));
    let rules = Rules::new(format(&mut fields)?)
        .with_tools(&tools)
        .with_budget("thinking.budget_tokens", budget);
    if conversation.continue_final_message {
        rules.check_continued("messages")?;
    }
    let job = job(app, fields, conversation, rules)?;
    let header = Header::new("msg_", app);
    let generation = Generation::start(app, job).await?;
    let reply = Reply { prompt_tokens: generation.prompt_tokens(), header };
    let mut answer = Answer::new(app, generation.rendered(), &tools, reply.header.short_id());
    if stream {
        return Ok(events::respond(app, generation, stream::MessageStream::new(reply, answer)));
    }
    let (mut blocks, mut steps) = (Blocks::default(), Vec::new());
    let completions = generation
        .collect(|piece| {
            for delta in answer.read(piece) {
                blocks.push(delta, &mut steps);
            }
        })
        .await?;
    blocks.close(&mut steps);
    let mut body = reply.message(0);
    body["content"] = blocks.done.iter().filter_map(content).collect();
    if let [completion] = completions.as_slice() {
        let (reason, sequence) = stop(completion, &answer);
        body["stop_reason"] = reason.into();
        body["stop_sequence"] = sequence;
    }
    body["usage"] = reply.usage(&completions);
    body["metrics"] = receipt::metrics(&completions);
    Ok(receipt::with_header(Json(body).into_response(), &completions))
}

/// The form of the answer, under both of its names.
fn format(fields: &mut Fields) -> Result<Option<(String, GrammarSpec)>, ApiError> {
    let format = match fields.object("output_format")? {
        Some(format) => Some(format),
        None => match fields.object("output_config")? {
            Some(mut config) => config.object("format")?,
            None => None,
        },
    };
    format.map_or(Ok(None), |format| rules::response_format(format, None))
}

/// The remaining fields, most of which have the names of chat.
fn job(
    app: &App,
    mut fields: Fields,
    conversation: TemplateInput,
    rules: Rules,
) -> Result<Job, ApiError> {
    let limits = &app.config().limits;
    let stop = params::stop(&mut fields, "stop_sequences", limits.stop, limits.stop_bytes)?;
    let limit = fields.integer("max_tokens", 1, i64::from(u32::MAX))?;
    let limit = limit.ok_or_else(|| fields.invalid("max_tokens", "missing, expected a number"))?;
    fields.refuse("container", "no code is run for a client", |_| false)?;
    fields.refuse("mcp_servers", "nothing is fetched for a client", |value| value == &json!([]))?;
    let mut common = params::common(&mut fields, app.config())?;
    if common.params.n != 1 {
        return Err(ApiError::unsupported("n", "this route gives one answer"));
    }
    common.params.stop = stop;
    common.params.skip_special_tokens &= !app.format().needs_special_tokens();
    Ok(Job {
        prompts: vec![Prompt::Chat(conversation)],
        params: common.params,
        rules,
        max_tokens: Some(limit as u32),
        deadline: common.deadline,
    })
}

struct Reply {
    header: Header,
    prompt_tokens: usize,
}

impl Reply {
    /// The message object before its end.
    fn message(&self, output_tokens: usize) -> Value {
        json!({
            "id": self.header.id,
            "type": "message",
            "role": "assistant",
            "model": self.header.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": {
                "input_tokens": self.prompt_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": output_tokens,
            },
        })
    }

    fn usage(&self, completions: &[Completion]) -> Value {
        let usage = receipt::usage(self.prompt_tokens, 0, completions);
        // Here, unlike elsewhere, the two are apart.
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
        json!({
            "input_tokens": (self.prompt_tokens as u64).saturating_sub(cached),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": usage["completion_tokens"],
            "receipts": usage["receipts"],
        })
    }
}

/// A block as an element of `content`. Calls that broke off are none: their text follows.
fn content(block: &Block) -> Option<Value> {
    Some(match block {
        Block::Reasoning(text) => json!({ "type": "thinking", "thinking": text, "signature": "" }),
        Block::Text(text) => json!({ "type": "text", "text": text }),
        Block::Call { complete: false, .. } => return None,
        Block::Call { id, name, arguments, .. } => {
            let input: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
            json!({ "type": "tool_use", "id": id, "name": name, "input": input })
        }
    })
}

/// `stop_reason` and `stop_sequence`.
fn stop(completion: &Completion, answer: &Answer) -> (&'static str, Value) {
    match (&completion.finish_reason, &completion.stopped_by) {
        (FinishReason::Length, _) => ("max_tokens", Value::Null),
        (_, Some(StoppedBy::Text(text))) => ("stop_sequence", text.as_str().into()),
        _ if answer.message.tool_calls.is_empty() => ("end_turn", Value::Null),
        _ => ("tool_use", Value::Null),
    }
}
