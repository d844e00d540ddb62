//! A message rendered by a chat template of the family is parsed back to itself.
//!
//! The templates are written for this test in the families' formats.
#![allow(clippy::unwrap_used, reason = "in tests a panic is a failure")]

mod parsing;

use std::path::PathBuf;
use std::sync::Arc;

use kilotok_text::{
    ChatTemplate, Detokenizer, EncodeOptions, Format, ParsedMessage, TagLayout, TemplateInput,
    Tokenizer,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// `<function=...>` calls. `nl`: newlines around the parts of a call; `vl`: around values; `tl` and
/// `al`: in and after the thinking.
fn function_template(nl: &str, vl: &str, tl: &str, al: &str) -> String {
    let source = r"{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.reasoning_content is defined %}{{- '<think>TL' + message.reasoning_content + 'TL</think>AL' -}}{% endif -%}
{{- message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- 'NL<tool_call>NL<function=' + call.function.name + '>NL' -}}
{%- for name, value in call.function.arguments | items -%}
{{- '<parameter=' + name + '>VL' -}}
{{- (value | tojson) if value is mapping or (value is sequence and value is not string) else (value | string) -}}
{{- 'VL</parameter>NL' -}}
{%- endfor -%}
{{- '</function>NL</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' -}}{% endif -%}";
    source.replace("NL", nl).replace("VL", vl).replace("TL", tl).replace("AL", al)
}

/// JSON calls on lines of their own, as the demo checkpoint's training text has them.
const JSON_CALLS: &str = r#"{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.reasoning_content is defined %}{{- '<think>\n' + message.reasoning_content + '\n</think>\n' -}}{% endif -%}
{{- message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- '\n' if message.content or not loop.first -}}
{{- '<tool_call>\n{"name": ' + (call.function.name | tojson) + ', "arguments": ' + (call.function.arguments | tojson) + '}\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' -}}{% endif -%}"#;

const HARMONY: &str = r"{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{%- if message.reasoning_content is defined %}{{- '<|start|>assistant<|channel|>analysis<|message|>' + message.reasoning_content + '<|end|>' -}}{% endif -%}
{%- if message.content and message.tool_calls %}{{- '<|start|>assistant<|channel|>commentary<|message|>' + message.content + '<|end|>' -}}
{%- elif message.content %}{{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|return|>' -}}{% endif -%}
{%- for call in message.tool_calls or [] -%}
{{- '<|start|>assistant<|channel|>commentary to=functions.' + call.function.name + ' <|constrain|>json<|message|>' + (call.function.arguments | tojson) + '<|call|>' -}}
{%- endfor -%}
{%- else -%}
{{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|start|>assistant' -}}{% endif -%}";

fn families() -> Vec<(Format, String)> {
    vec![
        (Format::Tagged(TagLayout::BARE), function_template(r"\n", "", "", "")),
        (Format::Tagged(TagLayout::BARE), function_template("", "", "", "")),
        (Format::Tagged(parsing::QWEN_CODER), function_template(r"\n", r"\n", r"\n", r"\n\n")),
        (Format::Tagged(TagLayout::LINES), JSON_CALLS.to_owned()),
        (Format::Harmony, HARMONY.to_owned()),
    ]
}

fn text() -> impl Strategy<Value = String> {
    "[ \n]{0,2}[a-z<>/|\"\\\\{}é🙂]{1,12}[a-z<> \n]{0,12}"
}

/// Few digits: serde_json reads long ones with an error in the last place.
fn float() -> impl Strategy<Value = Value> {
    any::<i32>().prop_map(|n| Value::from(f64::from(n) / 64.0))
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        float(),
        "[a-z\"\\\\\n<>}é]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec(("[a-z]{1,3}", inner), 0..3)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Values by the type that `parsing::tools` declares; `x` is undeclared.
fn arguments() -> impl Strategy<Value = Value> {
    let object = prop::collection::vec(("[a-z]{1,3}", json_value()), 0..3)
        .prop_map(|pairs| Value::Object(pairs.into_iter().collect()));
    let argument = prop_oneof![
        (Just("s"), "[a-z0-9<>/\"\\\\{}\\[\\] \n\té]{0,20}".prop_map(Value::from)),
        (
            Just("s"),
            prop::sample::select(vec!["12", "null", "True", "{}", "</parameter>", "\n"])
                .prop_map(Value::from)
        ),
        (Just("n"), float()),
        (Just("i"), any::<i64>().prop_map(Value::from)),
        (Just("b"), any::<bool>().prop_map(Value::from)),
        (Just("o"), object),
        (Just("a"), prop::collection::vec(json_value(), 0..3).prop_map(Value::from)),
        (Just("sn"), prop_oneof![Just(Value::Null), "[a-z]{5,8}".prop_map(Value::from)]),
        (
            Just("x"),
            prop_oneof![
                json_value().prop_filter("no string", |v| !v.is_string()),
                "[a-z]{6} [0-9]".prop_map(Value::from)
            ]
        ),
    ];
    prop::collection::vec(argument, 0..4).prop_map(|pairs| {
        Value::Object(pairs.into_iter().map(|(k, v)| (k.to_string(), v)).collect::<Map<_, _>>())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn parse_undoes_render(
        reasoning in prop::option::of(text()), content in prop::option::of(text()),
        calls in prop::collection::vec(("f|get_2-x", arguments()), 0..3),
    ) {
        let content = content.unwrap_or_default();
        for (format, source) in families() {
            let template = ChatTemplate::from_source(&source).unwrap();
            prop_assert_eq!(Format::of_checkpoint(Some(&template), None), format);
            let render = |messages: Vec<Value>, add_generation_prompt| {
                let input = TemplateInput { messages, add_generation_prompt, ..TemplateInput::default() };
                template.render(&input).unwrap()
            };
            let user = json!({"role": "user", "content": "<think>Hi"});
            let mut assistant = json!({"role": "assistant", "content": content});
            if let Some(reasoning) = &reasoning {
                assistant["reasoning_content"] = reasoning.as_str().into();
            }
            let as_call = |(name, arguments): &(String, Value)| json!({"function": {"name": name, "arguments": arguments}});
            assistant["tool_calls"] = calls.iter().map(as_call).collect();
            let prompt = render(vec![user.clone()], true);
            let whole = render(vec![user, assistant], false);
            // Behind the prompt begins the output; the token that ends the turn is left out.
            let Some(output) = whole.strip_prefix(&prompt) else {
                prop_assert!(content.is_empty() && calls.is_empty() && reasoning.is_none());
                continue;
            };
            let output = output.trim_end_matches("<|im_end|>\n").trim_end_matches("<|im_end|>");

            let message = parsing::parse(format, &prompt, output);
            prop_assert_eq!(&message.reasoning, reasoning.as_deref().unwrap_or(""), "{}", output);
            prop_assert_eq!(&message.content, &content, "{}", output);
            prop_assert_eq!(parsing::calls(&message), calls.clone(), "{}", output);
        }
    }
}

#[test]
fn the_demo_checkpoint_gets_its_own_format() {
    let dir: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "../../python/kilotok/demo/checkpoint"].iter().collect();
    let tokenizer = Tokenizer::from_dir(&dir).unwrap().unwrap();
    let template = ChatTemplate::from_dir(&dir, tokenizer.special_tokens()).unwrap().unwrap();
    let format = Format::of_checkpoint(Some(&template), Some(&tokenizer));
    assert_eq!(format, Format::Tagged(TagLayout::LINES));
    assert!(format.needs_special_tokens());
    let input = TemplateInput {
        messages: vec![json!({"role": "user", "content": "Weather in Oslo, in celsius?"})],
        add_generation_prompt: true,
        ..TemplateInput::default()
    };
    let prompt = template.render(&input).unwrap();
    // As `training/demo/synthetic.py` writes them.
    let call = "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\", \"unit\": \"celsius\"}}\n</tool_call>";
    let message = parsing::parse(format, &prompt, call);
    let arguments = json!({"city": "Oslo", "unit": "celsius"});
    assert_eq!(parsing::calls(&message), [("get_weather".to_owned(), arguments)]);
    assert_eq!(message.content, "");
    // Token by token, as it is generated: special tokens must be kept.
    let options = EncodeOptions { add_special_tokens: false, parse_special: true };
    let ids = tokenizer.encode(call, options).unwrap();
    let mut detokenizer = Detokenizer::new(Arc::new(tokenizer), !format.needs_special_tokens());
    let mut parser = format.parser(&prompt, parsing::options());
    let mut streamed = ParsedMessage::default();
    for id in ids {
        streamed.extend(parser.push(&detokenizer.push(id).unwrap()));
    }
    streamed.extend(parser.finish());
    assert_eq!(streamed, message);

    let sum = "<think>\n2 * 3 = 6\n1 + 6 = 7\n</think>\nThe answer is 7.";
    let message = parsing::parse(format, &prompt, sum);
    assert_eq!(message.reasoning, "2 * 3 = 6\n1 + 6 = 7");
    assert_eq!(message.content, "The answer is 7.");
}

#[test]
fn formats_are_found_by_template_then_by_tokens() {
    let none = |_: &str| false;
    let only = |wanted: &'static [&'static str]| move |token: &str| wanted.contains(&token);
    assert_eq!(Format::detect("", none), Format::Plain);
    assert_eq!(
        Format::detect("{{ messages }}", only(&["<think>"])),
        Format::Tagged(TagLayout::LINES)
    );
    assert_eq!(Format::detect("", only(&["<|channel|>", "<|message|>"])), Format::Harmony);
    assert_eq!(Format::detect("{{ '<think></think>' }}", none), Format::Tagged(TagLayout::BARE));
    let lines = "<parameter=a>\nvalue\n</parameter>'<think>\\n' '</think>\\n\\n'";
    assert_eq!(Format::detect(lines, none), Format::Tagged(parsing::QWEN_CODER));
    let message = parsing::parse(Format::Plain, "", "<think>x</think>");
    assert_eq!(message.content, "<think>x</think>");
}
