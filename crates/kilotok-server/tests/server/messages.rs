//! `/v1/messages`.

use serde_json::{Value, json};

use crate::responses::named_events;
use crate::scripted::{BROKEN, EVERYTHING, saying};
use crate::support::Server;

fn ask(stream: bool) -> Value {
    json!({
        "model": "sim", "max_tokens": 200, "stream": stream,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Weather?"}]}],
        "tools": [{"name": "weather", "description": "d", "input_schema": {"type": "object"}}],
        "metadata": {"user_id": "u"},
        "thinking": {"type": "enabled", "budget_tokens": 100},
    })
}

#[tokio::test]
async fn content_is_what_was_said() {
    let server = saying(EVERYTHING);
    let reply = server.post("/v1/messages", &ask(false)).await.ok();
    let expected = json!([
        {"type": "thinking", "thinking": "Let me see.", "signature": ""},
        {"type": "text", "text": "I will look."},
        {"type": "tool_use", "id": reply["content"][2]["id"], "name": "weather",
         "input": {"city": "Bern", "days": 2}},
        {"type": "tool_use", "id": reply["content"][3]["id"], "name": "time", "input": {}},
    ]);
    assert_eq!(reply["content"], expected);
    assert_eq!(reply["stop_reason"], "tool_use");
    let count = server.post("/v1/messages/count_tokens", &ask(false)).await.ok();
    assert_eq!(count["input_tokens"], reply["usage"]["input_tokens"]);
}

#[tokio::test]
async fn a_stream_adds_up_to_the_message() {
    for text in [EVERYTHING, "Just text.", ""] {
        let server = saying(text);
        let whole = server.post("/v1/messages", &ask(false)).await.ok();
        let events = named_events(&server.post("/v1/messages", &ask(true)).await);
        assert_eq!(events[0]["type"], "message_start");
        assert_eq!(events.last().unwrap()["type"], "message_stop");
        let mut content: Vec<Value> = Vec::new();
        let mut json_text = String::new();
        for event in &events {
            match event["type"].as_str().unwrap() {
                "content_block_start" => {
                    assert_eq!(event["index"], content.len());
                    content.push(event["content_block"].clone());
                    json_text.clear();
                }
                "content_block_delta" => {
                    let last = content.last_mut().unwrap();
                    for (field, delta) in [("text", "text"), ("thinking", "thinking")] {
                        if let Some(more) = event["delta"][delta].as_str() {
                            last[field] = format!("{}{more}", last[field].as_str().unwrap()).into();
                        }
                    }
                    json_text += event["delta"]["partial_json"].as_str().unwrap_or_default();
                }
                "content_block_stop" if !json_text.is_empty() => {
                    content.last_mut().unwrap()["input"] =
                        serde_json::from_str(&json_text).unwrap();
                }
                _ => {}
            }
        }
        for (streamed, whole) in content.iter_mut().zip(whole["content"].as_array().unwrap()) {
            if streamed.get("id").is_some() {
                streamed["id"] = whole["id"].clone();
            }
        }
        assert_eq!(json!(content), whole["content"]);
        let delta = events.iter().find(|event| event["type"] == "message_delta").unwrap();
        assert_eq!(delta["delta"]["stop_reason"], whole["stop_reason"]);
        assert_eq!(delta["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
    }
}

#[tokio::test]
async fn reasons_of_the_end() {
    let mut body = ask(false);
    body["stop_sequences"] = json!(["will"]);
    let reply = saying(EVERYTHING).post("/v1/messages", &body).await.ok();
    assert_eq!(
        (&reply["stop_reason"], &reply["stop_sequence"]),
        (&json!("stop_sequence"), &json!("will"))
    );
    body["max_tokens"] = json!(2);
    let reply = saying(EVERYTHING).post("/v1/messages", &body).await.ok();
    assert_eq!(reply["stop_reason"], "max_tokens");
    let reply = saying(BROKEN).post("/v1/messages", &ask(false)).await.ok();
    assert_eq!(reply["stop_reason"], "end_turn");
    assert_eq!(reply["content"][0]["text"], "So:");
}

#[tokio::test]
async fn tool_results_and_prefills_become_turns() {
    let server = Server::quick();
    let count = |messages: Value| {
        let server = &server;
        async move {
            let body = json!({"messages": messages, "max_tokens": 2});
            server.post("/v1/messages/count_tokens", &body).await.ok()["input_tokens"].clone()
        }
    };
    let chat = |messages: Value, prefill: bool| {
        let server = &server;
        async move {
            let body = json!({"messages": messages, "continue_final_message": prefill});
            server.post("/tokenize", &body).await.ok()["count"].clone()
        }
    };
    let with_result = json!([
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "x"},
            {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Bern"}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t",
                                      "content": [{"type": "text", "text": "rain"}]}]},
    ]);
    let same = json!([
        {"role": "user", "content": "Weather?"}, {"role": "assistant", "content": ""},
        {"role": "tool", "content": "rain"},
    ]);
    assert_eq!(count(with_result).await, chat(same, false).await);
    let prefilled = json!([
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well,"},
    ]);
    assert_eq!(count(prefilled.clone()).await, chat(prefilled, true).await);
}

#[tokio::test]
async fn errors_are_in_the_routes_own_words() {
    let server = Server::quick();
    let cases = [
        (json!({"messages": [{"role": "user", "content": "x"}]}), 400, "invalid_request_error"),
        (json!({"model": "claude", "max_tokens": 1, "messages": []}), 404, "not_found_error"),
        (
            json!({"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "image"}]}]}),
            400,
            "invalid_request_error",
        ),
    ];
    for (body, status, kind) in cases {
        let reply = server.post("/v1/messages", &body).await;
        assert_eq!(reply.status, status);
        let error = reply.json();
        assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!(kind)));
    }
    let forced = json!({
        "max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "tool_choice": {"type": "any"},
    });
    assert!(server.post("/v1/messages", &forced).await.text.contains("tool_choice"));
}
