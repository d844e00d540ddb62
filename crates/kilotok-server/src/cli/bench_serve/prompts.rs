//! What the load asks.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::Outcome;

/// A prompt as the fields of a request.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    /// `prompt` or `messages`.
    pub(super) fields: Value,
    /// Whether a number is put in front, so that no request repeats another and none is answered
    /// from a cache.
    numbered: bool,
}

const BUILT_IN: [&str; 8] = [
    "Explain how a binary search works and when it fails.",
    "Write a function that merges two sorted lists.",
    "Summarise the history of the bicycle in a few sentences.",
    "What has to be considered before a database is moved to another machine?",
    "Tell a short story about a lighthouse keeper who cannot sleep.",
    "List the planets and one remarkable fact about each of them.",
    "Why does bread rise, and what happens if the oven is too cold?",
    "Translate into French: The meeting was moved to Thursday because of the storm.",
];

/// Prompts of several kinds.
pub(super) fn built_in() -> Vec<Ask> {
    let ask = |text: &&str| Ask { fields: message(text), numbered: true };
    BUILT_IN.iter().map(ask).collect()
}

/// One prompt a line.
///
/// # Errors
/// Where the file cannot be read, is empty, or has an object without `prompt` and `messages`.
pub(super) fn from_file(path: &Path) -> Outcome<Vec<Ask>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("--prompts {}: {error}", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let asks: Result<Vec<Ask>, String> = lines
        .map(|(at, line)| {
            let fields = if line.trim_start().starts_with('{') {
                object(line).map_err(|error| format!("line {}: {error}", at + 1))?
            } else {
                message(line)
            };
            Ok(Ask { fields, numbered: false })
        })
        .collect();
    let asks = asks.map_err(|error| format!("--prompts {}: {error}", path.display()))?;
    if asks.is_empty() {
        return Err(format!("--prompts {}: no prompts", path.display()).into());
    }
    Ok(asks)
}

fn message(text: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": text }] })
}

fn object(line: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    match (value.get("messages"), value.get("prompt")) {
        (Some(messages), None) => Ok(json!({ "messages": messages })),
        (None, Some(prompt)) => Ok(json!({ "prompt": prompt })),
        _ => Err("expected an object with either `prompt` or `messages`".to_owned()),
    }
}

impl Ask {
    /// Route and body of request `number`.
    pub(super) fn request(&self, number: usize, options: &Value) -> (&'static str, Value) {
        let mut body = options.clone();
        if let (Value::Object(body), Value::Object(fields)) = (&mut body, &self.fields) {
            body.extend(fields.clone());
        }
        if self.numbered
            && let Some(text) = body["messages"][0]["content"].as_str()
        {
            body["messages"][0]["content"] = format!("({number}) {text}").into();
        }
        let chat = body.get("messages").is_some();
        (if chat { "/v1/chat/completions" } else { "/v1/completions" }, body)
    }
}
