//! `/v1/responses`, stateless: nothing is kept after the reply.

mod input;
mod stream;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use kilotok::engine::FinishReason;
use kilotok_text::{Completion, Prompt, TemplateInput};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::blocks::{Block, Blocks};
use super::chat::Header;
use super::conversation::reasoning_effort;
use super::rules::{self, Rules};
use super::{params, tools};
use crate::App;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::events;
use crate::fields::Fields;
use crate::generation::{Generation, Job};
use crate::receipt;

/// Answers a conversation.
pub(crate) async fn responses(
    State(app): State<App>,
    JsonBody(mut fields): JsonBody,
) -> Result<Response, ApiError> {
    let model = fields.string("model")?;
    app.check_model(model.as_deref())?;
    let stream = fields.bool("stream")?.unwrap_or(false);
    fields.take("stream_options");
    refuse_unsupported(&mut fields)?;
    let messages = input::messages(&mut fields, app.config().limits.messages)?;
    let tools = tools::responses(&mut fields)?;
    let mut answer = rules::answer(&mut fields)?;
    if let Some(mut text) = fields.object("text")?
        && let Some(format) = text.object("format")?
    {
        answer = rules::response_format(format, None)?.or(answer);
    }
    let rules = Rules::new(answer).with_tools(&tools);
    let mut kwargs = match fields.object("chat_template_kwargs")? {
        Some(kwargs) => kwargs.into_map(),
        None => Map::new(),
    };
    if let Some(mut reasoning) = fields.object("reasoning")?
        && let Some(effort) = reasoning.string("effort")?
    {
        reasoning_effort(&mut kwargs, "reasoning.effort", effort)?;
    }
    if let Some(limit) = fields.take("max_output_tokens") {
        fields.put("max_tokens", limit);
    }
    let mut common = params::common(&mut fields, app.config()).map_err(renamed)?;
    if common.params.n != 1 {
        return Err(ApiError::unsupported("n", "this route gives one answer"));
    }
    common.params.skip_special_tokens &= !app.format().needs_special_tokens();
    let echo = Echo {
        temperature: common.params.sampling.temperature,
        top_p: common.params.sampling.top_p,
        max_output_tokens: common.max_tokens,
        parallel_tool_calls: tools.parallel,
        tool_choice: tools.choice.clone(),
    };
    let conversation = TemplateInput {
        messages,
        tools: tools.list.clone(),
        add_generation_prompt: true,
        kwargs,
        ..TemplateInput::default()
    };
    let job = Job {
        prompts: vec![Prompt::Chat(conversation)],
        params: common.params,
        rules,
        max_tokens: common.max_tokens,
        deadline: common.deadline,
    };
    let header = Header::new("resp_", &app);
    let tokenizer = app.engine()?.tokenizer().cloned();
    let generation = Generation::start(&app, job).await?;
    let reply = Reply { prompt_tokens: generation.prompt_tokens(), header, echo, tokenizer };
    let mut answer = Answer::new(&app, generation.rendered(), &tools, reply.header.short_id());
    if stream {
        return Ok(events::respond(&app, generation, stream::ResponseStream::new(reply, answer)));
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
    let items: Vec<Value> = blocks
        .done
        .iter()
        .enumerate()
        .filter_map(|(index, block)| reply.item(index, block, "completed"))
        .collect();
    let body = reply.finished(&items, &answer, &completions);
    Ok(receipt::with_header(Json(body).into_response(), &completions))
}

/// Errors of a limit that was renamed name it as the client did.
fn renamed(mut error: ApiError) -> ApiError {
    if error.param.as_deref() == Some("max_tokens") {
        error.param = Some("max_output_tokens".into());
    }
    error
}

fn refuse_unsupported(fields: &mut Fields) -> Result<(), ApiError> {
    let off = |value: &Value| value == &Value::Bool(false);
    let stateless = "nothing is kept between requests; send the whole conversation as `input`";
    fields.refuse("previous_response_id", stateless, |_| false)?;
    fields.refuse("conversation", stateless, |_| false)?;
    fields.refuse("prompt", "no prompts are stored here", |_| false)?;
    fields.refuse("background", stateless, off)?;
    fields.refuse("truncation", "prompts are never cut", |value| value == "disabled")?;
    fields.refuse("top_logprobs", "use /v1/chat/completions", |value| value == 0)?;
    Ok(())
}

/// Settings that replies repeat.
struct Echo {
    temperature: f32,
    top_p: f32,
    max_output_tokens: Option<u32>,
    parallel_tool_calls: bool,
    tool_choice: Value,
}

struct Reply {
    header: Header,
    echo: Echo,
    prompt_tokens: usize,
    tokenizer: Option<std::sync::Arc<kilotok_text::Tokenizer>>,
}

impl Reply {
    /// A block as an item of `output`. Calls that broke off are none: their text follows.
    fn item(&self, index: usize, block: &Block, status: &str) -> Option<Value> {
        let id = |prefix: &str| format!("{prefix}_{}_{index}", self.header.short_id());
        Some(match block {
            Block::Reasoning(text) => {
                let content = if text.is_empty() {
                    json!([])
                } else {
                    json!([{ "type": "reasoning_text", "text": text }])
                };
                json!({
                    "id": id("rs"), "type": "reasoning", "summary": [], "content": content,
                    "status": status,
                })
            }
            Block::Text(text) => {
                let content = if status == "in_progress" { json!([]) } else { json!([part(text)]) };
                json!({
                    "id": id("msg"), "type": "message", "role": "assistant", "content": content,
                    "status": status,
                })
            }
            Block::Call { complete: false, .. } if status == "completed" => return None,
            Block::Call { id: call_id, name, arguments, .. } => json!({
                "id": id("fc"), "type": "function_call", "call_id": call_id, "name": name,
                "arguments": arguments, "status": status,
            }),
        })
    }

    /// The response object before its end.
    fn open(&self, status: &str) -> Value {
        json!({
            "id": self.header.id,
            "object": "response",
            "created_at": self.header.created,
            "model": self.header.model,
            "status": status,
            "error": null,
            "incomplete_details": null,
            "instructions": null,
            "metadata": {},
            "output": [],
            "parallel_tool_calls": self.echo.parallel_tool_calls,
            "temperature": self.echo.temperature,
            "top_p": self.echo.top_p,
            "max_output_tokens": self.echo.max_output_tokens,
            "tool_choice": self.echo.tool_choice,
            "tools": [],
            "store": false,
            "usage": null,
        })
    }

    /// The response object at its end.
    fn finished(&self, items: &[Value], answer: &Answer, completions: &[Completion]) -> Value {
        let cut = completions.iter().any(|c| c.finish_reason == FinishReason::Length);
        let mut body = self.open(if cut { "incomplete" } else { "completed" });
        if cut {
            body["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        body["output"] = json!(items);
        let reasoning: usize = completions
            .iter()
            .map(|completion| answer.reasoning_tokens(self.tokenizer.as_deref(), completion))
            .sum();
        let usage = receipt::usage(self.prompt_tokens, reasoning, completions);
        body["usage"] = json!({
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": { "reasoning_tokens": reasoning },
            "total_tokens": usage["total_tokens"],
            "receipts": usage["receipts"],
        });
        body["metrics"] = receipt::metrics(completions);
        body
    }
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}
