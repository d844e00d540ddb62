//! Reasoning and tool calls in chat.

use std::sync::Arc;
use std::time::Duration;

use kilotok::engine::{Engine, EngineConfig, ModelInfo};
use kilotok_server::ServerConfig;
use kilotok_text::TextEngine;
use serde_json::{Value, json};

use crate::scripted::{BROKEN, EVERYTHING, saying};
use crate::support::{Server, VOCAB, demo, sim};

fn ask(extra: &Value) -> Value {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}});
    let mut body = json!({
        "messages": [{"role": "user", "content": "Weather?"}],
        "tools": [tool("weather"), tool("time")],
        "max_tokens": 200,
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

async fn choice(server: &Server, body: &Value) -> Value {
    server.post("/v1/chat/completions", body).await.ok()["choices"][0].clone()
}

/// The message that the chunks of a stream add up to.
fn assembled(events: &[Value]) -> (Value, String) {
    let mut message = json!({"content": "", "reasoning": "", "reasoning_content": ""});
    let mut calls: Vec<Value> = Vec::new();
    let mut reason = String::new();
    for event in events {
        let choice = &event["choices"][0];
        for field in ["content", "reasoning", "reasoning_content"] {
            if let Some(text) = choice["delta"][field].as_str() {
                message[field] = format!("{}{text}", message[field].as_str().unwrap()).into();
            }
        }
        for part in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = part["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
                assert!(part["id"].is_string() && part["function"]["name"].is_string());
                calls.push(
                    json!({"id": part["id"], "type": "function", "function": part["function"]}),
                );
            } else {
                let more = part["function"]["arguments"].as_str().unwrap();
                let before = calls[index]["function"]["arguments"].as_str().unwrap();
                calls[index]["function"]["arguments"] = format!("{before}{more}").into();
            }
        }
        if let Some(found) = choice["finish_reason"].as_str() {
            found.clone_into(&mut reason);
        }
    }
    message["tool_calls"] = json!(calls);
    (message, reason)
}

#[tokio::test]
async fn an_answer_is_taken_apart() {
    let server = saying(EVERYTHING);
    let whole = choice(&server, &ask(&json!({}))).await;
    let message = &whole["message"];
    assert_eq!(message["reasoning"], "Let me see.");
    assert_eq!(message["reasoning_content"], "Let me see.");
    assert_eq!(message["content"], "I will look.");
    assert_eq!(whole["finish_reason"], "tool_calls");
    let calls = message["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0]["function"]["name"], "weather");
    let arguments: Value =
        serde_json::from_str(calls[0]["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"city": "Bern", "days": 2}));
    assert_ne!(calls[0]["id"], calls[1]["id"]);

    let events = server.post("/v1/chat/completions", &ask(&json!({"stream": true}))).await.events();
    let (streamed, reason) = assembled(&events);
    assert_eq!(reason, "tool_calls");
    for field in ["content", "reasoning", "reasoning_content"] {
        assert_eq!(streamed[field], message[field]);
    }
    for (streamed, whole) in streamed["tool_calls"].as_array().unwrap().iter().zip(calls) {
        assert_eq!(streamed["function"], whole["function"]);
    }
}

#[tokio::test]
async fn one_call_where_one_is_asked_for_and_none_where_none_is() {
    let server = saying(EVERYTHING);
    let one = choice(&server, &ask(&json!({"parallel_tool_calls": false}))).await;
    assert_eq!(one["message"]["tool_calls"].as_array().unwrap().len(), 1);
    let none = choice(&server, &ask(&json!({"tool_choice": "none"}))).await;
    assert!(none["message"].get("tool_calls").is_none());
    assert_eq!(none["finish_reason"], "stop");
    assert!(none["message"]["content"].as_str().unwrap().contains("\"weather\""));
}

#[tokio::test]
async fn a_call_that_breaks_off_is_text_and_no_call() {
    let server = saying(BROKEN);
    let whole = choice(&server, &ask(&json!({}))).await;
    assert!(whole["message"].get("tool_calls").is_none());
    assert_eq!(whole["message"]["content"], BROKEN);
    assert_eq!(whole["finish_reason"], "stop");
    let events = server.post("/v1/chat/completions", &ask(&json!({"stream": true}))).await.events();
    let (streamed, reason) = assembled(&events);
    assert_eq!(streamed["content"], BROKEN);
    assert_eq!(reason, "stop");
}

#[tokio::test]
async fn thinking_is_counted() {
    let server = saying("<think>\none two three\n</think>\nfour");
    let usage = server.post("/v1/chat/completions", &ask(&json!({}))).await.ok()["usage"].clone();
    let thought = usage["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
    let all = usage["completion_tokens"].as_u64().unwrap();
    assert!(thought > 2 && thought < all, "{thought} of {all}");
}

#[tokio::test]
async fn tools_and_earlier_turns_reach_the_template() {
    let server = Server::quick();
    let mut body = ask(&json!({}));
    let with = server.post("/tokenize", &body).await.ok()["count"].as_u64().unwrap();
    body["tool_choice"] = json!("none");
    let without = server.post("/tokenize", &body).await.ok()["count"].as_u64().unwrap();
    assert!(with > without);
    let history = json!({
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": null, "reasoning": "Hm.", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
            ]},
            {"role": "tool", "tool_call_id": "c", "content": "rain"},
        ],
        "max_tokens": 3,
    });
    server.post("/v1/chat/completions", &history).await.ok();
}

#[tokio::test]
async fn thoughts_of_earlier_turns_are_accepted_under_both_names() {
    // The demo's own template leaves thoughts out.
    let directory = std::env::temp_dir().join(format!("kilotok-thoughts-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::copy(demo().join("tokenizer.json"), directory.join("tokenizer.json")).unwrap();
    let config = std::fs::read(demo().join("tokenizer_config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    let thought = "{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}";
    let message = format!("[{{{{ m.role }}}}]{thought}{{{{ m.content }}}}");
    config["chat_template"] = format!("{{% for m in messages %}}{message}{{% endfor %}}").into();
    std::fs::write(directory.join("tokenizer_config.json"), config.to_string()).unwrap();
    let info = ModelInfo { vocab: VOCAB, eos_token_ids: vec![2], max_drafts: 7 };
    let engine = Engine::start(sim(Duration::ZERO), info, EngineConfig::default()).unwrap();
    let engine = TextEngine::from_dir(Arc::new(engine), &directory).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    let server = Server::over(ServerConfig::named("sim"), engine);
    let mut prompts = Vec::new();
    for field in ["reasoning", "reasoning_content", "unknown"] {
        let mut said = json!({"role": "assistant", "content": "Yes."});
        said[field] = "Hm.".into();
        let body = json!({"messages": [{"role": "user", "content": "Weather?"}, said]});
        let tokens = server.post("/tokenize", &body).await.ok()["tokens"].clone();
        let text = server.post("/detokenize", &json!({"tokens": tokens})).await.ok();
        prompts.push(text["prompt"].as_str().unwrap().to_owned());
    }
    assert_eq!(prompts[0], "[user]Weather?[assistant](Hm.)Yes.");
    assert_eq!(prompts[1], prompts[0]);
    assert!(!prompts[2].contains("Hm."));
}
