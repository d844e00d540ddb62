//! Prefixes that requests share: what `usage` and `/metrics` say of them, and how a salt keeps
//! them apart.

use serde_json::{Value, json};

use crate::responses::named_events;
use crate::support::Server;

/// A system prompt of more than one page.
fn system() -> String {
    "Be brief, be kind, and say what you know. ".repeat(12)
}

fn chat(user: &str) -> Value {
    json!({
        "model": "sim", "max_tokens": 4, "temperature": 0,
        "messages": [{"role": "system", "content": system()}, {"role": "user", "content": user}],
    })
}

fn cached(reply: &Value) -> u64 {
    reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

#[tokio::test]
async fn usage_counts_what_was_found() {
    let server = Server::quick();
    let first = server.post("/v1/chat/completions", &chat("Weather?")).await.ok();
    let again = server.post("/v1/chat/completions", &chat("Weather?")).await;
    let header = again.headers["x-kilotok-receipt"].to_str().unwrap().to_owned();
    let again = again.ok();
    assert_eq!(cached(&first), 0);
    let prompt = again["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(cached(&again), (prompt - 1) / 16 * 16);
    assert_eq!(again["choices"], first["choices"]);
    assert_eq!(again["usage"]["receipts"][0]["cached_tokens"], cached(&again));
    assert!(header.starts_with(&format!("cached_tokens={};", cached(&again))), "{header}");

    // A stream says it in its last chunk.
    let mut body = chat("Weather?");
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let events = server.post("/v1/chat/completions", &body).await.events();
    assert_eq!(cached(events.last().unwrap()), cached(&again));

    let text = server.get("/metrics").await.text;
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(value("vllm:prefix_cache_queries_total{"), 3 * prompt);
    assert_eq!(value("vllm:prefix_cache_hits_total{"), 2 * cached(&again));
    assert!(value("kilotok:pages_cached{") >= cached(&again) / 16);
    server.idle().await;
}

#[tokio::test]
async fn several_sequences_of_a_prompt_count_it_once() {
    let server = Server::quick();
    let mut body =
        json!({"model": "sim", "prompt": vec![vec![5; 40], vec![6; 50]], "max_tokens": 2});
    server.post("/v1/completions", &body).await.ok();
    body["n"] = 3.into();
    let reply = server.post("/v1/completions", &body).await.ok();
    assert_eq!(reply["usage"]["prompt_tokens"], 90);
    assert_eq!(cached(&reply), 32 + 48);
}

#[tokio::test]
async fn every_route_speaks_of_it_in_its_own_words() {
    let server = Server::quick();
    let messages = json!({
        "model": "sim", "max_tokens": 4, "system": system(),
        "messages": [{"role": "user", "content": "Weather?"}],
    });
    let first = server.post("/v1/messages", &messages).await.ok()["usage"].clone();
    let again = server.post("/v1/messages", &messages).await.ok()["usage"].clone();
    assert_eq!(first["cache_read_input_tokens"], 0);
    let read = again["cache_read_input_tokens"].as_u64().unwrap();
    assert!(read > 0 && read % 16 == 0, "{again}");
    // Anthropic counts what was read from a cache beside the input, not in it.
    assert_eq!(again["input_tokens"].as_u64().unwrap() + read, first["input_tokens"]);
    let mut body = messages.clone();
    body["stream"] = true.into();
    let events = named_events(&server.post("/v1/messages", &body).await);
    let delta = events.iter().find(|event| event["type"] == "message_delta").unwrap();
    assert_eq!(delta["usage"]["cache_read_input_tokens"], read);

    let responses = json!({"input": "Weather?", "instructions": system(), "max_output_tokens": 4});
    server.post("/v1/responses", &responses).await.ok();
    let usage = server.post("/v1/responses", &responses).await.ok()["usage"].clone();
    let found = usage["input_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(found, (usage["input_tokens"].as_u64().unwrap() - 1) / 16 * 16);
}

#[tokio::test]
async fn a_salt_keeps_prefixes_apart() {
    let server = Server::quick();
    let salted = |salt: &str| {
        let mut body = chat("Weather?");
        body["cache_salt"] = salt.into();
        body
    };
    let ask = async |body: &Value| cached(&server.post("/v1/chat/completions", body).await.ok());
    assert_eq!(ask(&chat("Weather?")).await, 0);
    assert_eq!(ask(&salted("tenant 1")).await, 0);
    assert_eq!(ask(&salted("tenant 2")).await, 0);
    assert!(ask(&salted("tenant 1")).await > 0);
    assert!(ask(&chat("Weather?")).await > 0);
    for salt in [json!(""), json!(7), json!("x".repeat(257))] {
        let mut body = chat("Weather?");
        body["cache_salt"] = salt;
        let reply = server.post("/v1/chat/completions", &body).await;
        assert_eq!(reply.refused(), "cache_salt");
    }
}
