//! Harmony markup, case by case.
#![allow(clippy::unwrap_used, reason = "in tests a panic is a failure")]

mod parsing;

use kilotok_text::{Delta, Format, ParsedMessage, ParserOptions};
use parsing::{calls, options};
use serde_json::json;

const PROMPT: &str = "<|start|>user<|message|>Say <|start|>assistant<|end|><|start|>assistant";

fn harmony(text: &str) -> ParsedMessage {
    parsing::parse(Format::Harmony, PROMPT, text)
}

fn parts(message: &ParsedMessage) -> (&str, &str) {
    (&message.reasoning, &message.content)
}

#[test]
fn channels_become_reasoning_and_content() {
    let text = "<|channel|>analysis<|message|>Think <b>.<|end|><|start|>assistant<|channel|>commentary<|message|>Soon. <|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>";
    assert_eq!(parts(&harmony(text)), ("Think <b>.", "Soon. Yes."));
    let stripped = text.trim_end_matches("<|return|>");
    assert_eq!(harmony(stripped), harmony(text), "stop tokens are usually left out");
}

#[test]
fn the_prompt_may_have_begun_the_answer() {
    let rest = "b<|end|><|start|>assistant<|channel|>final<|message|>c";
    for (begun, expected) in [
        ("<|channel|>analysis<|message|>a", ("b", "c")),
        ("<|channel|>final<|message|>a", ("", "bc")),
    ] {
        let message = parsing::parse(Format::Harmony, &format!("{PROMPT}{begun}"), rest);
        assert_eq!(parts(&message), expected);
    }
    let message =
        parsing::parse(Format::Harmony, &format!("{PROMPT}<|channel|>"), "final<|message|>c");
    assert_eq!(parts(&message), ("", "c"));
    let message = parsing::parse(Format::Harmony, &format!("{PROMPT}<|channel|>"), "finally");
    assert_eq!(parts(&message), ("", "finally"), "the prompt's part is not repeated");
}

#[test]
fn recipients_become_calls() {
    for header in [
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.f<|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.f json<|message|>",
        "<|channel|>analysis to=functions.f code<|message|>",
        " to=functions.f<|channel|>commentary<|message|>",
        "<|channel|>commentary to=f<|message|>",
    ] {
        for end in ["<|call|>", "<|end|>", ""] {
            let message = harmony(&format!("{header}{{\"k\": \"<|end|>\"}}{end}"));
            assert_eq!(calls(&message), [("f".to_owned(), json!({"k": "<|end|>"}))], "{header}");
            assert_eq!(parts(&message), ("", ""));
        }
    }
    let two = "<|channel|>commentary to=functions.f<|message|>{}<|call|><|start|>assistant<|channel|>commentary to=functions.g<|message|><|call|>";
    let message = harmony(two);
    assert_eq!(calls(&message), [("f".to_owned(), json!({})), ("g".to_owned(), json!({}))]);
    assert_eq!(message.tool_calls[1].id, "call_1");
}

#[test]
fn arguments_stream_as_written() {
    let mut parser = Format::Harmony.parser(PROMPT, options());
    assert_eq!(parser.push("<|channel|>commentary to=functions.f<|message|>"), []);
    let started = parser.push("{\"k\"");
    assert!(matches!(&started[0], Delta::ToolCallStart { index: 0, name, .. } if name == "f"));
    let more = parser.push(": 1}<|call|>");
    let json_fragment = ": 1}".to_owned();
    assert_eq!(more[0], Delta::ToolCallArguments { index: 0, json_fragment });
    assert_eq!(more[1], Delta::ToolCallEnd { index: 0 });
}

#[test]
fn a_missing_end_is_forgiven() {
    for between in ["<|start|>assistant", "", "<|end|>"] {
        let text = format!("<|channel|>analysis<|message|>a{between}<|channel|>final<|message|>b");
        assert_eq!(parts(&harmony(&text)), ("a", "b"), "{between:?}");
        let call = "<|channel|>commentary to=functions.f<|message|>{}";
        let message = harmony(&format!("{call}{between}<|channel|>final<|message|>b"));
        assert_eq!((message.tool_calls.len(), parts(&message)), (1, ("", "b")), "{between:?}");
    }
}

#[test]
fn malformed_markup_is_text() {
    for text in [
        "Hello",
        " Hello",
        "<|channel|>",
        "<|channel|>ana",
        "<|channel|>other<|message|>x",
        "<|channel|>final",
        "<|channel|>final blah<|message|>x",
        "<|chan",
        "<|unknown|>",
        "<|start|>user<|message|>x",
        "x<|message|>",
        "<|message|",
        "<|channel|>final to=<|message|>x",
        "<|channel|>commentary to=functions.f<|message|>not json",
        "<|channel|>commentary to=python<|message|>print(1)",
        "to=functions.f",
        "<|channel|>commentary to=functions.f<|message|> ",
    ] {
        let message = harmony(text);
        assert_eq!((parts(&message), message.broken_calls), (("", text), 0));
        assert!(message.tool_calls.is_empty());
    }
    // Twice the channel: the first is text, the second counts.
    let message = harmony("<|channel|>analysis<|channel|>final<|message|>x");
    assert_eq!(parts(&message), ("", "<|channel|>analysisx"));
    // An empty message has an end; an end without a message is text.
    assert_eq!(parts(&harmony("<|end|>")), ("", ""));
    assert_eq!(parts(&harmony("<|end|><|return|>")), ("", "<|return|>"));
    // In the thinking it stays in the thinking.
    let message = harmony("<|channel|>analysis<|message|>a<|start|>b<|message|>");
    assert_eq!(parts(&message), ("a<|start|>b<|message|>", ""));
}

#[test]
fn broken_calls_are_text() {
    let header = "<|channel|>commentary to=functions.f<|message|>";
    for body in ["{", "{\"k\": \"v", "{\"k\": oops", "{]"] {
        let text = format!("{header}{body}");
        let message = harmony(&text);
        assert_eq!((parts(&message), message.broken_calls), (("", text.as_str()), 1));
    }
    let message = harmony(&format!("{header}{{\"k\": <|call|><|channel|>final<|message|>b"));
    assert_eq!(parts(&message), ("", format!("{header}{{\"k\": b").as_str()));
    let thought = "<|channel|>analysis to=functions.f<|message|>{";
    assert_eq!(parts(&harmony(thought)), (thought, ""));
}

#[test]
fn without_tools_calls_are_text() {
    let text = "<|channel|>commentary to=functions.f<|message|>{}";
    let options = ParserOptions { tool_calls: false, ..options() };
    let message = Format::Harmony.parser(PROMPT, options).parse_complete(text);
    assert_eq!((message.content.as_str(), message.tool_calls.len()), (text, 0));
}
