//! Fields that are wrong, refused or ignored.

use serde_json::{Value, json};

use crate::support::{Server, post};

fn with(field: &str, value: Value) -> Value {
    let mut body = json!({"prompt": "x", "max_tokens": 2});
    body[field] = value;
    body
}

#[tokio::test]
async fn a_wrong_value_is_a_400_that_names_the_field() {
    let server = Server::quick();
    let wrong = [
        ("temperature", json!(-1)),
        ("temperature", json!("hot")),
        ("temperature", json!(1e30)),
        ("top_p", json!(1.5)),
        ("top_k", json!(-2)),
        ("top_k", json!(0.5)),
        ("min_p", json!(2)),
        ("repetition_penalty", json!(0)),
        ("presence_penalty", json!(1e9)),
        ("frequency_penalty", json!([])),
        ("logit_bias", json!({"x": 1})),
        ("logit_bias", json!({"5": "y"})),
        ("logit_bias", json!({"99999": 1})),
        ("logit_bias", json!([1])),
        ("seed", json!("s")),
        ("seed", json!(1.5)),
        ("stop", json!(5)),
        ("stop", json!([5])),
        ("stop", json!("x".repeat(2000))),
        ("stop", json!(vec!["a"; 17])),
        ("stop_token_ids", json!([-1])),
        ("stop_token_ids", json!([5000])),
        ("n", json!(0)),
        ("n", json!(1000)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(-5)),
        ("max_completion_tokens", json!(0)),
        ("logprobs", json!(21)),
        ("logprobs", json!(true)),
        ("speculation", json!("maybe")),
        ("priority", json!("high")),
        ("priority", json!(1_i64 << 40)),
        ("response_format", json!("json_object")),
        ("response_format", json!({"type": "xml"})),
        ("guided_regex", json!(5)),
        ("guided_regex", json!("(")),
        ("guided_choice", json!("a")),
        ("guided_choice", json!([5])),
        ("guided_choice", json!([])),
        ("guided_json", json!("{")),
        ("guided_json", json!({"type": "nonsense"})),
        ("guided_grammar", json!("root ::= \"a\"")),
        ("speculation", json!(0)),
        ("speculation", json!(99)),
        ("deadline_ms", json!(0)),
        ("stream", json!("yes")),
        ("stream_options", json!({})),
        ("echo", json!(1)),
        ("prompt", json!(5)),
        ("prompt", json!([])),
        ("prompt", json!([[]])),
        ("prompt", json!(null)),
        ("prompt", json!([1, "a"])),
        ("prompt", json!([99999])),
        ("prompt", json!("")),
        ("ignore_eos", json!(0)),
        ("model", json!(5)),
        ("return_token_ids", json!("y")),
    ];
    for (field, value) in wrong {
        let reply = server.post("/v1/completions", &with(field, value.clone())).await;
        let named = reply.refused();
        assert!(named.starts_with(field), "{field} = {value}: named {named:?}: {}", reply.text);
    }
    server.idle().await;
}

#[tokio::test]
async fn what_would_change_the_answer_is_refused_by_name() {
    let server = Server::quick();
    let refused = [
        ("ebnf", json!("root ::= \"a\"")),
        ("best_of", json!(5)),
        ("min_tokens", json!(3)),
        ("use_beam_search", json!(true)),
        ("prompt_logprobs", json!(1)),
        ("bad_words", json!(["x"])),
        ("allowed_token_ids", json!([1])),
        ("suffix", json!("end")),
    ];
    for (field, value) in refused {
        let reply = server.post("/v1/completions", &with(field, value)).await;
        assert_eq!(reply.refused(), field);
        assert_eq!(reply.json()["error"]["code"], "unsupported_parameter");
    }
    let reply = server
        .post(
            "/v1/completions",
            &json!({"prompt": "x", "echo": true, "logprobs": 1, "stream": true}),
        )
        .await;
    assert_eq!(reply.refused(), "echo");
    let chat = [
        ("tools", json!([{"type": "web_search"}])),
        ("functions", json!([{}])),
        ("modalities", json!(["text", "audio"])),
        ("web_search_options", json!({})),
        ("chat_template", json!("{{ messages }}")),
    ];
    for (field, value) in chat {
        let mut body = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 2});
        body[field] = value;
        let named = server.post("/v1/chat/completions", &body).await.refused();
        assert_eq!(named.split('[').next(), Some(field));
    }
}

