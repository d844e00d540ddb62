//! `<think>` and `<tool_call>` markup, case by case.
#![allow(clippy::unwrap_used, reason = "in tests a panic is a failure")]

mod parsing;

use kilotok_text::{
    Delta, Format, MAX_CALL_BYTES, MAX_TYPED_VALUE_BYTES, ParsedMessage, ParserOptions,
    ReasoningState, TagLayout,
};
use parsing::{calls, options};
use serde_json::{Value, json};

const MIMO: Format = Format::Tagged(TagLayout::BARE);
const DEMO: Format = Format::Tagged(TagLayout::LINES);
const CODER: Format = Format::Tagged(parsing::QWEN_CODER);
const TURN: &str = "<|im_start|>assistant\n";

fn mimo(text: &str) -> ParsedMessage {
    parsing::parse(MIMO, TURN, text)
}

fn one_argument(format: Format, parameter: &str, value: &str) -> Value {
    let text = format!(
        "<tool_call>\n<function=f>\n<parameter={parameter}>{value}</parameter>\n</function>\n</tool_call>"
    );
    let message = parsing::parse(format, TURN, &text);
    assert_eq!((message.content.as_str(), message.broken_calls), ("", 0));
    calls(&message).remove(0).1[parameter].clone()
}

#[test]
fn the_prompts_end_decides_where_output_begins() {
    use ReasoningState::{Closed, Inside, Undecided};
    let user = "<|im_start|>user\nWhat is <think>?<|im_end|>";
    for (suffix, state) in [
        ("<|im_start|>assistant\n", Undecided),
        ("<|im_start|>assistant\n<think>", Inside),
        ("<|im_start|>assistant\n<think>\n", Inside),
        ("<|im_start|>assistant\n<think></think>", Closed),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", Closed),
        ("<|im_start|>assistant\n<think>So far", Inside),
        ("<|im_start|>assistant\n<think>a</think>b", Closed),
        ("<|im_start|>assistant\nThe answer", Closed),
    ] {
        assert_eq!(ReasoningState::from_prompt_suffix(suffix), state, "{suffix:?}");
        assert_eq!(ReasoningState::from_prompt_suffix(&format!("{user}{suffix}")), state);
    }
    for (suffix, state) in [("x<think>\n", Inside), ("<think>x", Undecided), ("</think>", Closed)] {
        assert_eq!(ReasoningState::from_prompt_suffix(suffix), state, "{suffix:?}");
    }
}

#[test]
fn thinking_is_split_off_whoever_opens_it() {
    for (prompt, text) in [
        (TURN, "<think>a\n\nb</think>\nc"),
        ("<|im_start|>assistant\n<think>", "a\n\nb</think>\nc"),
        ("<|im_start|>assistant\n<think>", "<think>a\n\nb</think>\nc"),
        ("<|im_start|>assistant\n<think></think>", "<think>a\n\nb</think>\nc"),
    ] {
        let message = parsing::parse(MIMO, prompt, text);
        let parts = (message.reasoning.as_str(), message.content.as_str());
        assert_eq!(parts, ("a\n\nb", "\nc"), "{prompt:?}");
    }
    // With the thinking off, nothing the model says about tags hides the answer.
    for prompt in [TURN, "<|im_start|>assistant\n<think></think>"] {
        let text = "The <think> tag and its </think> end.";
        let message = parsing::parse(MIMO, prompt, text);
        assert_eq!((message.reasoning.as_str(), message.content.as_str()), ("", text));
    }
}

#[test]
fn newlines_belong_to_the_format_where_the_template_writes_them() {
    let message = parsing::parse(DEMO, TURN, "<think>\n1 + 1 = 2\n\n</think>\nThe answer is 2.\n");
    assert_eq!(message.reasoning, "1 + 1 = 2\n");
    assert_eq!(message.content, "The answer is 2.\n");
    let message = parsing::parse(MIMO, TURN, "<think>\nx\n</think>\n\ny");
    assert_eq!((message.reasoning.as_str(), message.content.as_str()), ("\nx\n", "\n\ny"));
}

