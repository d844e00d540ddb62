//! `/tokenize` and `/detokenize`, in vLLM's shape.

use axum::Json;
use axum::extract::State;
use kilotok_text::{Prompt, TextEngine};
use serde_json::{Value, json};

use super::conversation::conversation;
use super::params::token_ids;
use crate::App;
use crate::body::JsonBody;
use crate::error::ApiError;

/// Text or a conversation to token ids.
pub(crate) async fn tokenize(
    State(app): State<App>,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Value>, ApiError> {
    app.check_model(fields.string("model")?.as_deref())?;
    let engine = app.engine()?;
    let add_special = fields.bool("add_special_tokens")?.unwrap_or(true);
    let strings = fields.bool("return_token_strs")?.unwrap_or(false);
    let prompt = match fields.string("prompt")? {
        Some(text) => Prompt::Text(text),
        None => Prompt::Chat(conversation(&mut fields, app.config())?.0),
    };
    off_thread(move || {
        let tokens = engine.encode(prompt, add_special)?;
        let limits = engine.engine().limits();
        let strings = strings.then(|| token_strings(&engine, &tokens));
        Ok(Json(json!({
            "count": tokens.len(),
            "max_model_len": limits.max_positions.min(limits.pages * limits.page_size),
            "tokens": tokens,
            "token_strs": strings,
        })))
    })
    .await
}

/// Token ids to text.
pub(crate) async fn detokenize(
    State(app): State<App>,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Value>, ApiError> {
    app.check_model(fields.string("model")?.as_deref())?;
    let engine = app.engine()?;
    let tokens = token_ids(&mut fields, "tokens", usize::MAX)?;
    off_thread(move || {
        let tokenizer = engine.tokenizer().ok_or_else(|| {
            ApiError::invalid("tokens", "the model has no tokenizer.json, so they have no text")
        })?;
        let text = tokenizer.decode(&tokens, false)?;
        Ok(Json(json!({ "prompt": text })))
    })
    .await
}

pub(crate) fn token_strings(engine: &TextEngine, tokens: &[u32]) -> Vec<String> {
    let text = |&id| engine.tokenizer().and_then(|t| t.token_text(id)).unwrap_or_default();
    tokens.iter().map(text).collect()
}

/// Runs work that may take long off the I/O threads.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request panicked");
        let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
        Err(ApiError::new(status, "server_error", "the request failed; the server's log says why"))
    })
}
