//! What a chat template from the internet cannot do, and how a directory's templates are chosen.
#![allow(clippy::unwrap_used, reason = "in tests a panic is a failure")]

mod tiny;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kilotok_text::{ChatTemplate, Clock, RenderLimits, SpecialTokens, TemplateInput, TextError};
use serde_json::{Value, json};
use tiny::TempDir;

fn user(content: &str) -> TemplateInput {
    TemplateInput {
        messages: vec![json!({"role": "user", "content": content})],
        ..TemplateInput::default()
    }
}

fn render(source: &str) -> Result<String, TextError> {
    ChatTemplate::from_source(source)?.render(&user("hi"))
}

#[test]
fn hostile_templates_end_soon_and_small() {
    let hostile = [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99) %}xxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
        "{{ 'x' * 1000000000000 }}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=[0]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
        "{% set ns = namespace(s=[0]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set x = 'a' * 1000000 %}{{ x.replace('a', x) | length }}",
        "{% set x = 'a' * 1000000 %}{{ x.join(x) | length }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for x in [[]] recursive %}{{ loop([x, x]) }}{% endfor %}",
        "{{ range(1000000000000) | list | length }}",
        "{{ 'a' | indent(1000000000000, true) }}",
        "{{ '%1000000000d' | format(1) }}",
    ];
    for source in hostile {
        let started = Instant::now();
        let result = render(source);
        assert!(
            matches!(
                result,
                Err(TextError::TemplateLimit { .. } | TextError::TemplateRender { .. })
            ),
            "{source}: {:?}",
            result.map(|text| text.len())
        );
        assert!(started.elapsed() < Duration::from_secs(20), "{source}: {:?}", started.elapsed());
    }
}

#[test]
fn nothing_outside_the_context_is_reachable() {
    for source in [
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{% extends 'base' %}",
        "{{ open('/etc/passwd') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ self.__init__() }}",
        "{{ 'x'.format_map({}) }}",
    ] {
        assert!(render(source).is_err(), "{source} rendered to {:?}", render(source));
    }
}

#[test]
fn deep_nesting_never_overflows_the_stack() {
    // Nested to the very limits of the source; some are refused, some work, none may crash.
    let fill = |unit: &str, bytes: usize| unit.repeat(bytes / unit.len());
    let units = [
        "(",
        "[",
        "-",
        "not ",
        "1+",
        "x+",
        "1 if 0 else ",
        "1 or ",
        "2**",
        "x|d(",
        "a.",
        "x[",
        "x|d|",
    ];
    for unit in units {
        for bytes in [1000, 16_300] {
            let source = format!("{{{{ {}x }}}}", fill(unit, bytes));
            let (result, started) = (render(&source), Instant::now());
            assert!(!matches!(&result, Err(e) if e.to_string().contains("panicked")), "{unit}");
            assert!(started.elapsed() < Duration::from_secs(10), "{unit}");
        }
    }
    for (start, unit) in [("{% if a %}", "{%elif a%}"), ("", "{% if true %}"), ("", "{%set a%}")] {
        for end in ["", "{% endif %}"] {
            let _ = render(&format!("{start}{}{end}", fill(unit, 262_000)));
        }
    }
    for too_long in [fill("1234567", 263_000), format!("{{{{ {}x }}}}", fill("-", 17_000))] {
        assert!(matches!(render(&too_long), Err(TextError::TemplateSyntax { .. })));
    }
}

