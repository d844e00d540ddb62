//! Grammars over the demo checkpoint's vocabulary, walked at random: whatever the masks let
//! through to the end follows the rule, and trying and taking back leaves no trace.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test is a panic")]

use std::path::PathBuf;
use std::sync::Arc;

use kilotok::sample::{Constraint, Grammar, TokenMask};
use kilotok_text::{
    CallMode, CallRule, ChatTemplate, Format, GrammarPart, GrammarSpec, Grammars, OutputRules,
    ParsedMessage, ParserOptions, TagLayout, TextError, Tokenizer,
};
use serde_json::{Value, json};

const VOCAB: usize = 4096;
const EOS: [u32; 2] = [2, 0];
const DEMO: Format = Format::Tagged(TagLayout::LINES);
const PROMPT: &str = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";

struct Model {
    tokenizer: Arc<Tokenizer>,
    grammars: Grammars,
}

fn demo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../python/kilotok/demo/checkpoint")
}

fn model() -> Model {
    let tokenizer = Arc::new(Tokenizer::from_dir(&demo()).unwrap().unwrap());
    let template = ChatTemplate::from_dir(&demo(), tokenizer.special_tokens()).unwrap();
    let grammars = Grammars::new(&tokenizer, template.as_ref(), VOCAB, &EOS).unwrap();
    Model { tokenizer, grammars }
}

/// Writes calls as MiMo does.
fn function_model() -> Model {
    let tokenizer = Arc::new(Tokenizer::from_dir(&demo()).unwrap().unwrap());
    let source = "{{ '<think>' }}{{ '<tool_call>\\n<function=' + name + '>' }}";
    let template = ChatTemplate::from_source(source).unwrap();
    let grammars = Grammars::new(&tokenizer, Some(&template), VOCAB, &EOS).unwrap();
    Model { tokenizer, grammars }
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn pick(&mut self, mask: &TokenMask) -> u32 {
        let allowed: Vec<u32> = (0..VOCAB as u32).filter(|t| mask.allows(*t)).collect();
        allowed[self.below(allowed.len())]
    }
}

fn mask_of(constraint: &mut dyn Constraint) -> TokenMask {
    let mut mask = TokenMask::new(VOCAB);
    constraint.allowed(&mut mask).unwrap();
    mask
}

/// A random text: ends are taken where they may come, and every few tokens some are tried first.
fn walk(grammar: &dyn Grammar, random: &mut Random, most: usize) -> Option<Vec<u32>> {
    let mut constraint = grammar.start().unwrap();
    let mut tokens = Vec::new();
    while tokens.len() < most {
        let forced = constraint.forced().unwrap();
        let mask = mask_of(&mut *constraint);
        if let Some(forced) = forced {
            assert_eq!(mask.single(), Some(forced));
        }
        for _ in 0..8 {
            let token = random.below(VOCAB) as u32;
            if forced.is_none() {
                assert_eq!(constraint.allows(token).unwrap(), mask.allows(token), "{token}");
            }
        }
        if random.below(3) == 0 {
            let mut tried = 0;
            for _ in 0..random.below(8) {
                let token = random.pick(&mask_of(&mut *constraint));
                if EOS.contains(&token) {
                    break;
                }
                constraint.advance(token).unwrap();
                tried += 1;
            }
            constraint.rollback(tried).unwrap();
            assert_eq!(mask_of(&mut *constraint), mask);
        }
        if EOS.iter().any(|eos| mask.allows(*eos)) && random.below(4) == 0 {
            return Some(tokens);
        }
        let token = random.pick(&mask);
        if EOS.contains(&token) {
            return Some(tokens);
        }
        constraint.advance(token).unwrap();
        tokens.push(token);
    }
    None
}

/// Texts of walks that came to an end, at least `least` of 40.
fn texts(model: &Model, grammar: &dyn Grammar, least: usize) -> Vec<String> {
    let mut random = Random(7);
    let walks: Vec<_> = (0..40).filter_map(|_| walk(grammar, &mut random, 400)).collect();
    assert!(walks.len() >= least, "{} of 40 came to an end", walks.len());
    walks.iter().map(|tokens| model.tokenizer.decode(tokens, false).unwrap()).collect()
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "kind": {"enum": ["a", "b\n\"c\"", 3]},
            "count": {"type": "integer", "minimum": -5, "maximum": 40},
            "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        },
        "required": ["name", "kind", "count", "tags"],
        "additionalProperties": false,
    })
}

