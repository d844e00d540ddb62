//! `/v1/chat/completions`.

use kilotok_text::{Prompt, TemplateInput, TextParams};
use serde_json::{Value, json};

use crate::support::Server;

fn ask(extra: &Value) -> Value {
    let mut body = json!({
        "messages": [{"role": "user", "content": "Tell me about rivers."}],
        "max_tokens": 40,
        "temperature": 0.8,
        "seed": 7,
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// Text of each choice of a stream, checking the order of its chunks.
fn joined(events: &[Value], n: usize) -> Vec<String> {
    let mut texts = vec![String::new(); n];
    let mut state = vec![0; n];
    for event in events {
        for choice in event["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap() as usize;
            let delta = &choice["delta"];
            if state[index] == 0 {
                assert_eq!(delta["role"], "assistant");
                assert_eq!(delta["content"], "");
                state[index] = 1;
            } else if choice["finish_reason"].is_null() {
                assert_eq!(state[index], 1);
                texts[index] += delta["content"].as_str().unwrap();
            } else {
                assert_eq!(delta, &json!({}), "the finish chunk carries no text");
                state[index] = 2;
            }
        }
    }
    assert!(state.iter().all(|&state| state == 2), "every choice finishes once");
    texts
}

#[tokio::test]
async fn the_answer_is_the_engines() {
    let server = Server::quick();
    let reply = server.post("/v1/chat/completions", &ask(&json!({}))).await.ok();
    let mut params = TextParams::default();
    params.sampling.max_tokens = 40;
    params.sampling.temperature = 0.8;
    params.sampling.seed = Some(7);
    let conversation = TemplateInput {
        messages: vec![json!({"role": "user", "content": "Tell me about rivers."})],
        add_generation_prompt: true,
        ..TemplateInput::default()
    };
    let expected = server.engine.generate(Prompt::Chat(conversation), &params).unwrap();
    let choice = &reply["choices"][0];
    assert_eq!(choice["message"]["content"], expected[0].text.as_str());
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(reply["usage"]["completion_tokens"], expected[0].token_ids.len());
    assert_eq!(reply["usage"]["prompt_tokens"], expected[0].receipt.prompt_tokens);
    assert_eq!(reply["object"], "chat.completion");
    assert_eq!(reply["model"], "sim");
}

#[tokio::test]
async fn a_stream_says_the_same_as_one_reply() {
    let server = Server::quick();
    for n in [1, 3] {
        let whole = server.post("/v1/chat/completions", &ask(&json!({"n": n}))).await.ok();
        let options = json!({"n": n, "stream": true, "stream_options": {"include_usage": true}});
        let events = server.post("/v1/chat/completions", &ask(&options)).await.events();
        let (last, chunks) = events.split_last().unwrap();
        let texts = joined(chunks, n);
        for (index, text) in texts.iter().enumerate() {
            assert_eq!(whole["choices"][index]["message"]["content"], text.as_str());
        }
        assert_eq!(last["choices"], json!([]));
        for field in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(last["usage"][field], whole["usage"][field]);
        }
        assert_eq!(last["usage"]["receipts"].as_array().unwrap().len(), n);
        assert!(chunks.iter().all(|chunk| chunk["usage"].is_null()));
    }
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let options = ask(&json!({"stream": true, "stream_options": options}));
    let events = server.post("/v1/chat/completions", &options).await.events();
    let counts: Vec<u64> =
        events.iter().map(|event| event["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert_eq!((counts[0], counts.last()), (0, Some(&40)), "the role comes before the tokens");
    assert!(counts.is_sorted());
    let events = server.post("/v1/chat/completions", &ask(&json!({"stream": true}))).await.events();
    assert!(events.iter().all(|event| event.get("usage").is_none()), "only when asked for");
}

#[tokio::test]
async fn speculation_changes_the_speed_and_not_the_text() {
    let server = Server::quick();
    let mut texts = Vec::new();
    for speculation in [json!("off"), json!("auto"), json!(4), json!(false), json!(true)] {
        let reply = server
            .post("/v1/chat/completions", &ask(&json!({"speculation": speculation})))
            .await
            .ok();
        let drafted = reply["usage"]["receipts"][0]["drafted"].as_u64().unwrap();
        let off = matches!(speculation, Value::Bool(false)) || speculation == "off";
        assert_eq!(drafted == 0, off, "{speculation}");
        texts.push(reply["choices"][0]["message"]["content"].clone());
    }
    assert!(texts.iter().all(|text| text == &texts[0]));
}

#[tokio::test]
async fn every_reply_has_a_receipt_that_adds_up() {
    let server = Server::quick();
    let body = ask(&json!({"speculation": 4, "temperature": 0, "max_tokens": 64}));
    let reply = server.post("/v1/chat/completions", &body).await;
    assert!(reply.headers["x-kilotok-receipt"].to_str().unwrap().contains("tau="));
    let reply = reply.ok();
    let speculative = &reply["metrics"]["speculative_decoding"];
    let histogram: Vec<u64> =
        serde_json::from_value(speculative["acceptance_histogram"].clone()).unwrap();
    let steps: u64 = histogram.iter().sum();
    let accepted: u64 =
        histogram.iter().enumerate().map(|(drafts, rounds)| drafts as u64 * rounds).sum();
    assert!(accepted > 0, "the simulated drafter hits 70 times in 100");
    assert_eq!(speculative["num_spec_steps"], steps);
    assert_eq!(speculative["num_accepted_draft_tokens"], accepted);
    let mean = speculative["mean_acceptance_length"].as_f64().unwrap();
    assert!((mean - (accepted as f64 / steps as f64 + 1.0)).abs() < 1e-4);
    assert!(reply["metrics"]["time_to_first_token_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn logprobs_are_of_every_token() {
    let server = Server::quick();
    let extra = json!({"logprobs": true, "top_logprobs": 3, "temperature": 0, "skip_special_tokens": false});
    let reply = server.post("/v1/chat/completions", &ask(&extra)).await.ok();
    let content = reply["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(reply["usage"]["completion_tokens"], content.len());
    for position in content {
        let top = position["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!(top[0]["token_id"], position["token_id"], "greedy takes the likeliest");
        assert!(position["logprob"].as_f64().unwrap() <= 0.0);
        assert!(position["bytes"].is_array());
    }
    let mut streamed = extra;
    streamed["stream"] = json!(true);
    let events = server.post("/v1/chat/completions", &ask(&streamed)).await.events();
    let in_chunks: Vec<Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(&in_chunks, content);
}

#[tokio::test]
async fn a_stop_string_ends_the_text_and_is_named() {
    let server = Server::quick();
    let whole = server.post("/v1/chat/completions", &ask(&json!({}))).await.ok();
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let middle: String = text.chars().skip(10).take(3).collect();
    let at = text.find(&middle).unwrap();
    let reply = server.post("/v1/chat/completions", &ask(&json!({"stop": [middle]}))).await.ok();
    let choice = &reply["choices"][0];
    assert_eq!(choice["message"]["content"], &text[..at]);
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["stop_reason"], middle.as_str());
}

#[tokio::test]
async fn content_parts_and_roles_are_read_as_clients_send_them() {
    let server = Server::quick();
    let tokens = |messages: Value| {
        let server = &server;
        async move {
            server.post("/tokenize", &json!({"messages": messages})).await.ok()["tokens"].clone()
        }
    };
    let plain = tokens(json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello there"},
    ]));
    let parts = tokens(json!([
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello "}, {"type": "text", "text": "there"}]},
    ]));
    assert_eq!(plain.await, parts.await);
    // The last assistant message is continued, not answered.
    let prefilled = json!({
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well,"}],
        "continue_final_message": true,
    });
    let reply = server.post("/tokenize", &prefilled).await.ok();
    let text = server.post("/detokenize", &json!({"tokens": reply["tokens"]})).await.ok();
    assert!(text["prompt"].as_str().unwrap().ends_with("Well,"));
}