#[test]
fn deep_values_never_overflow_the_stack() {
    let nest = |then: &str| {
        "{% set ns = namespace(s=[0], t=[0]) %}{% for i in range(10000) %}{% if i * 1000 >= n %}{% break %}{% endif %}{% for j in range(1000) %}{% set ns.s = [ns.s] %}{% endfor %}{% endfor %}".to_owned() + then
    };
    for then in [
        "",
        "{{ ns.s }}",
        "{{ ns.s | string | length }}",
        "{{ ns.s == [ns.s] }}",
        "{{ ns.s | tojson }}",
        "{{ ns.s | sort }}",
        "{{ [ns.s, ns.s] | unique | list | length }}",
    ] {
        let template = ChatTemplate::from_source(&nest(then)).unwrap();
        for n in [1000, 250_000, 10_000_000] {
            let mut input = user("hi");
            input.kwargs.insert("n".to_owned(), json!(n));
            let result = template.render(&input);
            assert!(!matches!(&result, Err(e) if e.to_string().contains("panicked")), "{then}");
        }
    }
    let deep = (0..1000).fold(json!(1), |inner, _| json!([inner]));
    let mut input = user("hi");
    input.kwargs.insert("deep".to_owned(), deep);
    let template = ChatTemplate::from_source("{{ deep | tojson }}").unwrap();
    assert!(matches!(template.render(&input), Err(TextError::TemplateRender { .. })));
}

#[test]
fn limits_say_which_one_was_exceeded() {
    let sources = BTreeMap::from([(
        "default".to_owned(),
        "{% for i in range(n) %}0123456789{% endfor %}".to_owned(),
    )]);
    let limits = RenderLimits { fuel: 10_000, output_bytes: 1000 };
    let template =
        ChatTemplate::new(&sources, &SpecialTokens::default(), limits, Clock::System).unwrap();
    let with = |n: u64| {
        let mut input = user("hi");
        input.kwargs.insert("n".to_owned(), json!(n));
        template.render(&input)
    };
    assert_eq!(with(100).unwrap().len(), 1000);
    assert!(with(101).unwrap_err().to_string().contains("output limit of 1000 bytes"));
    let spin = "{% for i in range(9000) %}{% if i %}{% endif %}{% endfor %}";
    let sources = BTreeMap::from([("default".to_owned(), spin.to_owned())]);
    let template =
        ChatTemplate::new(&sources, &SpecialTokens::default(), limits, Clock::System).unwrap();
    let error = template.render(&user("hi")).unwrap_err();
    assert!(error.to_string().contains("work limit of 10000 units"), "{error}");
}

#[test]
fn a_long_conversation_fits_the_default_limits() {
    let path = [env!("CARGO_MANIFEST_DIR"), "../../tests/golden/template/mimo_style.jinja"];
    let source = std::fs::read_to_string(path.iter().collect::<std::path::PathBuf>()).unwrap();
    let long = "word ".repeat(4000);
    let turn =
        |i: u32| json!({"role": if i % 2 == 0 { "user" } else { "assistant" }, "content": long});
    let input =
        TemplateInput { messages: (0..400).map(turn).collect(), ..TemplateInput::default() };
    let text = ChatTemplate::from_source(&source).unwrap().render(&input).unwrap();
    assert!(text.len() > 400 * long.len() - 400);
}

#[test]
fn errors_name_template_and_line() {
    let error = render("a\nb\n{% for %}").unwrap_err();
    assert!(matches!(error, TextError::TemplateSyntax { line: 3, .. }), "{error:?}");
    let error = render("a\n{{ messages[0].absent.deeper }}").unwrap_err();
    assert!(matches!(error, TextError::TemplateRender { line: 2, .. }), "{error:?}");
    let raised = render("{% macro m() %}{{ raise_exception('no: ' ~ 1) }}{% endmacro %}{{ m() }}");
    assert!(
        matches!(&raised, Err(TextError::TemplateRaised { message }) if message == "no: 1"),
        "{raised:?}"
    );
}

#[test]
fn line_endings_of_the_source_are_normalised() {
    assert_eq!(render("a\r\n{% if true %}\r\nb\r{% endif %}\r\nc\r\n").unwrap(), "a\nb\nc");
}

