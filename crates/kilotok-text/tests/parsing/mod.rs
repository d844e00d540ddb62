//! What the parser tests share.
#![allow(dead_code, reason = "not every test file uses everything")]

use kilotok_text::{Delta, Format, ParsedMessage, ParserOptions, TagLayout, ToolSchemas};
use serde_json::{Value, json};

pub(crate) const QWEN_CODER: TagLayout =
    TagLayout { newlines_in_thinking: 1, newlines_after_thinking: 2, newlines_in_values: true };

/// Two tools with a parameter of every kind.
pub(crate) fn tools() -> Vec<Value> {
    let properties = json!({
        "s": {"type": "string"}, "n": {"type": "number"}, "i": {"type": "integer"},
        "b": {"type": "boolean"}, "o": {"type": "object"}, "a": {"type": "array"},
        "sn": {"type": ["string", "null"]}, "oa": {"anyOf": [{"$ref": "#/$defs/x"}, {"type": "array"}]},
        "e": {"enum": ["1", "2"]}, "al": {"allOf": [{"type": ["string", "number"]}, {"type": ["string", "null"]}]}
    });
    let parameters =
        json!({"type": "object", "properties": properties, "$defs": {"x": {"type": "object"}}});
    let tool =
        |name| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    vec![tool("f"), tool("get_2-x")]
}

pub(crate) fn options() -> ParserOptions {
    ParserOptions { tools: ToolSchemas::from_tools(&tools()), ..ParserOptions::default() }
}

pub(crate) fn parse(format: Format, prompt: &str, text: &str) -> ParsedMessage {
    format.parser(prompt, options()).parse_complete(text)
}

/// Name and arguments of all calls.
pub(crate) fn calls(message: &ParsedMessage) -> Vec<(String, Value)> {
    let call = |call: &kilotok_text::ToolCall| {
        (call.name.clone(), serde_json::from_str(&call.arguments).unwrap())
    };
    message.tool_calls.iter().map(call).collect()
}

/// All deltas of a text in pieces, with adjacent text merged.
pub(crate) fn deltas<'a>(
    format: Format,
    prompt: &str,
    options: ParserOptions,
    pieces: impl IntoIterator<Item = &'a str>,
) -> Vec<Delta> {
    let mut parser = format.parser(prompt, options);
    let mut all = Vec::new();
    for piece in pieces {
        all.extend(parser.push(piece));
    }
    all.extend(parser.finish());
    merged(all)
}

fn merged(deltas: Vec<Delta>) -> Vec<Delta> {
    let mut out: Vec<Delta> = Vec::new();
    for delta in deltas {
        match (out.last_mut(), &delta) {
            (Some(Delta::Reasoning(last)), Delta::Reasoning(text))
            | (Some(Delta::Content(last)), Delta::Content(text)) => last.push_str(text),
            (
                Some(Delta::ToolCallArguments { index: a, json_fragment: last }),
                Delta::ToolCallArguments { index: b, json_fragment },
            ) if a == b => last.push_str(json_fragment),
            _ => out.push(delta),
        }
    }
    out
}
