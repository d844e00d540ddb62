//! A name for every request, and the line that the log has of it.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::App;
use crate::api::unique_id;
use crate::error::ApiError;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID_BYTES: usize = 128;

/// Names, counts and logs a request; a panic inside becomes a 500 instead of a closed connection.
/// Nothing of a body is ever logged.
pub(crate) async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let given = request.headers().get(&HEADER).and_then(|value| value.to_str().ok());
    // Only what can do no harm in a log is taken over.
    let usable = |id: &&str| {
        (1..=MAX_ID_BYTES).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    let id = given.filter(usable).map_or_else(|| unique_id("req-"), str::to_owned);
    let value = HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("-"));
    request.headers_mut().insert(HEADER, value.clone());
    let method = request.method().clone();
    // The route and not the path: paths are the client's, and there is no end of them.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "other".to_owned());
    let span = tracing::info_span!("request", id = %id, %method, route, status = Empty);
    #[cfg(feature = "otel")]
    adopt(&span, request.headers());
    let work = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone());
    let mut response = work.await.unwrap_or_else(|_| {
        let message = "the request failed; the server's log says why";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message).into_response()
    });
    response.headers_mut().insert(HEADER, value);
    let status = response.status().as_u16();
    app.metrics().http(&route, status);
    span.record("status", status);
    span.in_scope(|| {
        let ms = started.elapsed().as_secs_f64() * 1e3;
        tracing::info!(ms, "answered");
    });
    response
}

/// Makes a span part of the trace that the client is in (`traceparent`).
#[cfg(feature = "otel")]
fn adopt(span: &tracing::Span, headers: &axum::http::HeaderMap) {
    use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    struct Headers<'a>(&'a axum::http::HeaderMap);
    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.get(key)?.to_str().ok()
        }
        fn keys(&self) -> Vec<&str> {
            self.0.keys().map(HeaderName::as_str).collect()
        }
    }
    let propagator = opentelemetry_sdk::propagation::TraceContextPropagator::new();
    // Without an exporter there is no trace to join.
    let _ = span.set_parent(propagator.extract(&Headers(headers)));
}
