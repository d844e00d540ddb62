//! The page at `/`: a chat that shows what the engine does. Everything is in the binary, and a
//! policy keeps the browser from loading or running anything else.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::http::{HeaderName, HeaderValue};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::App;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Paths as the page names them, types and contents.
const FILES: [(&str, &str, &str); 8] = [
    ("/", HTML, include_str!("index.html")),
    ("/page/style.css", CSS, include_str!("style.css")),
    ("/page/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("/page/main.js", SCRIPT, include_str!("main.js")),
    ("/page/api.js", SCRIPT, include_str!("api.js")),
    ("/page/chat.js", SCRIPT, include_str!("chat.js")),
    ("/page/charts.js", SCRIPT, include_str!("charts.js")),
    ("/page/numbers.js", SCRIPT, include_str!("numbers.js")),
];

/// Whether a browser asks for this path to show it, and may ask its user for the key.
pub(crate) fn is_page(path: &str) -> bool {
    FILES.iter().any(|(name, ..)| *name == path)
}

/// The routes of the page's files.
pub(crate) fn routes() -> Router<App> {
    FILES.iter().fold(Router::new(), |router, &(path, kind, content)| {
        router.route(path, get(move || std::future::ready(file(kind, content))))
    })
}

fn file(kind: &'static str, content: &'static str) -> impl IntoResponse {
    let header = |name: HeaderName, value| (name, HeaderValue::from_static(value));
    let headers = [
        header(CONTENT_TYPE, kind),
        // A new version of the program brings a new page.
        header(CACHE_CONTROL, "no-cache"),
        header(CONTENT_SECURITY_POLICY, POLICY),
        header(HeaderName::from_static("x-content-type-options"), "nosniff"),
        header(REFERRER_POLICY, "no-referrer"),
    ];
    (headers, content)
}
