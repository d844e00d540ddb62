//! Laws of every parser, on text rich in markup: total, independent of pieces, nothing lost.
#![allow(clippy::unwrap_used, reason = "in tests a panic is a failure")]

mod parsing;

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use kilotok_text::{Delta, Format, MAX_CALL_BYTES, ParserOptions, TagLayout};
use proptest::prelude::*;

const FRAGMENTS: [&str; 72] = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<function=f>",
    "<function=",
    "</function>",
    "<parameter=s>",
    "<parameter=n>",
    "<parameter=x>",
    "<parameter=",
    "</parameter>",
    "<tool_call>\n",
    "\n</tool_call>",
    "<function=f>\n",
    "\n</function>\n",
    "</parameter>\n",
    "<|start|>",
    "<|end|>",
    "<|channel|>",
    "<|message|>",
    "<|constrain|>",
    "<|return|>",
    "<|call|>",
    "<|start|>assistant",
    "analysis",
    "commentary",
    "final",
    " to=functions.f",
    " to=",
    "json",
    " code",
    "assistant",
    "<|channel|>analysis<|message|>",
    "<|channel|>final<|message|>",
    "<|channel|>commentary to=functions.f <|constrain|>json<|message|>",
    "{\"name\": \"f\", \"arguments\": ",
    "{\"name\": \"f\"",
    ", \"arguments\": ",
    "{\"arguments\": ",
    ", \"name\": \"g\"}",
    "\"parameters\": \"{\\\"k\\\": 1}\"",
    "{",
    "}",
    "}}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\"k\": ",
    "\"v\"",
    "1",
    "-2.5e3",
    "true",
    "None",
    "null",
    "{\"k\": [1, \"v\"]}",
    "{}",
    "\\",
    "\\\"",
    "\\u00e9",
    "<",
    ">",
    "/",
    "|",
    "\n",
    " ",
    "\n\n",
    "é🙂",
    "text",
    "\u{0}",
];

/// Marks that must all come out again, once and in order.
fn marked(pieces: &[&str], every: usize) -> String {
    let mut text = String::new();
    for (index, piece) in pieces.iter().enumerate() {
        text.push_str(piece);
        if every > 0 && index % every == 0 {
            write!(text, "§{index}§").unwrap();
        }
    }
    text
}

fn marks(text: &str) -> Vec<String> {
    text.split('§').skip(1).step_by(2).map(str::to_owned).collect()
}

fn formats() -> impl Strategy<Value = Format> {
    prop::sample::select(vec![
        Format::Plain,
        Format::Tagged(TagLayout::BARE),
        Format::Tagged(TagLayout::LINES),
        Format::Tagged(parsing::QWEN_CODER),
        Format::Harmony,
    ])
}

fn prompts() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "<|im_start|>assistant\n",
        "<|im_start|>assistant\n<think>",
        "<|im_start|>assistant\n<think></think>",
        "<|start|>assistant",
        "<|start|>assistant<|channel|>analysis<|message|>Hm",
        "<|start|>assistant<|channel|>commentary to=functions.f<|message|>{\"k\"",
    ])
}

fn texts() -> impl Strategy<Value = String> {
    let pieces = prop::collection::vec(prop::sample::select(FRAGMENTS.to_vec()), 0..24);
    (pieces, 0_usize..5).prop_map(|(pieces, every)| marked(&pieces, every))
}

/// Whole calls in the midst of fragments, so that complete ones are common.
fn texts_with_calls() -> impl Strategy<Value = String> {
    let whole = prop::sample::select(vec![
        "<tool_call>\n<function=f>\n<parameter=s>a</parameter>\n</function>\n</tool_call>",
        "<tool_call><function=f><parameter=x>[1]</parameter></function></tool_call>",
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"k\": \"v\"}}\n</tool_call>",
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"k\": 1}<|call|>",
        "<|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
        "<tool_call><function=f></function>",
        "<tool_call>{\"arguments\": {\"k\": 1}, \"name\": \"f\"}",
        "<tool_call>{\"name\": \"f\"}",
        "<tool_call>{\"name\": \"f\", \"arguments\": {",
        "<tool_call><function=f><parameter=s>",
        "</parameter>\n<parameter=n>",
        "</parameter></function>",
        "<|channel|>commentary to=functions.f<|message|>",
    ]);
    let piece = prop_oneof![whole, prop::sample::select(FRAGMENTS.to_vec())];
    (prop::collection::vec(piece, 0..12), 0_usize..4)
        .prop_map(|(pieces, every)| marked(&pieces, every))
}

