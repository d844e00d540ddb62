//! `/openapi.json`.

use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;

/// The description of this server, written by hand; a test compares it with the routes.
const DOCUMENT: &str = include_str!("openapi.json");

/// Serves the description.
pub(crate) async fn openapi() -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT)
}
