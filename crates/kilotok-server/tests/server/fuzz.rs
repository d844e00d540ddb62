//! Malformed requests: never a panic, never a reply of 500 or more, and the next request succeeds.

use axum::body::Body;
use axum::http::Request;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::support::Server;

/// `KILOTOK_FUZZ_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("KILOTOK_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(3000)
}

const ROUTES: [&str; 8] = [
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/chat/completions",
    "/v1/completions",
    "/tokenize",
    "/detokenize",
    "/v1/models",
];

const FIELDS: [&str; 54] = [
    "input",
    "instructions",
    "system",
    "thinking",
    "reasoning",
    "max_output_tokens",
    "text",
    "stop_sequences",
    "parallel_tool_calls",
    "previous_response_id",
    "model",
    "messages",
    "prompt",
    "tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "n",
    "seed",
    "stop",
    "stop_token_ids",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "stream",
    "stream_options",
    "speculation",
    "deadline_ms",
    "echo",
    "suffix",
    "best_of",
    "tools",
    "tool_choice",
    "response_format",
    "chat_template_kwargs",
    "reasoning_effort",
    "documents",
    "continue_final_message",
    "add_generation_prompt",
    "add_special_tokens",
    "ignore_eos",
    "skip_special_tokens",
    "include_stop_str_in_output",
    "return_token_ids",
    "priority",
    "user",
    "return_token_strs",
    "unknown",
];

fn valid(route: &str) -> Value {
    match route {
        "/v1/chat/completions" | "/v1/messages" | "/v1/messages/count_tokens" => {
            json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3})
        }
        "/v1/responses" => json!({"input": "Hi", "max_output_tokens": 3}),
        "/detokenize" => json!({"tokens": [5, 6]}),
        _ => json!({"prompt": "Hi", "max_tokens": 3}),
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i64..30).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2.0_f64..3.0).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        select(vec![
            "user",
            "assistant",
            "tool",
            "text",
            "auto",
            "off",
            "none",
            "high",
            "<|im_end|>"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let key = prop_oneof![
            "[a-z]{1,6}",
            select(vec![
                "role",
                "content",
                "type",
                "text",
                "include_usage",
                "tool_calls",
                "function",
                "7"
            ])
            .prop_map(str::to_owned),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// A valid body with fields put in or replaced, then maybe bytes changed.
fn body(route: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((select(FIELDS.to_vec()), any_json()), 0..4);
    let damage = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..5),
    ];
    (edits, damage).prop_map(move |(edits, damage)| {
        let mut value = valid(route);
        for (field, new) in edits {
            value[field] = new;
        }
        let mut bytes = value.to_string().into_bytes();
        for (at, byte, kind) in damage {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.truncate(at),
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}

/// Method, headers, route and body.
type Parts = (String, Vec<(&'static str, Vec<u8>)>, &'static str, Vec<u8>);

fn request() -> impl Strategy<Value = Parts> {
    let method = prop_oneof![
        9 => Just("POST".to_owned()),
        1 => "[A-Z]{1,8}",
    ];
    let header = (
        select(vec![
            "content-type",
            "authorization",
            "x-api-key",
            "x-request-id",
            "host",
            "origin",
            "accept",
            "content-encoding",
            "transfer-encoding",
            "expect",
            "cookie",
        ]),
        prop::collection::vec(any::<u8>(), 0..24),
    );
    let headers = prop_oneof![
        4 => Just(Vec::new()),
        1 => prop::collection::vec(header, 1..4),
    ];
    (method, headers, select(ROUTES.to_vec())).prop_flat_map(|(method, headers, route)| {
        (Just(method), Just(headers), Just(route), body(route))
    })
}

#[test]
fn malformed_requests_are_refused_and_forgotten() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(async { Server::quick() });
    let mut runner =
        TestRunner::new(Config { cases: cases(), failure_persistence: None, ..Config::default() });
    let mut served = 0_u64;
    let counted = std::cell::RefCell::new(&mut served);
    let outcome = runner.run(&request(), |(method, headers, route, body)| {
        let shown = String::from_utf8_lossy(&body).into_owned();
        let mut builder = Request::builder().method(method.as_str()).uri(route);
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            builder = builder.header("content-type", "application/json");
        }
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        // What the HTTP types refuse never reaches the router.
        let Ok(request) = builder.body(Body::from(body)) else { return Ok(()) };
        let reply = runtime.block_on(async {
            tokio::time::timeout(std::time::Duration::from_secs(30), server.send(request)).await
        });
        let Ok(reply) = reply else {
            return Err(TestCaseError::fail(format!("hangs: {method} {route} {shown}")));
        };
        let status = reply.status.as_u16();
        prop_assert!(status < 500, "{status} for {method} {route} {shown}: {}", reply.text);
        **counted.borrow_mut() += u64::from(status == 200);
        Ok(())
    });
    outcome.unwrap();
    assert!(
        served > u64::from(cases()) / 50,
        "only {served} requests were valid: nothing was tested"
    );
    runtime.block_on(async {
        server.idle().await;
        server.post("/v1/chat/completions", &valid("/v1/chat/completions")).await.ok();
    });
}
