//! The page at `/` and what it is made of.

use kilotok_server::{App, LoadProgress, ServerConfig, router};
use serde_json::json;
use tower::ServiceExt as _;

use crate::support::{SLOTS, Server, engine_over, sim};
use std::time::Duration;

#[tokio::test]
async fn everything_the_page_names_is_served_and_nothing_is_inline() {
    let server = Server::quick();
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(!page.text.contains("style=") && !page.text.contains("://"), "no CDN, no inline style");
    let mut pending: Vec<String> = quoted(&page.text, &["href=\"", "src=\""]);
    let mut seen = Vec::new();
    while let Some(name) = pending.pop() {
        let reply = server.get(&format!("/{name}")).await;
        assert_eq!(reply.status, 200, "{name}");
        assert_eq!(reply.headers["x-content-type-options"], "nosniff");
        let imported = quoted(&reply.text, &["from \"./"]).into_iter();
        pending.extend(
            imported.map(|file| format!("page/{file}")).filter(|file| !seen.contains(file)),
        );
        seen.push(name);
    }
    assert!(seen.len() >= 7, "{seen:?}");
}

/// What stands between one of these and the next quotation mark.
fn quoted(text: &str, before: &[&str]) -> Vec<String> {
    let found = before.iter().flat_map(|before| text.split(before).skip(1));
    found.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
}

#[tokio::test]
async fn the_status_counts_slots_and_pages() {
    let server = Server::quick();
    server.post("/v1/completions", &json!({"prompt": "x", "max_tokens": 8})).await.ok();
    server.idle().await;
    let status = server.get("/status").await.ok();
    assert_eq!(status["status"], "ready");
    assert_eq!(status["slots"], json!({"used": 0, "total": SLOTS}));
    assert_eq!(status["pages"]["used"], 0);
    assert_eq!((&status["finished"], &status["tokens"]), (&json!(1), &json!(8)));
}

#[tokio::test]
async fn the_status_answers_while_the_model_loads() {
    let app = App::new(ServerConfig::named("sim"));
    app.loading(LoadProgress { bytes_done: 1, bytes_total: 4, file: String::new() });
    let routes = router(app.clone());
    let ask = || async {
        let request = axum::http::Request::get("/status").body(axum::body::Body::empty()).unwrap();
        let reply = routes.clone().oneshot(request).await.unwrap();
        assert_eq!(reply.status(), 200);
        let body = axum::body::to_bytes(reply.into_body(), 9999).await.unwrap();
        serde_json::from_slice::<serde_json::Value>(&body).unwrap()
    };
    let loading = ask().await;
    assert_eq!((&loading["status"], &loading["fraction"]), (&json!("loading"), &json!(0.25)));
    app.ready(engine_over(sim(Duration::ZERO)));
    assert_eq!(ask().await["memory"]["weights"], 4);
}