fn check(format: Format, prompt: &str, text: &str, cuts: &[prop::sample::Index], calls: bool) {
    let options = || ParserOptions { tool_calls: calls, ..parsing::options() };
    let whole = parsing::deltas(format, prompt, options(), [text]);

    let single: Vec<String> = text.chars().map(String::from).collect();
    let pieces = single.iter().map(String::as_str);
    assert_eq!(parsing::deltas(format, prompt, options(), pieces), whole, "char by char");
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    at.extend([0, text.len()]);
    at.retain(|&at| text.is_char_boundary(at));
    at.sort_unstable();
    let pieces = at.windows(2).map(|range| &text[range[0]..range[1]]);
    assert_eq!(parsing::deltas(format, prompt, options(), pieces), whole, "in pieces");

    // Calls start, are filled and end one after the other; complete ones hold a JSON object.
    let (mut said, mut open, mut next) = (String::new(), None::<(usize, String, String)>, 0);
    for delta in &whole {
        match delta {
            Delta::Reasoning(part) | Delta::Content(part) => {
                assert!(open.is_none());
                said.push_str(part);
            }
            Delta::ToolCallStart { index, name, .. } => {
                assert!(calls && open.is_none() && *index == next);
                open = Some((*index, name.clone(), String::new()));
                next += 1;
            }
            Delta::ToolCallArguments { index, json_fragment } => {
                let open = open.as_mut().unwrap();
                assert_eq!(*index, open.0);
                open.2.push_str(json_fragment);
            }
            Delta::ToolCallEnd { index } => {
                let (opened, name, arguments) = open.take().unwrap();
                assert_eq!(*index, opened);
                let parsed = serde_json::from_str::<serde_json::Value>(&arguments);
                assert!(parsed.unwrap().is_object(), "{arguments}");
                said.push_str(&name);
                said.push_str(&arguments);
            }
            Delta::ToolCallBroken { index, markup, .. } => {
                assert_eq!(*index, open.take().unwrap().0);
                said.push_str(markup);
            }
        }
    }
    assert!(open.is_none(), "a call was left open");
    assert_eq!(marks(&said), marks(text), "lost or repeated: {whole:?}");
    if !calls && format != Format::Harmony {
        let strip = |text: &str| text.replace(['\n', ' '], "");
        let tags = |text: &str| strip(text).replace("<think>", "").replace("</think>", "");
        assert_eq!(tags(&said), tags(text), "all but tags of the thinking is text");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn fragments_obey_the_laws(
        format in formats(), prompt in prompts(), text in texts(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6), calls in any::<bool>(),
    ) {
        check(format, prompt, &text, &cuts, calls);
    }

    #[test]
    fn calls_among_fragments_obey_the_laws(
        format in formats(), prompt in prompts(), text in texts_with_calls(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        check(format, prompt, &text, &cuts, true);
    }

    #[test]
    fn text_without_markup_passes_unchanged(format in formats(), text in "[^<]{0,60}") {
        let message = parsing::parse(format, "", &text);
        prop_assert_eq!((message.reasoning.as_str(), message.content), ("", text));
        prop_assert!(message.tool_calls.is_empty());
    }
}

/// Every prefix of a good output is total too: this is where `max_tokens` cuts.
#[test]
fn every_truncation_keeps_the_law() {
    let cases = [
        (
            Format::Tagged(TagLayout::BARE),
            "<|im_start|>assistant\n",
            "<think>a§1§</think>b§2§\n<tool_call>\n<function=f>\n<parameter=s>x§3§</parameter>\n<parameter=o>{\"k\": \"§4§\"}</parameter>\n</function>\n</tool_call>",
        ),
        (
            Format::Tagged(TagLayout::LINES),
            "<|im_start|>assistant\n",
            "<think>\na§1§\n</think>\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"k\": \"§2§\"}}\n</tool_call>",
        ),
        (
            Format::Harmony,
            "<|start|>assistant",
            "<|channel|>analysis<|message|>a§1§<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"k\": \"§2§\"}<|call|>",
        ),
    ];
    for (format, prompt, text) in cases {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            check(format, prompt, &text[..end], &[], true);
        }
    }
}

/// Time that this thread has computed: unlike the clock's, it does not pass while others do, or
/// while the process is stopped. Where the system does not tell, the clock's.
fn computed() -> Duration {
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    let nanoseconds = std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|line| line.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(|| STARTED.elapsed(), Duration::from_nanos)
}

/// Memory is bounded and work is linear, also for text made to be held back.
#[test]
fn hostile_text_is_bounded() {
    let unit = [
        ("<tool_call>", " "),
        ("<tool_call>{\"name\": \"f\", \"arguments\": {\"k\": \"", "v"),
        ("<tool_call>{\"arguments\": {\"k\": \"", "<tool_call>"),
        ("<tool_call><function=f><parameter=x>", " "),
        ("<tool_call><function=f><parameter=x>[", "1,"),
        ("<tool_call><function=f><parameter=x>", "</parameter>"),
        ("<tool_call><function=f><parameter=s>", "</parameter>\n<parameter="),
        ("<tool_call><function=", "f"),
        ("", "<tool_call>{"),
        ("", "\n"),
        ("", "<"),
        ("", "<|channel|>"),
        ("<|channel|>final", " "),
        ("<|channel|>final to=f<|message|>", "\n"),
        ("<|channel|>final to=f<|message|>{\"k\": \"", "<|end|>"),
        ("", "<|start|>assistant to=f"),
    ];
    for (start, repeated) in unit {
        let formats: &[Format] = if start.starts_with("<t") {
            &[Format::Tagged(parsing::QWEN_CODER)]
        } else {
            &[Format::Tagged(TagLayout::BARE), Format::Harmony]
        };
        for format in formats {
            let mut parser = format.parser("", parsing::options());
            let piece = repeated.repeat(64 * 1024 / repeated.len());
            let (mut most, before) = (0, computed());
            parser.push(start);
            for _ in 0..72 {
                parser.push(&piece);
                most = most.max(parser.held_bytes());
            }
            parser.finish();
            assert_eq!(parser.held_bytes(), 0);
            assert!(most <= 2 * MAX_CALL_BYTES + 4096, "{format:?} {start:?} {repeated:?}: {most}");
            // 4.5 MB, more than a call may have; quadratic work would take minutes.
            let took = computed().saturating_sub(before);
            assert!(took < Duration::from_secs(20), "{format:?} {start:?} {repeated:?}: {took:?}");
        }
    }
}
