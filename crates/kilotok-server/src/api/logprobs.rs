//! Log-probabilities in the two shapes of OpenAI's API.

use kilotok_text::{PositionLogprobs, TokenLogprob};
use serde_json::{Map, Value, json};

/// `choices[].logprobs` of chat.
pub(crate) fn chat(positions: &[PositionLogprobs]) -> Value {
    let entry = |token: &TokenLogprob| {
        json!({
            "token": token.text,
            "logprob": finite(token.logprob),
            "bytes": token.bytes,
            "token_id": token.id,
        })
    };
    let content: Vec<Value> = positions
        .iter()
        .map(|position| {
            let mut value = entry(&position.chosen);
            value["top_logprobs"] = position.top.iter().map(entry).collect();
            value
        })
        .collect();
    json!({ "content": content, "refusal": null })
}

/// `choices[].logprobs` of completions. Offsets count characters from the start of the choice's
/// text.
#[derive(Debug, Default)]
pub(crate) struct Completions {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    offset: usize,
}

impl Completions {
    /// Starts behind text that was written before.
    pub(crate) fn at(offset: usize) -> Self {
        Self { offset, ..Self::default() }
    }

    /// A token without log-probability: part of an echoed prompt.
    pub(crate) fn plain(&mut self, text: &str) {
        self.tokens.push(text.into());
        self.token_logprobs.push(Value::Null);
        self.top_logprobs.push(Value::Null);
        self.text_offset.push(self.offset);
        self.offset += text.chars().count();
    }

    pub(crate) fn push(&mut self, position: &PositionLogprobs) {
        let chosen = &position.chosen;
        self.plain(&chosen.text);
        let last = self.token_logprobs.len() - 1;
        self.token_logprobs[last] = finite(chosen.logprob);
        let mut top: Map<String, Value> =
            position.top.iter().map(|t| (t.text.clone(), finite(t.logprob))).collect();
        // As in OpenAI's API, the chosen token is there even if it is none of the likeliest.
        top.insert(chosen.text.clone(), finite(chosen.logprob));
        self.top_logprobs[last] = Value::Object(top);
    }

    /// The object, leaving an empty one that continues behind it.
    pub(crate) fn take(&mut self) -> Value {
        let done = std::mem::replace(self, Self::at(self.offset));
        json!({
            "tokens": done.tokens,
            "token_logprobs": done.token_logprobs,
            "top_logprobs": done.top_logprobs,
            "text_offset": done.text_offset,
        })
    }
}

/// JSON has no infinities; OpenAI's API says -9999 for tokens that cannot come.
fn finite(logprob: f32) -> Value {
    Value::from(f64::from(logprob.max(-9999.0)))
}
