//! What a client is told when a request fails.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use kilotok::Error;
use kilotok_text::TextError;
use serde_json::{Value, json};

/// An error as the OpenAI API words it. Clients retry 408, 409, 429 and everything from 500 up, so
/// whatever would fail again the same way is a 4xx.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
    pub(crate) retry_after: Option<Duration>,
    /// Machine-readable facts beside the message.
    pub(crate) details: Box<[(&'static str, Value)]>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            param: None,
            code: None,
            retry_after: None,
            details: Box::default(),
        }
    }

    /// A 400 that no field is to blame for.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// A 400 that names the field.
    pub(crate) fn invalid(param: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        let param = param.into();
        let message = format!("invalid `{param}`: {reason}");
        Self { param: Some(param), code: Some("invalid_value"), ..Self::bad_request(message) }
    }

    /// A 400 for a field that would change the answer and is not supported.
    pub(crate) fn unsupported(param: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        let param = param.into();
        let message = format!("`{param}` is not supported: {reason}");
        Self {
            param: Some(param),
            code: Some("unsupported_parameter"),
            ..Self::bad_request(message)
        }
    }

    pub(crate) fn unavailable(message: impl Into<String>, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", message)
        }
    }

    pub(crate) fn overloaded(message: impl Into<String>, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            code: Some("queue_full"),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
        }
    }

    pub(crate) fn deadline(message: impl Into<String>) -> Self {
        // 408 would be retried, and a deadline that has passed does not come back.
        Self {
            param: Some("deadline_ms".into()),
            code: Some("deadline_exceeded"),
            ..Self::new(StatusCode::BAD_REQUEST, "deadline_exceeded", message)
        }
    }

    fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// The error object, also sent as the last event of a broken stream.
    pub(crate) fn body(&self) -> Value {
        let mut error = json!({
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        });
        for (name, value) in &self.details {
            error[*name] = value.clone();
        }
        json!({ "error": error })
    }

    /// The error as the Anthropic API words it.
    pub(crate) fn anthropic_body(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        json!({ "type": "error", "error": { "type": kind, "message": self.message } })
    }

    pub(crate) fn anthropic(self) -> Response {
        let body = self.anthropic_body();
        self.respond(body)
    }

    fn respond(&self, body: Value) -> Response {
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert("retry-after", HeaderValue::from(seconds));
            headers.insert("retry-after-ms", HeaderValue::from(after.as_millis() as u64));
        } else if self.status.is_server_error() {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert("www-authenticate", HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = self.body();
        self.respond(body)
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidRequest { parameter, reason } => Self::invalid(parameter, reason),
            Error::OutOfMemory { unit: "positions", needed, available, what } => Self {
                code: Some("context_length_exceeded"),
                details: Box::new([("n_needed", needed.into()), ("n_ctx", available.into())]),
                ..Self::bad_request(format!(
                    "{what} needs {needed} positions; this server has {available} per sequence"
                ))
            },
            Error::OutOfMemory { unit: "requests", .. } => {
                Self::overloaded("the queue is full", Duration::from_secs(1))
            }
            Error::Constraint { reason } => Self {
                code: Some("constraint_failed"),
                ..Self::bad_request(format!(
                    "the output could not be kept within its constraint: {reason}"
                ))
            },
            Error::EngineDead { reason } => Self {
                code: Some("engine_dead"),
                ..Self::unavailable(
                    format!("the engine is dead: {reason}"),
                    Duration::from_secs(10),
                )
            },
            Error::Cancelled => Self {
                code: Some("cancelled"),
                ..Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "cancelled",
                    "the request was cancelled",
                )
            },
            // What is left concerns the server's own files and memory.
            other => {
                tracing::error!(error = %other, "request failed");
                Self::internal("the request failed; the server's log says why")
            }
        }
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Engine(error) => error.into(),
            TextError::InvalidRequest { parameter, reason } => Self::invalid(parameter, reason),
            TextError::NoTokenizer { .. } | TextError::Grammar { .. } => {
                Self::bad_request(error.to_string())
            }
            TextError::NoTemplate { .. }
            | TextError::TemplateRaised { .. }
            | TextError::TemplateRender { .. }
            | TextError::TemplateLimit { .. } => Self::invalid("messages", error),
            TextError::Tokenizer { operation: "encode", .. } => Self::invalid("prompt", error),
            other => {
                tracing::error!(error = %other, "request failed");
                Self::internal("the request failed; the server's log says why")
            }
        }
    }
}
