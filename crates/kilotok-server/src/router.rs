//! The routes.

use axum::Router;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tower_http::cors::CorsLayer;

use crate::api::{self, chat, completions, messages, models, responses, tokenize};
use crate::error::ApiError;
use crate::{App, guard, health, page, request_id, status};

/// All routes over an [`App`], to be served or mounted. Must be called within a tokio runtime: it
/// starts the task that watches the engine's progress.
pub fn router(app: App) -> Router {
    if tokio::runtime::Handle::try_current().is_ok() {
        tokio::spawn(health::Health::watch(app.clone()));
    }
    let routes = Router::new()
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/messages", post(messages::messages))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::one))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/live", get(health::live))
        .route("/ready", get(health::readiness))
        .route("/health", get(health::health))
        .route("/status", get(status::status))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(api::openapi))
        .merge(page::routes())
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method);
    let routes = routes.layer(from_fn_with_state(app.clone(), guard::guard));
    let routes = match cors(&app.config().allowed_origins) {
        // Before the keys: a browser asks first, and without them.
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    routes.layer(from_fn_with_state(app.clone(), request_id::observe)).with_state(app)
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let cors = CorsLayer::new().allow_methods([Method::GET, Method::POST]).allow_headers([
        AUTHORIZATION,
        CONTENT_TYPE,
        HeaderName::from_static("x-api-key"),
    ]);
    Some(if origins.iter().any(|origin| origin == "*") {
        cors.allow_origin(tower_http::cors::Any)
    } else {
        let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
        cors.allow_origin(origins.collect::<Vec<_>>())
    })
}

async fn metrics(State(app): State<App>) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics().render(&app))
}

async fn unknown_route() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", "no such route")
}

async fn wrong_method() -> ApiError {
    let message = "this route does not take this method";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
}