#[test]
fn wrapped_and_compact_calls_are_the_same() {
    let wrapped = "<tool_call>\n<function=f>\n<parameter=s>a</parameter>\n<parameter=i>7</parameter>\n</function>\n</tool_call>";
    let expected = vec![("f".to_owned(), json!({"s": "a", "i": 7}))];
    assert_eq!(calls(&mimo(wrapped)), expected);
    let compact = mimo(&wrapped.replace('\n', ""));
    assert_eq!(calls(&compact), expected);
    assert_eq!(compact.tool_calls[0].arguments, r#"{"s": "a", "i": 7}"#);
    assert_eq!(compact.tool_calls[0].id, "call_0");
}

#[test]
fn calls_need_no_arguments_and_may_be_many() {
    let text = "Two.\n<tool_call><function=f></function></tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>\n";
    let message = mimo(text);
    assert_eq!(calls(&message), [("f".to_owned(), json!({})), ("g".to_owned(), json!({}))]);
    // A compact call claims no newline of the text before it; whitespace between calls is nobody's.
    assert_eq!(message.content, "Two.\n");
    let block = "<tool_call><function=f></function><function=g></function></tool_call>done";
    let message = mimo(block);
    assert_eq!((message.tool_calls.len(), message.content.as_str()), (2, "done"));
    assert_eq!(message.tool_calls[1].id, "call_1");
}

#[test]
fn calls_inside_the_thinking_are_calls() {
    let text = "<think>Look it up.\n<tool_call>\n<function=f>\n<parameter=s>a</parameter>\n</function>\n</tool_call>\nThen</think>Done";
    let message = mimo(text);
    assert_eq!(calls(&message), [("f".to_owned(), json!({"s": "a"}))]);
    assert_eq!(message.reasoning, "Look it up.\nThen");
    assert_eq!(message.content, "Done");
}

#[test]
fn values_are_raw() {
    for raw in [
        "\n a &lt;b&gt; \\n \"q\" \t\n\n",
        "",
        "</parameter",
        "<parameter=x>",
        "a</parameter>b",
        "</function>\n</tool_call>",
        "</parameter></parameter> </fun",
        "<think></think><tool_call>",
        "<<</parameter><",
        "12",
        "null",
        "é\u{1}🙂",
    ] {
        assert_eq!(one_argument(MIMO, "s", raw), json!(raw), "{raw:?}");
    }
    // Qwen-Coder puts values on lines of their own.
    for raw in ["", "a", "\n", "a\n\nb\n", "\n</parameter>"] {
        assert_eq!(one_argument(CODER, "s", &format!("\n{raw}\n")), json!(raw), "{raw:?}");
    }
}

#[test]
fn declared_types_decide_what_a_value_is() {
    for (parameter, raw, value) in [
        ("s", "1", json!("1")),
        ("s", "{}", json!("{}")),
        ("s", "true", json!("true")),
        ("n", "1.50", json!(1.5)),
        ("n", " 2 ", json!(2)),
        ("n", "two", json!("two")),
        ("i", "-3", json!(-3)),
        ("i", "03", json!("03")),
        ("b", "true", json!(true)),
        ("b", "True", json!(true)),
        ("b", "False\n", json!(false)),
        ("b", "yes", json!("yes")),
        ("b", "None", json!("None")),
        ("b", "Truer", json!("Truer")),
        ("o", "{\"k\": [1, null]}", json!({"k": [1, null]})),
        ("o", "{'k': 1}", json!("{'k': 1}")),
        ("o", "{\"k\": 1", json!("{\"k\": 1")),
        ("a", "\n[1]\n", json!([1])),
        ("a", "\"x\"", json!("x")),
        ("sn", "null", json!(null)),
        ("sn", "None", json!(null)),
        ("sn", "none", json!("none")),
        ("sn", "1", json!("1")),
        ("sn", "[1]", json!("[1]")),
        ("sn", "nullify", json!("nullify")),
        ("oa", "{}", json!({})),
        ("oa", "[2]", json!([2])),
        ("e", "1", json!("1")),
        ("al", "1", json!("1")),
        ("al", "null", json!("null")),
        // Undeclared: JSON if it is JSON, except that quotes are just quotes.
        ("x", "1", json!(1)),
        ("x", "true", json!(true)),
        ("x", "None", json!(null)),
        ("x", "[1, 2]", json!([1, 2])),
        ("x", "\"q\"", json!("\"q\"")),
        ("x", "", json!("")),
        ("x", "1 apple", json!("1 apple")),
        ("x", "007", json!("007")),
        ("x", "  pad ", json!("  pad ")),
    ] {
        assert_eq!(one_argument(MIMO, parameter, raw), value, "{parameter}: {raw:?}");
    }
}

#[test]
fn broken_calls_are_text() {
    for text in [
        "<tool_call>",
        "<tool_call>\n",
        "<tool_call>x",
        "<tool_call>\n<function=f",
        "<tool_call><function=f>",
        "<tool_call><function=>",
        "<tool_call>\n<function=f>\noops</function>",
        "a <tool_call> b </tool_call>",
        "<tool_call>{\"name\": \"f\"",
        "<tool_call>{\"name\": 1}</tool_call>",
        "<tool_call>{}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}",
        "<tool_call>{\"name\": \"f\", \"x\": 1}",
        "<tool_call>{\"name\": \"f\", \"name\": \"g\", \"arguments\": {}}",
        "<tool_call>[]</tool_call>",
        "<function=f></function>",
        "</tool_call>",
    ] {
        let message = mimo(text);
        assert_eq!((message.content.as_str(), message.broken_calls), (text, 0));
        assert!(message.tool_calls.is_empty());
    }
    for text in [
        "<tool_call>\n<function=f>\n<parameter=s>",
        "<tool_call><function=f><parameter=s>a</parameter>",
        "<tool_call><function=f><parameter=o>{\"k\": 1}</parameter>\n</func",
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"k\": \"v",
        "<tool_call>{\"name\": \"f\", \"arguments\": {oops}}",
    ] {
        let message = mimo(text);
        assert_eq!((message.content.as_str(), message.broken_calls), (text, 1));
        assert!(message.tool_calls.is_empty(), "half a call must not be acted upon");
    }
    // What follows a broken call is read as usual, and so is what follows an unclosed block.
    let good = "<tool_call>{\"name\": \"f\", \"arguments\": {}}";
    let message = mimo(&format!("<tool_call>{{\"name\": \"g\", \"arguments\": {{!{good} tail"));
    assert_eq!(calls(&message), [("f".to_owned(), json!({}))]);
    assert_eq!(message.tool_calls[0].id, "call_1", "the broken call had a number too");
    assert!(message.content.ends_with("{! tail"), "{}", message.content);
}

#[test]
fn json_calls_are_read_in_every_spelling() {
    let wrap =
        |body: &str| parsing::parse(DEMO, TURN, &format!("<tool_call>\n{body}\n</tool_call>"));
    for body in [
        r#"{"name": "f", "arguments": {"k": [1, "}"]}}"#,
        r#"{"arguments": {"k": [1, "}"]}, "name": "f"}"#,
        r#" { "name" : "\u0066" , "parameters" : {"k": [1, "}"]} } "#,
        r#"{"name": "f", "arguments": "{\"k\": [1, \"}\"]}"}"#,
    ] {
        let message = wrap(body);
        assert_eq!(calls(&message), [("f".to_owned(), json!({"k": [1, "}"]}))], "{body}");
        assert_eq!(message.content, "");
    }
    for body in [r#"{"name": "f"}"#, r#"{"name": "f", "arguments": null}"#] {
        assert_eq!(calls(&wrap(body)), [("f".to_owned(), json!({}))], "{body}");
    }
}

#[test]
fn arguments_stream_while_they_are_written() {
    let mut parser = MIMO.parser(TURN, options());
    let fragment = |deltas: Vec<Delta>| -> String {
        let of = |delta| match delta {
            Delta::ToolCallArguments { json_fragment, .. } => json_fragment,
            other => panic!("{other:?}"),
        };
        deltas.into_iter().map(of).collect()
    };
    assert_eq!(parser.push("<tool_call>\n<function=f>\n<parameter=s"), []);
    assert_eq!(parser.push(">He said ").len(), 2, "the call starts, and its first argument");
    assert_eq!(fragment(parser.push("\"yes\"\n")), "\\\"yes\\\"\\n");
    assert_eq!(parser.push("</parameter>\n"), [], "may be the end of the value");
    assert_eq!(fragment(parser.push("or not")), "</parameter>\\nor not");
    assert_eq!(fragment(parser.push("</parameter><parameter=x>Tr")), "\", \"x\": ");
    assert_eq!(fragment(parser.push("y it")), "\"Try it", "cannot be JSON: streams");

    let mut parser = DEMO.parser(TURN, options());
    parser.push("<tool_call>\n{\"name\": \"f\", \"arguments\": {");
    assert_eq!(fragment(parser.push("\"k\": \"a")), "\"k\": \"a");
    assert_eq!(parser.push("\"}}").last(), Some(&Delta::ToolCallEnd { index: 0 }));
}

#[test]
fn sizes_are_limited() {
    let numbers = format!("[1{}]", ", 1".repeat(MAX_TYPED_VALUE_BYTES / 3));
    assert_eq!(one_argument(MIMO, "a", &numbers), json!(numbers), "too long to be typed");

    let long = format!("<tool_call><function=f><parameter=s>{}", "x".repeat(MAX_CALL_BYTES));
    let message = mimo(&format!("{long}</parameter></function></tool_call>"));
    assert_eq!((message.tool_calls.len(), message.broken_calls), (0, 1));
    assert_eq!(message.content, format!("{long}</parameter></function></tool_call>"));

    let name = "n".repeat(257);
    assert!(mimo(&format!("<tool_call><function={name}></function>")).tool_calls.is_empty());
    assert_eq!(
        mimo(&format!("<tool_call><function={}></function>", &name[1..])).tool_calls.len(),
        1
    );

    for start in
        ["", "<tool_call>", "<tool_call><function=f></function>", "<tool_call><function=f>"]
    {
        let mut parser = MIMO.parser(TURN, options());
        parser.push(start);
        parser.push(&" ".repeat(1000));
        assert!(parser.held_bytes() < 300, "{start:?} holds {}", parser.held_bytes());
    }
}

#[test]
fn without_tools_calls_are_text() {
    let text = "<tool_call>\n<function=f>\n</function>\n</tool_call>";
    let options = ParserOptions { tool_calls: false, ..options() };
    let message = MIMO.parser(TURN, options).parse_complete(text);
    assert_eq!((message.content.as_str(), message.tool_calls.len()), (text, 0));
}

#[test]
fn text_is_held_back_only_while_it_may_be_markup() {
    let mut parser = MIMO.parser(TURN, options());
    assert_eq!(parser.push("a <"), [Delta::Content("a".to_owned())]);
    assert_eq!(parser.push("b"), [Delta::Content(" <b".to_owned())]);
    assert_eq!(parser.push("\n"), []);
    assert_eq!(parser.push("c"), [Delta::Content("\nc".to_owned())]);
    assert_eq!(parser.push("<tool_call"), []);
    assert_eq!(parser.held_bytes(), 10);
    assert_eq!(parser.finish(), [Delta::Content("<tool_call".to_owned())]);
}
