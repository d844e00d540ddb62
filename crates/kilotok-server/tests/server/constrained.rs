//! Output that has to be something, from a model that says anything: whatever comes out whole is
//! what was asked for, and what cannot be asked for is a 400 that names the field.

use serde_json::{Value, json};

use crate::support::Server;

/// Small enough that every answer ends within its limit.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "city": {"enum": ["Bern", "Oslo"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        },
        "required": ["city", "days", "tags"],
        "additionalProperties": false,
    })
}

/// Looks at a finished text and panics where it breaks its rule.
type Check<'a> = &'a dyn Fn(&str);

fn check(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    check_value(&value);
}

fn check_value(value: &Value) {
    assert!(value["city"] == "Bern" || value["city"] == "Oslo", "{value}");
    assert!((1.0..=9.0).contains(&value["days"].as_f64().unwrap()), "{value}");
    assert!(value["tags"].as_array().unwrap().len() <= 2, "{value}");
    assert_eq!(value.as_object().unwrap().len(), 3, "{value}");
}

fn tool(name: &str, strict: bool) -> Value {
    let function = json!({"name": name, "parameters": schema(), "strict": strict});
    json!({"type": "function", "function": function})
}

fn chat(seed: u64, extra: &Value) -> Value {
    let mut body = json!({
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 600,
        "seed": seed,
        "thinking_token_budget": 5,
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn every_spelling_of_a_rule_is_followed() {
    let server = Server::quick();
    let digits = "[0-9]{3}-[a-c]{2}";
    let is_digits = |text: &str| assert!(text.len() == 6 && text.as_bytes()[3] == b'-', "{text}");
    let lark = "start: \"<\" (\"a\" | \"b\")~3 \">\"";
    let spellings: Vec<(Value, Check)> = vec![
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema()}}}),
            &check,
        ),
        (json!({"guided_json": schema()}), &check),
        (json!({"guided_json": schema().to_string()}), &check),
        (json!({"structured_outputs": {"json": schema()}}), &check),
        (json!({"json_schema": schema()}), &check),
        (json!({"guided_regex": digits}), &is_digits),
        (json!({"structured_outputs": {"regex": digits}}), &is_digits),
        (json!({"guided_choice": ["one", "two"]}), &|text| {
            assert!(["one", "two"].contains(&text), "{text}");
        }),
        (json!({"structured_outputs": {"choice": ["one"]}}), &|text| assert_eq!(text, "one")),
        (json!({"guided_grammar": lark}), &|text| {
            assert!(text.len() == 5 && text.starts_with('<'), "{text}");
        }),
    ];
    for (fields, check) in spellings {
        for seed in 0..3 {
            let reply = server.post("/v1/chat/completions", &chat(seed, &fields)).await.ok();
            let choice = &reply["choices"][0];
            assert_eq!(choice["finish_reason"], "stop", "{reply}");
            check(choice["message"]["content"].as_str().unwrap());
            let mut text = fields.clone();
            text["prompt"] = "x".into();
            text["max_tokens"] = 400.into();
            text["seed"] = seed.into();
            let reply = server.post("/v1/completions", &text).await.ok();
            assert_eq!(reply["choices"][0]["finish_reason"], "stop", "{reply}");
            check(reply["choices"][0]["text"].as_str().unwrap());
        }
    }
    let object = json!({"response_format": {"type": "json_object"}, "max_tokens": 2000});
    let reply = server.post("/v1/chat/completions", &chat(1, &object)).await.ok();
    let choice = &reply["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap();
    assert!(text.starts_with('{'));
    if choice["finish_reason"] == "stop" {
        assert!(serde_json::from_str::<Value>(text).unwrap().is_object());
    }
    server.idle().await;
}

