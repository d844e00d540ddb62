//! Who may ask: keys, and what a browser may do on behalf of a page.

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::App;
use crate::config::Hosts;
use crate::error::ApiError;

/// The one route that needs no key.
const OPEN: &str = "/live";

/// Lets a request through or answers it.
pub(crate) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    match check(&app, request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) if request.uri().path().starts_with("/v1/messages") => error.anthropic(),
        Err(error) => error.into_response(),
    }
}

fn check(app: &App, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    let config = app.config();
    let forbidden = |message| ApiError::new(StatusCode::FORBIDDEN, "permission_error", message);
    if config.hosts == Hosts::Local && !is_local(headers) {
        return Err(forbidden("the Host header names neither localhost nor an IP address"));
    }
    if let Some(origin) = headers.get(ORIGIN)
        && !config.allowed_origins.iter().any(|allowed| allowed == "*" || origin == allowed)
    {
        return Err(forbidden("pages of this origin may not use the server"));
    }
    if path != OPEN && !config.keys.admit(headers) {
        return Err(ApiError {
            code: Some("invalid_api_key"),
            ..ApiError::new(
                StatusCode::UNAUTHORIZED,
                "authentication_error",
                "expected a valid key as `authorization: Bearer <key>` or `x-api-key: <key>`",
            )
        });
    }
    Ok(())
}

fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    // `[::1]:8000`, `127.0.0.1:8000`, `localhost`.
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, header::HOST};

    use super::is_local;

    #[test]
    fn only_names_that_cannot_be_rebound_are_local() {
        let headers = |host| HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
        for local in
            ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000", "[::1]"]
        {
            assert!(is_local(&headers(local)), "{local}");
        }
        for other in
            ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", ""]
        {
            assert!(!is_local(&headers(other)), "{other}");
        }
        assert!(is_local(&HeaderMap::new()));
    }
}
