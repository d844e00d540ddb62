//! How to choose tokens: the fields that all generating routes share.

use std::sync::Arc;
use std::time::Duration;

use kilotok::SamplingParams;
use kilotok::engine::Speculation;
use kilotok_text::TextParams;
use serde_json::{Value, json};

use crate::ServerConfig;
use crate::error::ApiError;
use crate::fields::{Fields, found};

type Result<T> = std::result::Result<T, ApiError>;

/// Longest deadline, a day.
const MAX_DEADLINE_MS: i64 = 86_400_000;
/// Bytes of a `cache_salt`: every page at the front of a prompt keeps it.
const MAX_SALT_BYTES: usize = 256;
/// Lower values first.
const PRIORITIES: (i64, i64) = (i32::MIN as i64, i32::MAX as i64);
const IDS: i64 = u32::MAX as i64;

/// What a request said about choosing tokens.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) params: TextParams,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) deadline: Option<Duration>,
}

/// Reads everything but the prompt, `logprobs`, `stream` and `tools`.
pub(crate) fn common(fields: &mut Fields, config: &ServerConfig) -> Result<Common> {
    let limits = &config.limits;
    let defaults = &config.defaults;
    let max_tokens = fields.integer("max_tokens", 1, IDS)?;
    let max_completion = fields.integer("max_completion_tokens", 1, IDS)?;
    let sampling = SamplingParams {
        temperature: fields.number("temperature", 0.0, 100.0)?.unwrap_or(defaults.temperature),
        top_p: fields.number("top_p", 0.0, 1.0)?.unwrap_or(defaults.top_p).max(f32::MIN_POSITIVE),
        // -1 is another way to say off.
        top_k: match fields.integer("top_k", -1, IDS)? {
            None => defaults.top_k,
            Some(top_k) => u32::try_from(top_k).unwrap_or(0),
        },
        min_p: fields.number("min_p", 0.0, 1.0)?.unwrap_or(0.0),
        repetition_penalty: fields.number("repetition_penalty", 0.01, 100.0)?.unwrap_or(1.0),
        presence_penalty: fields.number("presence_penalty", -100.0, 100.0)?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty", -100.0, 100.0)?.unwrap_or(0.0),
        logit_bias: logit_bias(fields, limits.token_list)?,
        // Any 64 bits will do, so negative seeds are seeds.
        seed: fields.integer("seed", i64::MIN, i64::MAX)?.map(|seed| seed as u64),
        stop_token_ids: token_ids(fields, "stop_token_ids", limits.token_list)?,
        ignore_eos: fields.bool("ignore_eos")?.unwrap_or(false),
        ..SamplingParams::default()
    };
    let most = limits.sequences as i64;
    let params = TextParams {
        sampling,
        stop: stop(fields, "stop", limits.stop, limits.stop_bytes)?,
        include_stop: fields.bool("include_stop_str_in_output")?.unwrap_or(false),
        skip_special_tokens: fields.bool("skip_special_tokens")?.unwrap_or(true),
        add_special_tokens: fields.bool("add_special_tokens")?.unwrap_or(true),
        n: fields.integer("n", 1, most)?.map_or(1, |n| n as u32),
        speculation: speculation(fields)?,
        cache_salt: cache_salt(fields)?,
        priority: fields.integer("priority", PRIORITIES.0, PRIORITIES.1)?.unwrap_or(0) as i32,
        grammar: None,
    };
    let deadline = fields.integer("deadline_ms", 1, MAX_DEADLINE_MS)?;
    refuse_unsupported(fields, i64::from(params.n))?;
    Ok(Common {
        params,
        max_tokens: max_completion.or(max_tokens).map(|tokens| tokens as u32),
        deadline: deadline.map(|ms| Duration::from_millis(ms as u64)),
    })
}

/// Fields of OpenAI's API and vLLM's that would change the answer.
fn refuse_unsupported(fields: &mut Fields, n: i64) -> Result<()> {
    let zero = |value: &Value| value.as_f64() == Some(0.0);
    let off = |value: &Value| value == &Value::Bool(false);
    let empty = |value: &Value| match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    fields.refuse("best_of", "only as many sequences are made as are returned", |value| {
        value.as_i64() == Some(n) || value.as_i64() == Some(1)
    })?;
    fields.refuse("min_tokens", "use `ignore_eos` or `logit_bias`", zero)?;
    fields.refuse("use_beam_search", "tokens are sampled", off)?;
    fields.refuse("prompt_logprobs", "only generated tokens have log-probabilities", off)?;
    fields.refuse("bad_words", "use `logit_bias`", empty)?;
    fields.refuse("allowed_token_ids", "use `logit_bias`", |_| false)?;
    fields.refuse("truncate_prompt_tokens", "prompts are never cut", |_| false)?;
    fields.refuse("logits_processors", "no code is run for a client", empty)
}

