//! Request bodies: size, time, type and depth are checked here, for every route alike.

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};

use crate::App;
use crate::error::ApiError;
use crate::fields::Fields;

/// The JSON object a request carries.
pub(crate) struct JsonBody(pub(crate) Fields);

impl FromRequest<App> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let limits = &app.config().limits;
        let headers = request.headers();
        // A browser sends other types from any page without asking first.
        let is_json =
            headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
                let kind = value.split(';').next().unwrap_or_default().trim();
                kind.eq_ignore_ascii_case("application/json")
            });
        if !is_json {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "invalid_request_error",
                "expected `content-type: application/json`",
            ));
        }
        if headers.get(CONTENT_ENCODING).is_some_and(|value| value != "identity") {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "invalid_request_error",
                "compressed bodies are not read",
            ));
        }
        let announced =
            headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if announced.is_some_and(|bytes: u64| bytes > limits.body_bytes as u64) {
            return Err(too_large(limits.body_bytes));
        }
        let body =
            tokio::time::timeout(limits.body_timeout, read(request.into_body(), limits.body_bytes))
                .await
                .map_err(|_| {
                    let kind = "invalid_request_error";
                    ApiError::new(
                        StatusCode::REQUEST_TIMEOUT,
                        kind,
                        "the body did not arrive in time",
                    )
                })??;
        Fields::parse(&body, limits.json_depth).map(Self)
    }
}

async fn read(body: Body, limit: usize) -> Result<axum::body::Bytes, ApiError> {
    to_bytes(body, limit).await.map_err(|error| {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            if error.to_string().contains("length limit") {
                return too_large(limit);
            }
            cause = error.source();
        }
        ApiError::bad_request("the body could not be read to its end")
    })
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the body is larger than {limit} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
}
