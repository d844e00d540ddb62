//! Messages of a chat as the checkpoint's template expects them.

use kilotok_text::TemplateInput;
use serde_json::{Map, Value, json};

use super::tools::{self, Tools};
use crate::ServerConfig;
use crate::error::ApiError;
use crate::fields::{Fields, found};

type Result<T> = std::result::Result<T, ApiError>;

/// Reads `messages` and everything that shapes the prompt.
pub(crate) fn conversation(
    fields: &mut Fields,
    config: &ServerConfig,
) -> Result<(TemplateInput, Tools)> {
    let list = fields.list("messages")?;
    let list = list.ok_or_else(|| ApiError::invalid("messages", "missing, expected a list"))?;
    let most = config.limits.messages;
    if list.is_empty() || list.len() > most {
        let reason = format!("{} messages, expected 1 to {most}", list.len());
        return Err(ApiError::invalid("messages", reason));
    }
    let messages = list
        .into_iter()
        .enumerate()
        .map(|(index, value)| message(Fields::nested(format!("messages[{index}]"), value)?))
        .collect::<Result<Vec<Value>>>()?;
    let tools = tools::chat(fields)?;
    refuse_unsupported(fields)?;
    let kwargs = template_kwargs(fields)?;
    let continue_final_message = fields.bool("continue_final_message")?.unwrap_or(false);
    let add_generation_prompt =
        fields.bool("add_generation_prompt")?.unwrap_or(!continue_final_message);
    let documents = fields.list("documents")?;
    fields.refuse("chat_template", "only the checkpoint's own template is run", |_| false)?;
    let input = TemplateInput {
        messages,
        tools: tools.list.clone(),
        documents,
        add_generation_prompt,
        continue_final_message,
        kwargs,
        ..TemplateInput::default()
    };
    Ok((input, tools))
}

fn refuse_unsupported(fields: &mut Fields) -> Result<()> {
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    fields.refuse("functions", "use `tools`", empty)?;
    let none = |value: &Value| matches!(value.as_str(), Some("none" | "auto"));
    fields.refuse("function_call", "use `tool_choice`", none)?;
    fields.refuse("audio", "this server writes text", |_| false)?;
    fields.refuse("modalities", "this server writes text", |value| value == &json!(["text"]))?;
    fields.refuse("web_search_options", "nothing is fetched for a client", |_| false)
}

fn template_kwargs(fields: &mut Fields) -> Result<Map<String, Value>> {
    let mut kwargs = match fields.object("chat_template_kwargs")? {
        Some(kwargs) => kwargs.into_map(),
        None => Map::new(),
    };
    if let Some(effort) = fields.string("reasoning_effort")? {
        reasoning_effort(&mut kwargs, &fields.path("reasoning_effort"), effort)?;
    }
    Ok(kwargs)
}

/// Tells the template how much to think, in the two ways that templates ask for it.
pub(crate) fn reasoning_effort(
    kwargs: &mut Map<String, Value>,
    path: &str,
    effort: String,
) -> Result<()> {
    let thinks = match effort.as_str() {
        "none" => false,
        "minimal" | "low" | "medium" | "high" | "xhigh" | "max" => true,
        _ => {
            let expected = "expected none, minimal, low, medium, high, xhigh or max";
            return Err(ApiError::invalid(path, expected));
        }
    };
    kwargs.entry("enable_thinking").or_insert(Value::Bool(thinks));
    kwargs.entry("reasoning_effort").or_insert(Value::String(effort));
    Ok(())
}

/// One message: text parts become one string, and both spellings of reasoning become one.
fn message(mut fields: Fields) -> Result<Value> {
    let role = fields.string("role")?;
    let role = role.ok_or_else(|| fields.invalid("role", "missing, expected a string"))?;
    let role = match role.as_str() {
        "system" | "user" | "assistant" | "tool" => role,
        "developer" => "system".to_owned(),
        "function" => "tool".to_owned(),
        _ => {
            return Err(
                fields.invalid("role", "expected system, developer, user, assistant or tool")
            );
        }
    };
    let content = fields.take("content");
    let content = text(&fields.path("content"), content)?;
    let reasoning = fields.string("reasoning_content")?;
    let reasoning = reasoning.or(fields.string("reasoning")?);
    let calls = fields.list("tool_calls")?.unwrap_or_default();
    let calls = calls
        .into_iter()
        .enumerate()
        .map(|(index, call)| tool_call(&fields.path(&format!("tool_calls[{index}]")), call))
        .collect::<Result<Vec<Value>>>()?;
    if role == "user" && content.is_none() {
        return Err(fields.invalid("content", "missing, expected a string"));
    }
    fields.put("role", role.into());
    fields.put("content", content.unwrap_or_default().into());
    if let Some(reasoning) = reasoning {
        fields.put("reasoning_content", reasoning.into());
    }
    if !calls.is_empty() {
        fields.put("tool_calls", calls.into());
    }
    Ok(Value::Object(fields.into_map()))
}

/// Templates expect arguments as an object; clients send the JSON they were given.
pub(crate) fn parsed_arguments(arguments: Option<Value>) -> Value {
    match arguments {
        None => json!({}),
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(Value::Object(map)) => Value::Object(map),
            _ => Value::String(text),
        },
        Some(other) => other,
    }
}

fn tool_call(path: &str, call: Value) -> Result<Value> {
    let mut call = Fields::nested(path, call)?;
    let function = call.object("function")?;
    let mut function = function.ok_or_else(|| call.invalid("function", "missing"))?;
    let name = function.string("name")?.ok_or_else(|| function.invalid("name", "missing"))?;
    let arguments = parsed_arguments(function.take("arguments"));
    call.put("function", json!({ "name": name, "arguments": arguments }));
    Ok(Value::Object(call.into_map()))
}

/// A string, or a list of text parts.
pub(crate) fn text(path: &str, content: Option<Value>) -> Result<Option<String>> {
    let parts = match content {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text)),
        Some(Value::Array(parts)) => parts,
        Some(other) => {
            return Err(ApiError::invalid(path, found(&other, "a string or a list of parts")));
        }
    };
    let mut all = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        let mut part = Fields::nested(format!("{path}[{index}]"), part)?;
        let kind = part.string("type")?.unwrap_or_else(|| "text".to_owned());
        if !matches!(kind.as_str(), "text" | "input_text" | "output_text" | "refusal") {
            let reason = "this server reads text only, and fetches nothing";
            return Err(ApiError::unsupported(part.path("type"), reason));
        }
        let name = if kind == "refusal" { "refusal" } else { "text" };
        let text = part.string(name)?;
        all.push_str(&text.ok_or_else(|| part.invalid(name, "missing, expected a string"))?);
    }
    Ok(Some(all))
}
