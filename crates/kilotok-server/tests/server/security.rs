//! Keys, hosts, origins.

use axum::body::Body;
use axum::http::Request;
use kilotok_server::{ApiKeys, Hosts, ServerConfig};
use serde_json::Value;
use std::time::Duration;

use crate::support::Server;

fn keyed() -> Server {
    let mut config = ServerConfig::named("sim");
    config.keys = ApiKeys::new(["right", "other"]);
    Server::new(config, Duration::ZERO)
}

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let builder = Request::builder().method(method).uri(path);
    let builder =
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
    builder.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn every_route_but_live_asks_for_a_key() {
    let server = keyed();
    let document: Value = serde_json::from_str(include_str!("../../src/api/openapi.json")).unwrap();
    let paths = document["paths"].as_object().unwrap().keys().map(String::as_str);
    for path in paths.chain([
        "/",
        "/docs",
        "/v1",
        "/v1/chat",
        "/live/",
        "//live",
        "/LIVE",
        "/live/../metrics",
    ]) {
        let path = path.replace("{name}", "sim");
        for method in ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"] {
            for headers in
                [&[][..], &[("authorization", "Bearer wrong")], &[("x-api-key", "Right")]]
            {
                let status = server.send(request(method, &path, headers)).await.status;
                assert_eq!(status == 401, path != "/live", "{method} {path}: {status}");
            }
            let right = [("authorization", "Bearer right")];
            let status = server.send(request(method, &path, &right)).await.status;
            assert_ne!(status, 401, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_browser_asks_its_user_for_the_key_of_the_page() {
    let server = keyed();
    let reply = server.get("/").await;
    assert_eq!(reply.status, 401);
    assert!(reply.headers["www-authenticate"].to_str().unwrap().starts_with("Basic "));
    // "me:right", "right:me"
    for (pair, status) in [("bWU6cmlnaHQ=", 200), ("cmlnaHQ6bWU=", 401)] {
        let basic = format!("Basic {pair}");
        for path in ["/", "/page/main.js", "/status", "/v1/models"] {
            let given = request("GET", path, &[("authorization", &basic)]);
            assert_eq!(server.send(given).await.status, status, "{path}");
        }
    }
}

#[tokio::test]
async fn a_refusal_says_how_to_do_better() {
    let reply = keyed().get("/v1/models").await;
    assert_eq!(reply.headers["www-authenticate"], "Bearer");
    assert_eq!(reply.json()["error"]["code"], "invalid_api_key");
    assert!(!reply.text.contains("right"));
}

#[tokio::test]
async fn pages_are_kept_out_unless_they_are_named() {
    let server = Server::quick();
    let foreign = [("origin", "https://page.example")];
    assert_eq!(server.send(request("GET", "/v1/models", &foreign)).await.status, 403);
    let reply = server.send(request("OPTIONS", "/v1/models", &foreign)).await;
    assert!(reply.headers.get("access-control-allow-origin").is_none());

    let mut config = ServerConfig::named("sim");
    config.allowed_origins = vec!["https://page.example".into()];
    config.keys = ApiKeys::new(["right"]);
    let server = Server::new(config, Duration::ZERO);
    let preflight = [
        ("origin", "https://page.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    let reply = server.send(request("OPTIONS", "/v1/chat/completions", &preflight)).await;
    assert_eq!(reply.headers["access-control-allow-origin"], "https://page.example");
    assert!(reply.headers.get("access-control-allow-credentials").is_none());
    let keyed = [("origin", "https://page.example"), ("x-api-key", "right")];
    assert_eq!(server.send(request("GET", "/v1/models", &keyed)).await.status, 200);
    let other = [("origin", "https://other.example"), ("x-api-key", "right")];
    assert_eq!(server.send(request("GET", "/v1/models", &other)).await.status, 403);
}

#[tokio::test]
async fn the_servers_own_page_may_use_it_unless_its_name_can_be_rebound() {
    let own = [("origin", "http://127.0.0.1:8000"), ("host", "127.0.0.1:8000")];
    let named = [("origin", "http://box.example:8000"), ("host", "box.example:8000")];
    let other = [("origin", "http://127.0.0.1:9000"), ("host", "127.0.0.1:8000")];
    let key = ("x-api-key", "right");
    let (open, keyed) = (Server::quick(), keyed());
    for (server, headers, status) in [
        (&open, &own[..], 200),
        (&open, &named, 403),
        (&open, &other, 403),
        (&keyed, &[own[0], own[1], key], 200),
        (&keyed, &[named[0], named[1], key], 200),
        (&keyed, &[other[0], other[1], key], 403),
        (&keyed, &named, 401),
    ] {
        assert_eq!(server.send(request("GET", "/status", headers)).await.status, status);
    }
}

#[tokio::test]
async fn a_rebound_name_is_not_answered() {
    let mut config = ServerConfig::named("sim");
    config.hosts = Hosts::Local;
    let server = Server::new(config, Duration::ZERO);
    let evil = [("host", "evil.example:8000")];
    assert_eq!(server.send(request("GET", "/v1/models", &evil)).await.status, 403);
    let local = [("host", "127.0.0.1:8000")];
    assert_eq!(server.send(request("GET", "/v1/models", &local)).await.status, 200);
}

#[tokio::test]
async fn request_ids_are_taken_over_only_where_they_are_harmless() {
    let server = Server::quick();
    let given = [("x-request-id", "my-id.1:2_3")];
    let reply = server.send(request("GET", "/live", &given)).await;
    assert_eq!(reply.headers["x-request-id"], "my-id.1:2_3");
    let long = "x".repeat(200);
    for bad in ["a b", "a\"b", "{}", long.as_str()] {
        let reply = server.send(request("GET", "/live", &[("x-request-id", bad)])).await;
        assert!(reply.headers["x-request-id"].to_str().unwrap().starts_with("req-"));
    }
}