#[tokio::test]
async fn speculation_changes_nothing() {
    let server = Server::quick();
    for seed in 0..6 {
        let mut texts = Vec::new();
        for speculation in [json!("off"), json!("auto"), json!(8)] {
            let fields = json!({"guided_json": schema(), "speculation": speculation, "n": 2});
            let reply = server.post("/v1/chat/completions", &chat(seed, &fields)).await.ok();
            texts.push(
                reply["choices"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|c| c["message"].clone())
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(texts[0], texts[1]);
        assert_eq!(texts[0], texts[2]);
    }
}

#[tokio::test]
async fn forced_calls_are_calls() {
    let server = Server::quick();
    let tools = json!([tool("weather", false), tool("forecast", true)]);
    let named = json!({"type": "function", "function": {"name": "forecast"}});
    let mut called = std::collections::HashSet::new();
    for seed in 0..6 {
        for (choice, parallel) in
            [(json!("required"), true), (json!("required"), false), (named.clone(), true)]
        {
            let fields =
                json!({"tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel});
            let reply = server.post("/v1/chat/completions", &chat(seed, &fields)).await.ok();
            let answer = &reply["choices"][0];
            let calls = answer["message"]["tool_calls"].as_array().unwrap();
            assert!(!calls.is_empty());
            if answer["finish_reason"] == "length" {
                continue;
            }
            assert_eq!(answer["finish_reason"], "tool_calls");
            assert!(calls.len() == 1 || (parallel && choice == "required"));
            for call in calls {
                let name = call["function"]["name"].as_str().unwrap();
                assert!(choice == "required" || name == "forecast");
                called.insert(name.to_owned());
                check(call["function"]["arguments"].as_str().unwrap());
            }
            assert!(answer["message"]["content"].is_null(), "{answer}");
        }
    }
    assert_eq!(called.len(), 2);
}

#[tokio::test]
async fn forced_calls_in_the_other_apis() {
    let server = Server::quick();
    let flat =
        json!([{"type": "function", "name": "weather", "parameters": schema(), "strict": true}]);
    for choice in [json!("required"), json!({"type": "function", "name": "weather"})] {
        let body = json!({"input": "x", "tools": flat, "tool_choice": choice, "parallel_tool_calls": false, "seed": 4, "max_output_tokens": 1500});
        let reply = server.post("/v1/responses", &body).await.ok();
        assert_eq!(reply["tool_choice"], choice);
        if reply["status"] == "completed" {
            let calls: Vec<&Value> = reply["output"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|item| item["type"] == "function_call")
                .collect();
            assert_eq!(calls.len(), 1, "{reply}");
            check(calls[0]["arguments"].as_str().unwrap());
        }
    }
    let text = json!({"input": "x", "seed": 4, "max_output_tokens": 1500, "text": {"format": {"type": "json_schema", "name": "x", "schema": schema()}}});
    let reply = server.post("/v1/responses", &text).await.ok();
    if reply["status"] == "completed" {
        let message =
            reply["output"].as_array().unwrap().iter().find(|item| item["type"] == "message");
        check(message.unwrap()["content"][0]["text"].as_str().unwrap());
    }
    let tools = json!([{"name": "weather", "input_schema": schema()}]);
    for choice in [
        json!({"type": "any", "disable_parallel_tool_use": true}),
        json!({"type": "tool", "name": "weather"}),
    ] {
        let body = json!({
            "messages": [{"role": "user", "content": "x"}], "max_tokens": 600, "tools": tools,
            "tool_choice": choice, "thinking": {"type": "enabled", "budget_tokens": 4}, "seed": 2,
        });
        let reply = server.post("/v1/messages", &body).await.ok();
        assert_eq!(reply["stop_reason"], "tool_use", "{reply}");
        let blocks = reply["content"].as_array().unwrap();
        let call = blocks.iter().find(|block| block["type"] == "tool_use").unwrap();
        check_value(&call["input"]);
    }
    let body = json!({
        "messages": [{"role": "user", "content": "x"}], "max_tokens": 600, "seed": 3,
        "thinking": {"type": "enabled", "budget_tokens": 4},
        "output_format": {"type": "json_schema", "schema": schema()},
    });
    let reply = server.post("/v1/messages", &body).await.ok();
    let blocks = reply["content"].as_array().unwrap();
    check(blocks.iter().find(|block| block["type"] == "text").unwrap()["text"].as_str().unwrap());
}

#[tokio::test]
async fn thinking_keeps_within_its_budget() {
    let server = Server::quick();
    // The prompt opens the thinking, so that a model of any kind is in it.
    for budget in [0, 1, 7] {
        let body = json!({
            "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "<think>"}],
            "continue_final_message": true, "add_generation_prompt": false,
            "thinking_token_budget": budget, "max_tokens": 60, "ignore_eos": true, "seed": 1,
        });
        let reply = server.post("/v1/chat/completions", &body).await.ok();
        let thought =
            reply["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
        assert!(thought <= budget + 1, "{thought} of {budget}");
        assert_ne!(reply["choices"][0]["message"]["content"], "", "{reply}");
    }
}

#[tokio::test]
async fn what_cannot_be_honoured_names_its_field() {
    let server = Server::quick();
    let wrong = json!({"type": "object", "properties": {"x": {"type": "huh"}}});
    let bad_tool = json!([tool("a", true), {"type": "function", "function": {"name": "b", "strict": true, "parameters": wrong}}]);
    let cases = [
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {}}}),
            "response_format.json_schema.schema",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": wrong}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"structured_outputs": {"regex": "("}}), "structured_outputs.regex"),
        (
            json!({"structured_outputs": {"structural_tag": {}}}),
            "structured_outputs.structural_tag",
        ),
        (json!({"guided_regex": "a", "guided_choice": ["a"]}), "guided_choice"),
        (json!({"guided_regex": "a".repeat(20_000)}), "guided_regex"),
        (json!({"guided_grammar": format!("start: {}", "(".repeat(30_000))}), "guided_grammar"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tool_choice": "must"}), "tool_choice"),
        (
            json!({"tools": [tool("a", false)], "tool_choice": {"type": "function", "function": {"name": "b"}}}),
            "tool_choice",
        ),
        (
            json!({"tools": [tool("a", false)], "tool_choice": {"type": "function"}}),
            "tool_choice.name",
        ),
        (
            json!({"tools": [tool("a", false)], "tool_choice": {"type": "allowed_tools"}}),
            "tool_choice.type",
        ),
        (json!({"tools": bad_tool, "tool_choice": "required"}), "tools[1].function.parameters"),
        (json!({"tools": bad_tool}), "tools[1].function.parameters"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "a", "strict": 1}}]}),
            "tools[0].function.strict",
        ),
        (json!({"thinking_token_budget": -1}), "thinking_token_budget"),
    ];
    for (fields, param) in cases {
        let reply = server.post("/v1/chat/completions", &chat(0, &fields)).await;
        assert_eq!(reply.refused(), param, "{fields}: {}", reply.text);
    }
    let begun = json!({
        "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "{"}],
        "continue_final_message": true, "response_format": {"type": "json_object"},
    });
    let reply = server.post("/v1/chat/completions", &begun).await;
    assert_eq!(reply.refused(), "continue_final_message");
    server.idle().await;
}
