//! `/v1/completions`, `/tokenize`, `/detokenize`, `/v1/models`, `/openapi.json`.

use serde_json::{Value, json};

use crate::support::{POSITIONS, Server};

#[tokio::test]
async fn prompts_of_every_form_mean_the_same() {
    let server = Server::quick();
    let text = "The river was wide";
    let ids = server.post("/tokenize", &json!({"prompt": text})).await.ok()["tokens"].clone();
    let mut texts = Vec::new();
    for prompt in [json!(text), json!([text]), ids.clone(), json!([ids])] {
        let body = json!({"prompt": prompt, "temperature": 0, "max_tokens": 12});
        let reply = server.post("/v1/completions", &body).await.ok();
        assert_eq!(reply["usage"]["prompt_tokens"], ids.as_array().unwrap().len());
        texts.push(reply["choices"][0]["text"].clone());
    }
    assert!(texts.iter().all(|text| text == &texts[0]));
}

#[tokio::test]
async fn several_prompts_and_choices_keep_their_order() {
    let server = Server::quick();
    let ask = |prompts: Value, n: u32, stream: bool| json!({"prompt": prompts, "n": n, "max_tokens": 9, "temperature": 1, "seed": 5, "stream": stream});
    let both = server.post("/v1/completions", &ask(json!(["One", "Two"]), 2, false)).await.ok();
    assert_eq!(both["metrics"], Value::Null);
    for (at, prompt) in ["One", "Two"].iter().enumerate() {
        let alone = server.post("/v1/completions", &ask(json!(prompt), 2, false)).await.ok();
        for choice in 0..2 {
            let index = at * 2 + choice;
            assert_eq!(both["choices"][index]["index"], index);
            assert_eq!(both["choices"][index]["text"], alone["choices"][choice]["text"]);
        }
    }
    let events =
        server.post("/v1/completions", &ask(json!(["One", "Two"]), 2, true)).await.events();
    for index in 0..4 {
        let text: String = events
            .iter()
            .map(|event| &event["choices"][0])
            .filter(|choice| choice["index"] == index)
            .map(|choice| choice["text"].as_str().unwrap())
            .collect();
        assert_eq!(both["choices"][index]["text"], text.as_str());
    }
}

#[tokio::test]
async fn echo_and_token_ids_show_the_prompt() {
    let server = Server::quick();
    let body =
        json!({"prompt": "The river", "echo": true, "max_tokens": 3, "return_token_ids": true});
    let reply = server.post("/v1/completions", &body).await.ok();
    let choice = &reply["choices"][0];
    assert!(choice["text"].as_str().unwrap().starts_with("The river"));
    assert_eq!(choice["token_ids"].as_array().unwrap().len(), 3);
    assert_eq!(
        choice["prompt_token_ids"].as_array().unwrap().len(),
        reply["usage"]["prompt_tokens"]
    );
}

#[tokio::test]
async fn offsets_of_logprobs_find_the_tokens_in_the_text() {
    let server = Server::quick();
    let body = json!({"prompt": "A", "logprobs": 2, "max_tokens": 20, "temperature": 0, "skip_special_tokens": false});
    let reply = server.post("/v1/completions", &body).await.ok();
    let logprobs = &reply["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), 20);
    assert_eq!(logprobs["text_offset"][0], 0);
    for top in logprobs["top_logprobs"].as_array().unwrap() {
        assert!((1..=3).contains(&top.as_object().unwrap().len()));
    }
}

#[tokio::test]
async fn text_survives_both_ways() {
    let server = Server::quick();
    for text in ["Hello, world", "naïve 漢字 🦀", " lead and trail ", "<|im_end|>"] {
        let tokens = server
            .post("/tokenize", &json!({"prompt": text, "return_token_strs": true}))
            .await
            .ok();
        assert_eq!(tokens["count"], tokens["token_strs"].as_array().unwrap().len());
        assert_eq!(tokens["max_model_len"], POSITIONS);
        let back = server.post("/detokenize", &json!({"tokens": tokens["tokens"]})).await.ok();
        assert_eq!(back["prompt"], text);
    }
}

#[tokio::test]
async fn models_have_their_names() {
    let server = Server::quick();
    let list = server.get("/v1/models").await.ok();
    assert_eq!(list["data"][0]["id"], "sim");
    assert_eq!(server.get("/v1/models/sim").await.ok()["status"], "ready");
    assert_eq!(server.get("/v1/models/other/name").await.status, 404);
    let reply = server.post("/v1/completions", &json!({"model": "other", "prompt": "x"})).await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()["error"]["code"].clone()),
        (404, json!("model_not_found"))
    );
}

#[tokio::test]
async fn the_description_names_every_route_and_no_other() {
    let server = Server::quick();
    let document = server.get("/openapi.json").await.ok();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let request = axum::http::Request::builder()
                .method(method.to_uppercase().as_str())
                .uri(path.replace("{name}", "sim"))
                .body(axum::body::Body::empty())
                .unwrap();
            let status = server.send(request).await.status;
            assert!(![404, 405].contains(&status.as_u16()), "{method} {path}: {status}");
        }
    }
    let routes = include_str!("../../src/router.rs");
    let named = routes.lines().filter_map(|line| line.trim().strip_prefix(".route(\""));
    for path in named.map(|rest| rest.split('"').next().unwrap().replace("{*", "{")) {
        assert!(document["paths"].get(&path).is_some(), "{path} is not described");
    }
}

/// The likelihood of a prompt is that of generating it: each token is forced by a bias, which
/// log-probabilities do not see, behind the tokens before it.
#[tokio::test]
async fn echoed_logprobs_are_those_of_generating_the_prompt() {
    let server = Server::quick();
    // Longer than the rows of a round, so that it is fed in chunks.
    let prompt: Vec<u32> = (0..150).map(|i| 300 + i * 7 % 900).collect();
    let body = json!({
        "prompt": prompt, "echo": true, "logprobs": 2, "max_tokens": 1, "return_token_ids": true,
        "skip_special_tokens": false,
    });
    let whole = server.post("/v1/completions", &body).await.ok();
    let logprobs = &whole["choices"][0]["logprobs"];
    let given = logprobs["token_logprobs"].as_array().unwrap();
    assert_eq!(given.len(), prompt.len() + 1);
    assert_eq!(given[0], Value::Null);
    assert_eq!(logprobs["top_logprobs"][0], Value::Null);
    for at in [1, 2, 63, 64, 65, 127, 128, 149] {
        let forced = json!({
            "prompt": prompt[..at], "logprobs": 2, "max_tokens": 1, "temperature": 0,
            "logit_bias": {prompt[at].to_string(): 9000},
        });
        let forced = server.post("/v1/completions", &forced).await.ok();
        let expected = &forced["choices"][0]["logprobs"];
        assert_eq!(given[at], expected["token_logprobs"][0], "at {at}");
        assert_eq!(logprobs["top_logprobs"][at], expected["top_logprobs"][0], "at {at}");
    }
    let mut text = String::new();
    for (token, offset) in logprobs["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .zip(logprobs["text_offset"].as_array().unwrap())
    {
        assert_eq!(*offset, text.chars().count());
        text += token.as_str().unwrap();
    }
    assert!(whole["choices"][0]["text"].as_str().unwrap().starts_with(&text[..20]));
}
