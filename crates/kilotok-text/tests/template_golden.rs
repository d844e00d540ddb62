//! Chat templates against the output of Python's Jinja2 (`scripts/make_template_golden.py`).
#![allow(clippy::unwrap_used, reason = "in tests a panic is a failure")]

mod tiny;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use kilotok_text::{ChatTemplate, Clock, RenderLimits, SpecialTokens, TemplateInput, TextError};
use serde_json::{Value, json};

/// 2025-03-05T16:07:08Z, the moment the expected texts were rendered at.
const NOW: Clock = Clock::Fixed { unix_seconds: 1_741_190_828 };

fn golden(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../tests/golden/template", file].iter().collect()
}

fn read_list(file: &str) -> Vec<Value> {
    serde_json::from_str(&fs::read_to_string(golden(file)).unwrap()).unwrap()
}

fn special_tokens() -> SpecialTokens {
    let dir = tiny::TempDir::new();
    dir.write("tokenizer_config.json", &json!({"bos_token": "<s>", "eos_token": "</s>"}));
    SpecialTokens::from_dir(dir.path()).unwrap()
}

fn input(case: &Value) -> TemplateInput {
    TemplateInput {
        messages: case["messages"].as_array().unwrap().clone(),
        tools: case.get("tools").map(|tools| tools.as_array().unwrap().clone()),
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
        kwargs: case.get("kwargs").map(|k| k.as_object().unwrap().clone()).unwrap_or_default(),
        ..TemplateInput::default()
    }
}

/// The first place where two texts differ, with what surrounds it.
fn difference(ours: &str, python: &str) -> String {
    let at = ours.bytes().zip(python.bytes()).take_while(|(a, b)| a == b).count();
    let around = |text: &str| {
        let window = &text.as_bytes()[at.saturating_sub(60)..text.len().min(at + 60)];
        String::from_utf8_lossy(window).into_owned()
    };
    format!("\n  ours   {:?}\n  python {:?}", around(ours), around(python))
}

#[test]
fn every_template_renders_as_in_python() {
    let special_tokens = special_tokens();
    let cases: BTreeMap<String, TemplateInput> = read_list("inputs.json")
        .iter()
        .map(|case| (case["name"].as_str().unwrap().to_owned(), input(case)))
        .collect();
    let mut failures = Vec::new();
    let expected = read_list("expected.json");
    for entry in &expected {
        let (name, case) = (entry["template"].as_str().unwrap(), entry["input"].as_str().unwrap());
        let source = fs::read_to_string(golden(&format!("{name}.jinja"))).unwrap();
        let sources = BTreeMap::from([("default".to_owned(), source)]);
        let result = ChatTemplate::new(&sources, &special_tokens, RenderLimits::default(), NOW)
            .and_then(|template| template.render(&cases[case]));
        let (text, raised) = (entry["text"].as_str(), entry["raised"].as_str());
        let problem = match (&result, text, raised) {
            (Ok(ours), Some(text), _) if ours == text => continue,
            (Err(TextError::TemplateRaised { message }), _, Some(raised)) if message == raised => {
                continue;
            }
            (Err(TextError::TemplateRender { .. }), None, None) => continue,
            (Ok(ours), Some(text), _) => difference(ours, text),
            _ => format!("{result:?}, Python: {text:?} {raised:?} {:?}", entry["error"]),
        };
        failures.push(format!("{name} with {case}: {problem}"));
    }
    assert!(expected.len() > 150);
    assert!(
        failures.is_empty(),
        "{} of {} differ\n{}",
        failures.len(),
        expected.len(),
        failures.join("\n")
    );
}
