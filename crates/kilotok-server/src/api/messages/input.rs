//! Anthropic's conversation as the messages of a chat.

use kilotok_text::TemplateInput;
use serde_json::{Map, Value, json};

use super::super::tools::{Choice, Tool, Tools, check_count, function_tool};
use crate::ServerConfig;
use crate::error::ApiError;
use crate::fields::{Fields, found};

type Result<T> = std::result::Result<T, ApiError>;

/// Reads `system`, `messages`, `tools`, `tool_choice` and `thinking`, whose budget comes last.
pub(super) fn conversation(
    fields: &mut Fields,
    config: &ServerConfig,
) -> Result<(TemplateInput, Tools, Option<u32>)> {
    let mut messages = Vec::new();
    let system = fields.take("system");
    if let Some(system) = plain_text("system", system)?.filter(|text| !text.is_empty()) {
        messages.push(json!({ "role": "system", "content": system }));
    }
    let list = fields.list("messages")?.unwrap_or_default();
    let most = config.limits.messages;
    if list.is_empty() || list.len() > most {
        let reason = format!("{} messages, expected 1 to {most}", list.len());
        return Err(fields.invalid("messages", reason));
    }
    for (index, message) in list.into_iter().enumerate() {
        read_message(Fields::nested(format!("messages[{index}]"), message)?, &mut messages)?;
    }
    let tools = tools(fields)?;
    // An answer that the client has begun is continued.
    let prefilled = messages.last().is_some_and(|last| {
        last["role"] == "assistant" && last.get("tool_calls").is_none() && last["content"] != ""
    });
    let (kwargs, budget) = thinking(fields)?;
    let input = TemplateInput {
        messages,
        tools: tools.list.clone(),
        add_generation_prompt: !prefilled,
        continue_final_message: prefilled,
        kwargs,
        ..TemplateInput::default()
    };
    Ok((input, tools, budget))
}

/// Variables of the template, and tokens of the thinking at most.
fn thinking(fields: &mut Fields) -> Result<(Map<String, Value>, Option<u32>)> {
    let mut kwargs = match fields.object("chat_template_kwargs")? {
        Some(kwargs) => kwargs.into_map(),
        None => Map::new(),
    };
    let mut budget = None;
    if let Some(mut thinking) = fields.object("thinking")? {
        let on = match thinking.string("type")?.as_deref() {
            Some("enabled" | "adaptive") => true,
            Some("disabled") => false,
            _ => return Err(thinking.invalid("type", "expected enabled, adaptive or disabled")),
        };
        kwargs.entry("enable_thinking").or_insert(Value::Bool(on));
        let most = i64::from(u32::MAX);
        budget = thinking.integer("budget_tokens", 1, most)?.filter(|_| on).map(|n| n as u32);
    }
    Ok((kwargs, budget))
}

fn tools(fields: &mut Fields) -> Result<Tools> {
    let list = fields.list("tools")?.unwrap_or_default();
    check_count(fields, &list)?;
    let list = list
        .into_iter()
        .enumerate()
        .map(|(index, tool)| {
            let mut tool = Fields::nested(format!("tools[{index}]"), tool)?;
            match tool.string("type")?.as_deref() {
                None | Some("custom") => function_tool(&mut tool, "input_schema"),
                Some(_) => {
                    let reason = "only tools of the client's own can be called";
                    Err(ApiError::unsupported(tool.path("type"), reason))
                }
            }
        })
        .collect::<Result<Vec<Tool>>>()?;
    let (mut chosen, mut parallel) = (Choice::Auto, true);
    if let Some(mut choice) = fields.object("tool_choice")? {
        chosen = match choice.string("type")?.as_deref() {
            Some("auto") => Choice::Auto,
            Some("none") => Choice::None,
            Some("any") => Choice::Required,
            Some("tool") => {
                let missing = choice.invalid("name", "missing, expected a string");
                Choice::Named(choice.string("name")?.ok_or(missing)?)
            }
            _ => return Err(choice.invalid("type", "expected auto, any, tool or none")),
        };
        parallel = !choice.bool("disable_parallel_tool_use")?.unwrap_or(false);
    }
    Tools::new(list, &chosen, "tool_choice", parallel)
}

/// One message becomes one of a chat, behind one for each tool result in it.
fn read_message(mut message: Fields, messages: &mut Vec<Value>) -> Result<()> {
    let role = message.string("role")?.unwrap_or_default();
    if !matches!(role.as_str(), "user" | "assistant" | "system") {
        return Err(message.invalid("role", "expected user or assistant"));
    }
    let path = message.path("content");
    let blocks = match message.take("content") {
        Some(Value::String(text)) => vec![json!({ "type": "text", "text": text })],
        Some(Value::Array(blocks)) => blocks,
        Some(other) => return Err(ApiError::invalid(path, found(&other, "a string or a list"))),
        None => return Err(ApiError::invalid(path, "missing, expected a string or a list")),
    };
    let (mut text, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
    let only_results = |kind: &Value| kind["type"] == "tool_result";
    let has_own = blocks.is_empty() || !blocks.iter().all(only_results);
    for (index, block) in blocks.into_iter().enumerate() {
        let mut block = Fields::nested(format!("{path}[{index}]"), block)?;
        let need = |block: &mut Fields, name: &str| {
            block.string(name)?.ok_or_else(|| block.invalid(name, "missing, expected a string"))
        };
        match block.string("type")?.as_deref() {
            Some("text") => text.push_str(&need(&mut block, "text")?),
            Some("thinking") => reasoning.push_str(&need(&mut block, "thinking")?),
            Some("redacted_thinking") => {}
            Some("tool_use") => {
                let (id, name) = (need(&mut block, "id")?, need(&mut block, "name")?);
                let arguments = block.object("input")?.map(Fields::into_map).unwrap_or_default();
                let function = json!({ "name": name, "arguments": arguments });
                calls.push(json!({ "id": id, "type": "function", "function": function }));
            }
            Some("tool_result") => {
                let id = need(&mut block, "tool_use_id")?;
                let (path, result) = (block.path("content"), block.take("content"));
                let result = plain_text(&path, result)?.unwrap_or_default();
                messages.push(json!({ "role": "tool", "tool_call_id": id, "content": result }));
            }
            _ => {
                let reason = "this server reads text only, and fetches nothing";
                return Err(ApiError::unsupported(block.path("type"), reason));
            }
        }
    }
    if !has_own {
        return Ok(());
    }
    let mut chat = json!({ "role": role, "content": text });
    if !reasoning.is_empty() {
        chat["reasoning_content"] = reasoning.into();
    }
    if !calls.is_empty() {
        chat["tool_calls"] = calls.into();
    }
    messages.push(chat);
    Ok(())
}

/// A string, or a list of text blocks.
fn plain_text(path: &str, value: Option<Value>) -> Result<Option<String>> {
    super::super::conversation::text(path, value)
}