/// `stop`: a string or a list of strings.
pub(crate) fn stop(
    fields: &mut Fields,
    name: &str,
    most: usize,
    most_bytes: usize,
) -> Result<Vec<String>> {
    let list = match fields.take(name) {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![Value::String(text)],
        Some(Value::Array(list)) => list,
        Some(other) => return Err(fields.invalid(name, found(&other, "a string or a list"))),
    };
    if list.len() > most {
        return Err(fields.invalid(name, format!("{} strings, at most {most}", list.len())));
    }
    let strings = list.into_iter().map(|value| match value {
        Value::String(text) if text.len() > most_bytes => {
            Err(fields.invalid(name, format!("{} bytes, at most {most_bytes}", text.len())))
        }
        Value::String(text) => Ok(text),
        other => Err(fields.invalid(name, found(&other, "a string"))),
    });
    // Some clients send an empty string for "none".
    Ok(strings.collect::<Result<Vec<_>>>()?.into_iter().filter(|text| !text.is_empty()).collect())
}

/// A list of token ids.
pub(crate) fn token_ids(fields: &mut Fields, name: &str, most: usize) -> Result<Vec<u32>> {
    let list = fields.list(name)?.unwrap_or_default();
    if list.len() > most {
        return Err(fields.invalid(name, format!("{} entries, at most {most}", list.len())));
    }
    list.iter()
        .map(|value| {
            token_id(value).ok_or_else(|| fields.invalid(name, found(value, "a token id")))
        })
        .collect()
}

pub(crate) fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn logit_bias(fields: &mut Fields, most: usize) -> Result<Vec<(u32, f32)>> {
    const NAME: &str = "logit_bias";
    let Some(map) = fields.object(NAME)?.map(Fields::into_map) else { return Ok(Vec::new()) };
    if map.len() > most {
        return Err(fields.invalid(NAME, format!("{} entries, at most {most}", map.len())));
    }
    map.iter()
        .map(|(token, bias)| {
            let token = token.parse().map_err(|_| fields.invalid(NAME, "a key is no token id"))?;
            let bias = bias.as_f64().filter(|bias| bias.is_finite());
            let bias = bias.ok_or_else(|| fields.invalid(NAME, "a value is no number"))?;
            Ok((token, bias as f32))
        })
        .collect()
}

/// `"auto"`, `"off"`, a boolean, or a block length (anchor included).
fn speculation(fields: &mut Fields) -> Result<Option<Speculation>> {
    const NAME: &str = "speculation";
    let expected = "\"auto\", \"off\", true, false or a block length";
    Ok(Some(match fields.take(NAME) {
        None => return Ok(None),
        Some(Value::Bool(true)) => Speculation::Auto,
        Some(Value::Bool(false)) => Speculation::Off,
        Some(Value::String(text)) if text == "auto" => Speculation::Auto,
        Some(Value::String(text)) if text == "off" => Speculation::Off,
        Some(Value::Number(length)) => match length.as_u64() {
            Some(length @ 1..) => Speculation::Block(usize::try_from(length).unwrap_or(usize::MAX)),
            _ => return Err(fields.invalid(NAME, format!("expected {expected}"))),
        },
        Some(_) => return Err(fields.invalid(NAME, format!("expected {expected}"))),
    }))
}

/// `cache_salt`, as vLLM has it.
fn cache_salt(fields: &mut Fields) -> Result<Option<Arc<str>>> {
    const NAME: &str = "cache_salt";
    match fields.string(NAME)? {
        Some(salt) if salt.is_empty() || salt.len() > MAX_SALT_BYTES => {
            let reason = format!("{} bytes, expected 1 to {MAX_SALT_BYTES}", salt.len());
            Err(fields.invalid(NAME, reason))
        }
        salt => Ok(salt.map(Into::into)),
    }
}

/// `stream` and `stream_options`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Streaming {
    pub(crate) on: bool,
    pub(crate) include_usage: bool,
    /// Every chunk carries the number of tokens so far.
    pub(crate) continuous_usage: bool,
}

impl Streaming {
    /// `usage` of a chunk of a sequence that has `tokens` tokens; `None` where nobody asked.
    pub(crate) fn usage_of_chunk(self, prompt_tokens: usize, tokens: usize) -> Option<Value> {
        self.include_usage.then(|| {
            if !self.continuous_usage {
                return Value::Null;
            }
            json!({
                "prompt_tokens": prompt_tokens,
                "completion_tokens": tokens,
                "total_tokens": prompt_tokens + tokens,
            })
        })
    }
}

pub(crate) fn streaming(fields: &mut Fields) -> Result<Streaming> {
    let on = fields.bool("stream")?.unwrap_or(false);
    let (include_usage, continuous) = match fields.object("stream_options")? {
        None => (false, false),
        Some(_) if !on => {
            return Err(fields.invalid("stream_options", "only allowed with `stream: true`"));
        }
        Some(mut options) => (
            options.bool("include_usage")?.unwrap_or(false),
            options.bool("continuous_usage_stats")?.unwrap_or(false),
        ),
    };
    // As in vLLM, counts on the way come only with those at the end.
    Ok(Streaming { on, include_usage, continuous_usage: include_usage && continuous })
}

/// Refuses a prompt of more sequences than one request may have.
pub(crate) fn check_sequences(prompts: usize, n: u32, config: &ServerConfig) -> Result<()> {
    let (sequences, most) = (prompts * n as usize, config.limits.sequences);
    if sequences > most {
        let reason =
            format!("{prompts} prompts times {n} are {sequences} sequences, at most {most}");
        return Err(ApiError::invalid("n", reason));
    }
    Ok(())
}