#[tokio::test]
async fn what_changes_nothing_is_ignored() {
    let server = Server::quick();
    let harmless = [
        ("user", json!("me")),
        ("metadata", json!({"a": 1})),
        ("store", json!(true)),
        ("service_tier", json!("auto")),
        ("response_format", json!({"type": "text"})),
        ("best_of", json!(1)),
        ("priority", json!(-3)),
        ("structured_outputs", json!({})),
        ("guided_regex", json!("")),
        ("min_tokens", json!(0)),
        ("suffix", json!("")),
        ("nonsense", json!([[[]]])),
        ("temperature", json!(null)),
        ("stop", json!("")),
        ("stop", json!([])),
        ("top_k", json!(-1)),
        ("seed", json!(-3)),
    ];
    for (field, value) in harmless {
        server.post("/v1/completions", &with(field, value)).await.ok();
    }
}

#[tokio::test]
async fn wrong_messages_are_named_with_their_place() {
    let server = Server::quick();
    let cases = [
        (json!("x"), "messages"),
        (json!([]), "messages"),
        (json!(null), "messages"),
        (json!(["x"]), "messages[0]"),
        (json!([{}]), "messages[0].role"),
        (json!([{"role": "king", "content": "x"}]), "messages[0].role"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([{"role": "user", "content": 5}]), "messages[0].content"),
        (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]),
            "messages[0].content[0].type",
        ),
        (
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{}]}]),
            "messages[1].tool_calls[0].function",
        ),
    ];
    for (messages, param) in cases {
        let reply = server.post("/v1/chat/completions", &json!({"messages": messages})).await;
        assert_eq!(reply.refused(), param, "{messages}");
    }
}

#[tokio::test]
async fn bodies_that_are_no_requests() {
    let server = Server::quick();
    for body in
        ["", "{", "[]", "5", "null", "{\"a\":1}x", "{\"prompt\": \"\\ud800\"}", "{\"n\": 1e999}"]
    {
        assert_eq!(server.send(post("/v1/completions", body)).await.status, 400, "{body}");
    }
    let deep = "[".repeat(100_000);
    let reply = server.send(post("/v1/completions", deep)).await;
    assert!(reply.text.contains("nests deeper"), "{}", reply.text);
    assert_eq!(server.send(post("/v1/completions", vec![0xff, 0xfe])).await.status, 400);
    let large = " ".repeat((8 << 20) + 1);
    assert_eq!(server.send(post("/v1/completions", large)).await.status, 413);
    let mut untyped = post("/v1/completions", "{}");
    untyped.headers_mut().remove("content-type");
    assert_eq!(server.send(untyped).await.status, 415);
}

#[tokio::test]
async fn a_context_that_is_too_small_is_said_in_numbers() {
    let server = Server::quick();
    let reply =
        server.post("/v1/completions", &json!({"prompt": "x", "max_tokens": 100_000})).await;
    assert_eq!(reply.status, 400);
    let error = &reply.json()["error"];
    assert_eq!(error["code"], "context_length_exceeded");
    assert_eq!(error["n_ctx"], crate::support::POSITIONS);
    let long = vec![5; crate::support::POSITIONS + 1];
    let reply = server.post("/v1/completions", &json!({"prompt": long})).await;
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
    // Without a limit of its own a request goes to the context's end and fits.
    let body = json!({"messages": [{"role": "user", "content": "x"}], "ignore_eos": true});
    let reply = server.post("/v1/chat/completions", &body).await.ok();
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    assert_eq!(reply["usage"]["total_tokens"], crate::support::POSITIONS + 1);
}
