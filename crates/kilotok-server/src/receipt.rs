//! The speed receipt as clients see it: in `usage`, in `metrics` and in a header.

use axum::http::HeaderValue;
use axum::response::Response;
use kilotok::engine::{FinishReason, Receipt};
use kilotok_text::{Completion, StoppedBy};
use serde_json::{Value, json};

/// The header of replies that are not streams.
const HEADER: &str = "x-kilotok-receipt";

/// `usage`, with a receipt per sequence.
pub(crate) fn usage(
    prompt_tokens: usize,
    reasoning_tokens: usize,
    completions: &[Completion],
) -> Value {
    let tokens: usize = completions.iter().map(|completion| completion.token_ids.len()).sum();
    // Of a prompt that is continued several times, the mean.
    let sum = |of: fn(&Receipt) -> usize| completions.iter().map(|c| of(&c.receipt)).sum::<usize>();
    let (cached, fed) = (sum(|r| r.cached_tokens), sum(|r| r.prompt_tokens));
    let cached = (cached * prompt_tokens).checked_div(fed).unwrap_or(0);
    let receipts: Vec<Value> = completions.iter().map(|c| receipt(&c.receipt)).collect();
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
        "prompt_tokens_details": { "cached_tokens": cached },
        "completion_tokens_details": { "reasoning_tokens": reasoning_tokens },
        "receipts": receipts,
    })
}

/// All numbers of a receipt.
pub(crate) fn receipt(receipt: &Receipt) -> Value {
    json!({
        "prompt_tokens": receipt.prompt_tokens,
        "cached_tokens": receipt.cached_tokens,
        "tokens": receipt.tokens,
        "queue_ms": round(receipt.queue_ms),
        "prefill_ms": round(receipt.prefill_ms),
        "ttft_ms": round(receipt.ttft_ms),
        "tokens_per_s": round(receipt.tokens_per_s),
        "rounds": receipt.rounds,
        "speculative_rounds": receipt.speculative_rounds,
        "drafted": receipt.drafted,
        "tau": round(receipt.tau),
        "accepted_histogram": receipt.accepted_histogram,
        "plain_step_ms": round(receipt.plain_step_ms),
        "speedup": round(receipt.speedup),
        "seed": receipt.seed,
        "warning": receipt.warning,
    })
}

/// `metrics` in vLLM's field names. Like there, it describes a single sequence.
pub(crate) fn metrics(completions: &[Completion]) -> Value {
    let [completion] = completions else { return Value::Null };
    let receipt = &completion.receipt;
    let decoded = receipt.tokens.saturating_sub(1) as f64;
    let seconds = if receipt.tokens_per_s > 0.0 { decoded / receipt.tokens_per_s } else { 0.0 };
    let accepted: usize =
        receipt.accepted_histogram.iter().enumerate().map(|(drafts, rounds)| drafts * rounds).sum();
    let steps = receipt.speculative_rounds;
    let per = |amount: usize, of: usize| {
        if of == 0 { Value::Null } else { round(amount as f64 / of as f64) }
    };
    json!({
        "time_to_first_token_ms": round(receipt.prefill_ms),
        "queue_time_ms": round(receipt.queue_ms),
        "generation_time_ms": round(seconds * 1e3),
        "mean_itl_ms": if decoded > 0.0 { round(seconds * 1e3 / decoded) } else { Value::Null },
        "tokens_per_second": round(receipt.tokens_per_s),
        "speculative_decoding": {
            "mean_acceptance_length": per(accepted + steps, steps),
            "draft_acceptance_rate": per(accepted, receipt.drafted),
            "acceptance_histogram": receipt.accepted_histogram,
            "num_spec_steps": steps,
            "num_accepted_draft_tokens": accepted,
            "num_draft_tokens": receipt.drafted,
            "num_spec_tokens": receipt.accepted_histogram.len().saturating_sub(1),
        },
    })
}

/// Adds the receipts, on one line.
pub(crate) fn with_header(mut response: Response, completions: &[Completion]) -> Response {
    let lines: Vec<String> = completions
        .iter()
        .map(|completion| {
            let r = &completion.receipt;
            format!(
                "cached_tokens={};queue_ms={:.3};prefill_ms={:.3};ttft_ms={:.3};tokens={};\
                 tokens_per_s={:.1};rounds={};tau={:.3};speedup={:.3}",
                r.cached_tokens,
                r.queue_ms,
                r.prefill_ms,
                r.ttft_ms,
                r.tokens,
                r.tokens_per_s,
                r.rounds,
                r.tau,
                r.speedup
            )
        })
        .collect();
    if let Ok(value) = HeaderValue::from_str(&lines.join(", ")) {
        response.headers_mut().insert(HEADER, value);
    }
    response
}

/// `finish_reason` in OpenAI's words.
pub(crate) fn finish_reason(completion: &Completion) -> &'static str {
    match completion.finish_reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// What ended the text: a stop string, or a token id that the request named; as vLLM, null for
/// the model's own end of text.
pub(crate) fn stop_reason(completion: &Completion, stop_token_ids: &[u32]) -> Value {
    match &completion.stopped_by {
        Some(StoppedBy::Text(text)) => Value::from(text.as_str()),
        Some(StoppedBy::Token(id)) if stop_token_ids.contains(id) => Value::from(*id),
        _ => Value::Null,
    }
}

/// Six digits behind the point; numbers that are no numbers do not exist in JSON.
fn round(value: f64) -> Value {
    let rounded = (value * 1e6).round() / 1e6;
    if rounded.is_finite() { Value::from(rounded) } else { Value::Null }
}
