//! `instructions` and `input` as the messages of a chat.

use serde_json::{Value, json};

use super::super::conversation::{parsed_arguments, text};
use crate::error::ApiError;
use crate::fields::{Fields, found};

type Result<T> = std::result::Result<T, ApiError>;

/// Reads both fields.
pub(super) fn messages(fields: &mut Fields, most: usize) -> Result<Vec<Value>> {
    let mut messages = Vec::new();
    if let Some(instructions) = fields.string("instructions")? {
        messages.push(json!({ "role": "system", "content": instructions }));
    }
    let items = match fields.take("input") {
        Some(Value::String(text)) => vec![json!({ "role": "user", "content": text })],
        Some(Value::Array(items)) => items,
        Some(other) => return Err(fields.invalid("input", found(&other, "a string or a list"))),
        None => return Err(fields.invalid("input", "missing, expected a string or a list")),
    };
    if items.is_empty() || items.len() > most {
        let reason = format!("{} items, expected 1 to {most}", items.len());
        return Err(fields.invalid("input", reason));
    }
    let mut turn = Turn::default();
    for (index, item) in items.into_iter().enumerate() {
        let item = Fields::nested(format!("input[{index}]"), item)?;
        read_item(item, &mut turn, &mut messages)?;
    }
    turn.end(&mut messages);
    Ok(messages)
}

/// The items of one turn of the assistant, which is one message to a template.
#[derive(Default)]
struct Turn {
    reasoning: String,
    content: String,
    calls: Vec<Value>,
    open: bool,
}

impl Turn {
    fn end(&mut self, messages: &mut Vec<Value>) {
        let turn = std::mem::take(self);
        if !turn.open {
            return;
        }
        let mut message = json!({ "role": "assistant", "content": turn.content });
        if !turn.reasoning.is_empty() {
            message["reasoning_content"] = turn.reasoning.into();
        }
        if !turn.calls.is_empty() {
            message["tool_calls"] = turn.calls.into();
        }
        messages.push(message);
    }
}

fn read_item(mut item: Fields, turn: &mut Turn, messages: &mut Vec<Value>) -> Result<()> {
    let kind = item.string("type")?.unwrap_or_else(|| "message".to_owned());
    match kind.as_str() {
        "message" => {
            let role = item.string("role")?.unwrap_or_default();
            let content = item.take("content");
            let content = text(&item.path("content"), content)?;
            let content = content.ok_or_else(|| item.invalid("content", "missing"))?;
            match role.as_str() {
                "assistant" => {
                    turn.open = true;
                    turn.content.push_str(&content);
                }
                "user" | "system" | "developer" => {
                    turn.end(messages);
                    let role = if role == "user" { "user" } else { "system" };
                    messages.push(json!({ "role": role, "content": content }));
                }
                _ => {
                    let expected = "expected user, assistant, system or developer";
                    return Err(item.invalid("role", expected));
                }
            }
        }
        "reasoning" => {
            // Thinking opens a turn of the assistant, unless nothing else has come since.
            if !turn.content.is_empty() || !turn.calls.is_empty() {
                turn.end(messages);
            }
            turn.open = true;
            turn.reasoning.push_str(&reasoning(&mut item)?);
        }
        "function_call" => {
            let missing = |name: &str| item_error(&item, name);
            let (no_id, no_name) = (missing("call_id"), missing("name"));
            let id = item.string("call_id")?.ok_or(no_id)?;
            let name = item.string("name")?.ok_or(no_name)?;
            let arguments = parsed_arguments(item.take("arguments"));
            turn.open = true;
            turn.calls.push(json!({
                "id": id, "type": "function",
                "function": { "name": name, "arguments": arguments },
            }));
        }
        "function_call_output" => {
            turn.end(messages);
            let no_id = item_error(&item, "call_id");
            let id = item.string("call_id")?.ok_or(no_id)?;
            let output = item.take("output");
            let output = text(&item.path("output"), output)?;
            let output = output.ok_or_else(|| item.invalid("output", "missing"))?;
            messages.push(json!({ "role": "tool", "tool_call_id": id, "content": output }));
        }
        _ => {
            let reason =
                "only messages, reasoning, function_call and function_call_output are read";
            return Err(ApiError::unsupported(item.path("type"), reason));
        }
    }
    Ok(())
}

fn item_error(item: &Fields, name: &str) -> ApiError {
    item.invalid(name, "missing, expected a string")
}

/// The text of a reasoning item; a summary stands in where there is none.
fn reasoning(item: &mut Fields) -> Result<String> {
    let mut all = String::new();
    for name in ["content", "summary"] {
        for part in item.list(name)?.unwrap_or_default() {
            if let Some(text) = part.get("text").and_then(Value::as_str) {
                all.push_str(text);
            }
        }
        if !all.is_empty() {
            break;
        }
    }
    Ok(all)
}