#[test]
fn texts_follow_their_rule() {
    let model = model();
    let walked = |spec: GrammarSpec, least| {
        let grammar = model.grammars.text(&spec).unwrap();
        texts(&model, &*grammar, least)
    };
    for text in walked(GrammarSpec::JsonSchema(schema()), 40) {
        let value: Value = serde_json::from_str(&text).expect(&text);
        let fields = value.as_object().unwrap();
        assert_eq!(fields.len(), 4, "{text}");
        assert!(fields["name"].as_str().unwrap().chars().count() <= 12, "{text}");
        assert!([json!("a"), json!("b\n\"c\""), json!(3)].contains(&fields["kind"]), "{text}");
        let count = fields["count"].as_f64().expect(&text);
        assert!(count.fract() == 0.0 && (-5.0..=40.0).contains(&count), "{text}");
        assert!(fields["tags"].as_array().unwrap().iter().all(Value::is_boolean), "{text}");
    }
    for text in walked(GrammarSpec::JsonObject, 1) {
        assert!(serde_json::from_str::<Value>(&text).expect(&text).is_object());
    }
    for text in walked(GrammarSpec::Regex(r"[0-9]{3}/[a-f]+\n?".into()), 40) {
        let (digits, rest) = text.split_at(3);
        assert!(digits.chars().all(char::is_numeric), "{text:?}");
        let letters = rest.strip_prefix('/').expect(&text).trim_end_matches('\n');
        assert!(!letters.is_empty() && letters.bytes().all(|b| (b'a'..=b'f').contains(&b)));
    }
    let choices = ["yes", "no \"way\"", "ümlaut\n/"].map(str::to_owned);
    for text in walked(GrammarSpec::Choice(choices.to_vec()), 40) {
        assert!(choices.contains(&text), "{text:?}");
    }
    let lark = "start: \"<\" pair* \">\"\npair: \"(\" pair? \")\" | /[xyz]/";
    for text in walked(GrammarSpec::Lark(lark.into()), 40) {
        assert!(text.starts_with('<') && text.ends_with('>'), "{text}");
        let depth = text.chars().fold(0i32, |d, c| d + i32::from(c == '(') - i32::from(c == ')'));
        assert_eq!(depth, 0, "{text}");
    }
}

#[test]
fn wrong_rules_are_errors_and_take_no_time() {
    let model = model();
    let wrong = [
        GrammarSpec::JsonSchema(json!({"type": "nonsense"})),
        GrammarSpec::JsonSchema(json!({"$ref": "#/$defs/missing"})),
        GrammarSpec::JsonSchema(json!({"$ref": "http://example.com/schema.json"})),
        GrammarSpec::JsonSchema(json!({"type": "string", "pattern": "("})),
        GrammarSpec::JsonSchema(json!({"not": {}})),
        GrammarSpec::JsonSchema(json!(false)),
        GrammarSpec::JsonSchema(json!([])),
        GrammarSpec::JsonSchema(json!({"description": "x".repeat(300_000)})),
        GrammarSpec::Regex("(".into()),
        GrammarSpec::Regex(r"(a)\1".into()),
        GrammarSpec::Regex("a".repeat(20_000)),
        GrammarSpec::Choice(vec![]),
        GrammarSpec::Choice(vec![String::new()]),
        GrammarSpec::Choice(vec!["a".into(); 2000]),
        GrammarSpec::Lark("start: nowhere".into()),
        GrammarSpec::Lark("root ::= \"a\"".into()),
        GrammarSpec::Lark(String::new()),
        GrammarSpec::Lark("(".repeat(1000)),
        GrammarSpec::Lark("a\n".repeat(3000)),
    ];
    for spec in wrong {
        let started = std::time::Instant::now();
        match model.grammars.text(&spec) {
            Err(TextError::Grammar { part: GrammarPart::Answer, reason }) => {
                assert!(
                    !reason.is_empty() && reason.len() < 2000 && !reason.contains('\n'),
                    "{reason}"
                );
            }
            other => panic!("{spec:?}: {other:?}"),
        }
        assert!(started.elapsed().as_secs() < 5, "{spec:?} took {:?}", started.elapsed());
    }
}