#[test]
fn the_template_is_found_where_hugging_face_puts_it() {
    let tokens = SpecialTokens::default();
    let render = |dir: &TempDir, input: &TemplateInput| {
        ChatTemplate::from_dir(dir.path(), &tokens).unwrap().unwrap().render(input)
    };
    let dir = TempDir::new();
    assert!(ChatTemplate::from_dir(dir.path(), &tokens).unwrap().is_none());
    dir.write("tokenizer_config.json", &json!({"chat_template": null}));
    assert!(ChatTemplate::from_dir(dir.path(), &tokens).unwrap().is_none());
    dir.write("tokenizer_config.json", &json!({"chat_template": "one"}));
    assert_eq!(render(&dir, &user("x")).unwrap(), "one");
    let named = json!([{"name": "default", "template": "plain"},
                       {"name": "tool_use", "template": "with tools"},
                       {"name": "rag", "template": "{{ documents | length }}"}]);
    dir.write("tokenizer_config.json", &json!({ "chat_template": named }));
    let mut input = user("x");
    assert_eq!(render(&dir, &input).unwrap(), "plain");
    input.tools = Some(vec![]);
    assert_eq!(render(&dir, &input).unwrap(), "with tools");
    input.template = Some("rag".to_owned());
    input.documents = Some(vec![json!({}), json!({})]);
    assert_eq!(render(&dir, &input).unwrap(), "2");
    input.template = Some("other".to_owned());
    let error = render(&dir, &input).unwrap_err().to_string();
    assert!(error.contains("`other`") && error.contains("default, rag, tool_use"), "{error}");
    dir.write("chat_template.jinja", "from the file");
    assert_eq!(render(&dir, &user("x")).unwrap(), "from the file");
    std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    dir.write("additional_chat_templates/tool_use.jinja", "file with tools");
    input.template = None;
    assert_eq!(render(&dir, &input).unwrap(), "file with tools");
    for wrong in [json!(1), json!([{"name": "x"}])] {
        let dir = TempDir::new();
        dir.write("tokenizer_config.json", &json!({ "chat_template": wrong }));
        let error = ChatTemplate::from_dir(dir.path(), &tokens).unwrap_err().to_string();
        assert!(error.contains("tokenizer_config.json"), "{error}");
    }
}

#[test]
fn a_final_message_can_be_continued() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let template = ChatTemplate::from_source(source).unwrap();
    let mut input = user("say: {");
    input.messages.push(json!({"role": "assistant", "content": " {\"a\": "}));
    input.continue_final_message = true;
    assert_eq!(template.render(&input).unwrap(), "<user>say: {</end><assistant>{\"a\":");
    let kept = ChatTemplate::from_source(&source.replace(" | trim", "")).unwrap();
    assert_eq!(kept.render(&input).unwrap(), "<user>say: {</end><assistant> {\"a\": ");
    input.add_generation_prompt = true;
    assert!(matches!(template.render(&input), Err(TextError::InvalidRequest { .. })));
    input.add_generation_prompt = false;
    input.messages.push(json!({"role": "tool", "content": null}));
    assert!(matches!(template.render(&input), Err(TextError::InvalidRequest { .. })));
    let hidden = ChatTemplate::from_source("nothing of it").unwrap();
    input.messages.pop();
    assert!(matches!(hidden.render(&input), Err(TextError::InvalidRequest { .. })));
}

#[test]
fn impossible_input_is_refused_by_name() {
    let template = ChatTemplate::from_source("{{ messages | length }}").unwrap();
    let refused = |input: &TemplateInput, name: &str| match template.render(input) {
        Err(TextError::InvalidRequest { parameter, .. }) => assert_eq!(parameter, name),
        other => panic!("{other:?}"),
    };
    refused(&TemplateInput::default(), "messages");
    let mut input = user("x");
    input.messages.push(Value::from("not an object"));
    refused(&input, "messages");
    for name in ["messages", "tools", "documents", "add_generation_prompt"] {
        let mut input = user("x");
        input.kwargs.insert(name.to_owned(), json!([]));
        refused(&input, "chat_template_kwargs");
    }
}
