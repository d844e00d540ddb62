//! `/v1/responses`.

use serde_json::{Value, json};

use crate::scripted::{BROKEN, EVERYTHING, saying};
use crate::support::{Reply, Server};

fn ask(stream: bool) -> Value {
    json!({
        "input": "Weather?", "stream": stream, "store": false, "max_output_tokens": 200,
        "tools": [{"type": "function", "name": "weather", "parameters": {}, "strict": false}],
    })
}

/// `event:` and `data:` of every frame, checked against each other.
pub(crate) fn named_events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let frames = reply.text.split_terminator("\n\n");
    frames
        .map(|frame| {
            let (name, data) = frame.split_once('\n').unwrap();
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(data["type"], name.strip_prefix("event: ").unwrap());
            data
        })
        .collect()
}

/// Without what differs between two replies.
fn anonymous(output: &Value) -> Value {
    let mut output = output.clone();
    for item in output.as_array_mut().unwrap() {
        item.as_object_mut().unwrap().retain(|key, _| key != "id" && key != "call_id");
    }
    output
}

#[tokio::test]
async fn a_stream_ends_with_the_whole_response() {
    for text in [EVERYTHING, BROKEN, "Just text.", ""] {
        let server = saying(text);
        let whole = server.post("/v1/responses", &ask(false)).await.ok();
        let reply = server.post("/v1/responses", &ask(true)).await;
        let events = named_events(&reply);
        let types: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
        assert_eq!(types[..2], ["response.created", "response.in_progress"]);
        assert_eq!(*types.last().unwrap(), "response.completed");
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], number);
        }
        let last = &events.last().unwrap()["response"];
        assert_eq!(anonymous(&last["output"]), anonymous(&whole["output"]));
        assert_eq!(last["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
        let said: String = events
            .iter()
            .filter(|event| event["type"] == "response.output_text.delta")
            .map(|event| event["delta"].as_str().unwrap())
            .collect();
        let texts = last["output"].as_array().unwrap().iter();
        let shown: String = texts.filter_map(|item| item["content"][0]["text"].as_str()).collect();
        assert!(shown.ends_with(&said));
        let added = types.iter().filter(|t| **t == "response.output_item.added").count();
        let done = types.iter().filter(|t| **t == "response.output_item.done").count();
        assert_eq!(added, done);
    }
}

#[tokio::test]
async fn items_are_what_was_said() {
    let server = saying(EVERYTHING);
    let whole = server.post("/v1/responses", &ask(false)).await.ok();
    let output = whole["output"].as_array().unwrap();
    let kinds: Vec<&str> = output.iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!(output[0]["content"][0]["text"], "Let me see.");
    assert_eq!(output[1]["content"][0]["text"], "I will look.");
    assert_eq!(output[2]["name"], "weather");
    assert_eq!(whole["status"], "completed");
    assert!(whole["usage"]["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 0);
    let mut short = ask(false);
    short["max_output_tokens"] = json!(3);
    let cut = server.post("/v1/responses", &short).await.ok();
    assert_eq!(cut["status"], "incomplete");
    assert_eq!(cut["incomplete_details"]["reason"], "max_output_tokens");
}

#[tokio::test]
async fn a_conversation_goes_on_from_its_items() {
    let server = Server::quick();
    let body = json!({
        "instructions": "Be brief.",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "rain"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Rain."}]},
            {"role": "user", "content": "And tomorrow?"},
        ],
        "max_output_tokens": 4, "reasoning": {"effort": "low"}, "include": [], "text": {"verbosity": "low"},
        "parallel_tool_calls": false, "prompt_cache_key": "k", "tool_choice": "auto",
    });
    let reply = server.post("/v1/responses", &body).await.ok();
    let chat = json!({"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "Rain."},
        {"role": "user", "content": "And tomorrow?"},
    ]});
    assert_eq!(reply["usage"]["input_tokens"], server.post("/tokenize", &chat).await.ok()["count"]);
}

#[tokio::test]
async fn what_needs_a_memory_is_refused() {
    let server = Server::quick();
    for (field, value) in [
        ("previous_response_id", json!("resp_1")),
        ("conversation", json!("c")),
        ("background", json!(true)),
        ("truncation", json!("auto")),
        ("max_output_tokens", json!(0)),
    ] {
        let mut body = json!({"input": "x"});
        body[field] = value;
        assert_eq!(server.post("/v1/responses", &body).await.refused(), field);
    }
    let format = json!({"input": "x", "text": {"format": {"type": "xml"}}});
    assert_eq!(server.post("/v1/responses", &format).await.refused(), "text.format.type");
    let item = json!({"input": [{"type": "item_reference", "id": "x"}]});
    assert_eq!(server.post("/v1/responses", &item).await.refused(), "input[0].type");
}