/// What is large or deep within the limits: compiled or refused, followed or given up, but always
/// within bounds of time and stack.
#[test]
fn hostile_rules_do_no_harm() {
    let model = model();
    let repeated = (0..60).fold("a".to_owned(), |inner, _| format!("({inner}){{1,1000}}"));
    let chain = |count: usize, line: &dyn Fn(usize) -> String, end: &str| {
        let lines: Vec<String> = (0..count).map(line).collect();
        format!("start: {}\n{}\n{end}", lines[0].split(':').next().unwrap(), lines.join("\n"))
    };
    let deep = |count: usize, open: &str, close: &str| {
        format!("start: {}\"a\"{}", open.repeat(count), close.repeat(count))
    };
    let refs = |count: usize| {
        let parts: serde_json::Map<String, Value> = (0..count)
            .map(|i| (format!("d{i}"), json!({"$ref": format!("#/$defs/d{}", i + 1)})))
            .chain([(format!("d{count}"), json!({"type": "integer"}))])
            .collect();
        json!({"$ref": "#/$defs/d0", "$defs": parts})
    };
    let nested = (0..120)
        .fold(json!({"type": "integer"}), |inner, _| json!({"type": "array", "items": inner}));
    let alternatives: Vec<String> = (0..1000).map(|i| format!("{i:0>40}")).collect();
    let hostile = [
        GrammarSpec::Regex(repeated),
        GrammarSpec::Regex("(a|b|ab)*c{0,500}(a|b)*".repeat(20)),
        GrammarSpec::Regex("(.*a){1,100}".repeat(100)),
        GrammarSpec::Lark(chain(1990, &|i| format!("r{i}: r{}", i + 1), "r1990: \"a\"")),
        GrammarSpec::Lark(chain(1990, &|i| format!("T{i}: T{}", i + 1), "T1990: \"a\"")),
        GrammarSpec::Lark(chain(1990, &|i| format!("T{i}: \"a\" T{}", i + 1), "T1990: \"a\"")),
        GrammarSpec::Lark(deep(200, "(", ")")),
        GrammarSpec::Lark(deep(200, "(\"b\" | ", ")")),
        GrammarSpec::Lark("start: start start | start | \"a\" | \"\"".into()),
        GrammarSpec::Lark("start: a*\na: b*\nb: c*\nc: start* \"x\"*".into()),
        GrammarSpec::JsonSchema(refs(4000)),
        GrammarSpec::JsonSchema(nested),
        GrammarSpec::Choice(alternatives),
    ];
    for spec in hostile {
        let shown: String = format!("{spec:?}").chars().take(60).collect();
        let started = std::time::Instant::now();
        let compiled = model.grammars.text(&spec);
        let compiling = started.elapsed();
        assert!(compiling.as_secs() < 20, "{shown}: {compiling:?} to compile");
        let Ok(grammar) = compiled else {
            println!("{shown}: {compiling:?}, refused");
            continue;
        };
        let mut constraint = grammar.start().unwrap();
        let mut mask = TokenMask::new(VOCAB);
        let mut random = Random(1);
        let started = std::time::Instant::now();
        for _ in 0..20 {
            if constraint.allowed(&mut mask).is_err() {
                break;
            }
            let token = random.pick(&mask);
            if EOS.contains(&token) || constraint.advance(token).is_err() {
                break;
            }
        }
        println!("{shown}: {compiling:?}, then {:?}", started.elapsed());
        assert!(started.elapsed().as_secs() < 10, "{shown}: {:?} to follow", started.elapsed());
    }
}

