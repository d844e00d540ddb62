//! Who may ask: keys, and what a browser may do on behalf of a page.

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::config::Hosts;
use crate::error::ApiError;
use crate::{App, page};

/// The one route that needs no key.
const OPEN: &str = "/live";

/// Lets a request through or answers it.
pub(crate) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    match check(&app, path, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) if path.starts_with("/v1/messages") => error.anthropic(),
        Err(error) if error.status == StatusCode::UNAUTHORIZED && page::is_page(path) => {
            // Makes a browser ask its user for the key and send it along from then on.
            let challenge = HeaderValue::from_static("Basic realm=\"kilotok: key as password\"");
            ([(WWW_AUTHENTICATE, challenge)], error.into_response()).into_response()
        }
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
        && !(is_own(origin, headers) && (!config.keys.is_empty() || is_local(headers)))
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

/// Whether a page comes from this server, by the address in the browser's bar. A page that
/// rebound its own name says the same, so without keys the name must be one that cannot be.
fn is_own(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    own.zip(host).is_some_and(|(own, host)| own.eq_ignore_ascii_case(host))
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