fn weather(strict: bool) -> CallRule {
    let schema = json!({
        "type": "object",
        "properties": {
            "city": {"enum": ["Bern", "Oslo"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "note": {"type": "string"},
        },
        "required": ["city", "days"],
        "additionalProperties": false,
    });
    CallRule { name: "weather".into(), schema: Some(schema), strict }
}

fn time() -> CallRule {
    CallRule {
        name: "time".into(),
        schema: Some(json!({"properties": {}, "additionalProperties": false})),
        strict: false,
    }
}

fn parse(model: &Model, format: Format, rules: &OutputRules, text: &str) -> ParsedMessage {
    let tools: Vec<Value> = rules
        .calls
        .iter()
        .map(|c| json!({"type": "function", "function": {"name": c.name, "parameters": c.schema}}))
        .collect();
    let options = ParserOptions {
        tool_calls: true,
        tools: kilotok_text::ToolSchemas::from_tools(&tools),
        ..ParserOptions::default()
    };
    let _ = model;
    format.parser(PROMPT, options).parse_complete(text)
}

fn check_call(call: &kilotok_text::ToolCall) {
    let arguments: Value = serde_json::from_str(&call.arguments).expect(&call.arguments);
    match call.name.as_str() {
        "weather" => {
            assert!(arguments["city"] == "Bern" || arguments["city"] == "Oslo", "{arguments}");
            assert!((1.0..=9.0).contains(&arguments["days"].as_f64().unwrap()), "{arguments}");
        }
        "time" => assert_eq!(arguments, json!({})),
        other => panic!("{other}"),
    }
}

#[test]
fn required_calls_are_calls_in_both_forms() {
    for (model, form) in [(model(), "json"), (function_model(), "function")] {
        for parallel in [false, true] {
            let rules = OutputRules {
                calls: vec![weather(true), time()],
                mode: CallMode::Required,
                parallel,
                ..OutputRules::default()
            };
            let grammar = model.grammars.message(DEMO, PROMPT, &rules).unwrap().unwrap();
            let mut several = false;
            for text in texts(&model, &*grammar, 5) {
                let message = parse(&model, DEMO, &rules, &text);
                assert_eq!(message.broken_calls, 0, "{form}: {text}");
                assert!(!message.tool_calls.is_empty(), "{form}: {text}");
                assert!(parallel || message.tool_calls.len() == 1, "{form}: {text}");
                assert_eq!(message.content.trim(), "", "{form}: {text}");
                several |= message.tool_calls.len() > 1;
                message.tool_calls.iter().for_each(check_call);
            }
            assert_eq!(several, parallel, "{form}");
        }
    }
}

#[test]
fn thinking_comes_first_and_ends_in_time() {
    let model = model();
    let rules = OutputRules {
        answer: Some(GrammarSpec::Choice(vec!["yes".into(), "no".into()])),
        thinking_budget: Some(20),
        ..OutputRules::default()
    };
    let closing = model.tokenizer.token_to_id("</think>").unwrap();
    let inside = format!("{PROMPT}<think>");
    for (prompt, must) in [(PROMPT, false), (inside.as_str(), true)] {
        let grammar = model.grammars.message(DEMO, prompt, &rules).unwrap().unwrap();
        let mut random = Random(3);
        for _ in 0..60 {
            let tokens = walk(&*grammar, &mut random, 100).expect("the budget ends it");
            let thought = tokens.iter().position(|t| *t == closing);
            assert!(!must || thought.is_some());
            assert!(thought.is_none_or(|at| at <= 21));
            let text = model.tokenizer.decode(&tokens, false).unwrap();
            let message = DEMO.parser(prompt, ParserOptions::default()).parse_complete(&text);
            assert!(["yes", "no"].contains(&message.content.as_str()), "{text:?}");
        }
    }
    // Without thinking in the vocabulary's way there is nothing to wait for.
    let closed = format!("{PROMPT}<think>\n</think>\n");
    let grammar = model.grammars.message(DEMO, &closed, &rules).unwrap().unwrap();
    let mut random = Random(4);
    let tokens = walk(&*grammar, &mut random, 20).unwrap();
    let text = model.tokenizer.decode(&tokens, false).unwrap();
    assert!(["yes", "no"].contains(&text.as_str()), "{text:?}");
}

#[test]
fn free_text_is_free_and_strict_calls_are_calls() {
    let model = model();
    let rules = OutputRules {
        calls: vec![weather(true), time()],
        mode: CallMode::Strict,
        parallel: true,
        ..OutputRules::default()
    };
    let grammar = model.grammars.message(DEMO, PROMPT, &rules).unwrap().unwrap();
    let open = model.tokenizer.token_to_id("<tool_call>").unwrap();
    let mut random = Random(5);
    let mut called = 0;
    for _ in 0..30 {
        let mut constraint = grammar.start().unwrap();
        let mut tokens = Vec::new();
        loop {
            let mask = mask_of(&mut *constraint);
            let token = match random.below(6) {
                0 if mask.allows(open) => open,
                _ => random.pick(&mask),
            };
            if EOS.contains(&token) || tokens.len() > 300 {
                break;
            }
            constraint.advance(token).unwrap();
            tokens.push(token);
            // Ends only between calls, so that every call is whole.
            if tokens.len() > 40 && mask_of(&mut *constraint).allows(EOS[0]) {
                break;
            }
        }
        let text = model.tokenizer.decode(&tokens, false).unwrap();
        let message = parse(&model, DEMO, &rules, &text);
        if tokens.len() <= 300 {
            assert_eq!(message.broken_calls, 0, "{text}");
            assert_eq!(message.tool_calls.len(), text.matches("<tool_call>").count(), "{text}");
        }
        message.tool_calls.iter().for_each(check_call);
        called += message.tool_calls.len();
    }
    assert!(called > 10, "{called}");
}

#[test]
fn an_answer_or_calls() {
    let model = model();
    let rules = OutputRules {
        answer: Some(GrammarSpec::JsonSchema(schema())),
        calls: vec![weather(false)],
        ..OutputRules::default()
    };
    let grammar = model.grammars.message(DEMO, PROMPT, &rules).unwrap().unwrap();
    let (mut answers, mut calls) = (0, 0);
    let mut random = Random(11);
    for _ in 0..60 {
        let Some(tokens) = walk(&*grammar, &mut random, 300) else { continue };
        let text = model.tokenizer.decode(&tokens, false).unwrap();
        let message = parse(&model, DEMO, &rules, &text);
        message.tool_calls.iter().for_each(check_call);
        calls += message.tool_calls.len();
        if message.tool_calls.is_empty() {
            serde_json::from_str::<Value>(message.content.trim()).expect(&text);
            answers += 1;
        }
    }
    assert!(answers > 0 && calls > 0, "{answers} {calls}");
}

#[test]
fn what_cannot_be_enforced_says_which_rule_it_is() {
    let model = model();
    let refused = |format, prompt: &str, rules: &OutputRules| match model
        .grammars
        .message(format, prompt, rules)
    {
        Err(TextError::Grammar { part, .. }) => part,
        other => panic!("{other:?}"),
    };
    let bad = CallRule {
        name: "bad".into(),
        schema: Some(json!({"properties": {"x": {"type": "huh"}}})),
        strict: true,
    };
    let calls = OutputRules {
        calls: vec![weather(true), bad],
        mode: CallMode::Required,
        ..OutputRules::default()
    };
    assert_eq!(refused(DEMO, PROMPT, &calls), GrammarPart::Call(1));
    let list = CallRule { name: "l".into(), schema: Some(json!({"type": "array"})), strict: true };
    let calls =
        OutputRules { calls: vec![list], mode: CallMode::Required, ..OutputRules::default() };
    assert_eq!(refused(DEMO, PROMPT, &calls), GrammarPart::Call(0));
    let calls = OutputRules {
        calls: vec![weather(true)],
        mode: CallMode::Required,
        ..OutputRules::default()
    };
    assert_eq!(refused(Format::Plain, PROMPT, &calls), GrammarPart::Calls);
    assert_eq!(refused(Format::Harmony, "no turn", &calls), GrammarPart::Calls);
    let budget = OutputRules { thinking_budget: Some(3), ..OutputRules::default() };
    assert_eq!(refused(Format::Harmony, PROMPT, &budget), GrammarPart::Thinking);
    assert!(model.grammars.message(DEMO, PROMPT, &OutputRules::default()).unwrap().is_none());
    // Raw text cannot be held to a pattern.
    let pattern = json!({"properties": {"x": {"type": "string", "pattern": "^a+$"}}});
    let pattern = |strict| CallRule { name: "p".into(), schema: Some(pattern.clone()), strict };
    let rules = |strict| OutputRules {
        calls: vec![pattern(strict)],
        mode: CallMode::Required,
        ..OutputRules::default()
    };
    assert!(model.grammars.message(DEMO, PROMPT, &rules(true)).is_ok());
    let functions = function_model();
    assert!(functions.grammars.message(DEMO, PROMPT, &rules(false)).is_ok());
    match functions.grammars.message(DEMO, PROMPT, &rules(true)) {
        Err(TextError::Grammar { part, reason }) => {
            assert_eq!(part, GrammarPart::Call(0));
            assert!(reason.contains("pattern"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}
