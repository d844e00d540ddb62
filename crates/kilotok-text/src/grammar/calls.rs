//! Rules for tool calls in the checkpoint's own form, as text in Lark.

use serde_json::{Value, json};

use super::function_form;
use super::spec::{json_rule, literal};
use super::{CallRule, GrammarPart};
use crate::TextError;

/// The form of a call between its tags.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// `{"name": NAME, "arguments": {...}}`.
    Json,
    /// `<function=NAME>` and raw values.
    Function {
        /// With a newline on both sides of a value.
        values_on_lines: bool,
    },
}

/// How a token of the markup is written in Lark: by its id, or spelled out where the vocabulary
/// has no such token.
pub(super) fn markup(id: Option<u32>, text: &str) -> String {
    id.map_or_else(|| literal(text), |id| format!("<[{id}]>"))
}

pub(super) fn wrong(part: GrammarPart, reason: impl Into<String>) -> TextError {
    TextError::Grammar { part, reason: reason.into() }
}

/// The schema of arguments, which are always an object.
pub(super) fn arguments_schema(rule: &CallRule, index: usize) -> Result<Value, TextError> {
    let mut schema = match &rule.schema {
        None => json!({}),
        Some(Value::Object(map)) => Value::Object(map.clone()),
        Some(_) => return Err(wrong(GrammarPart::Call(index), "the schema is not an object")),
    };
    match schema.get("type") {
        None => schema["type"] = "object".into(),
        Some(kind) if kind == "object" => {}
        Some(_) => return Err(wrong(GrammarPart::Call(index), "arguments are an object")),
    }
    Ok(schema)
}

/// Rules `calls` (one call, or several where `parallel`) and `rest` (one call from behind its
/// opening tag), for `<tool_call>` markup.
pub(super) fn tagged(
    form: Form,
    calls: &[CallRule],
    parallel: bool,
    (open, close): (Option<u32>, Option<u32>),
) -> Result<String, TextError> {
    let (open, close) = (markup(open, "<tool_call>"), markup(close, "</tool_call>"));
    let mut rules = Vec::new();
    let mut names = Vec::new();
    for (index, rule) in calls.iter().enumerate() {
        let name = format!("call_{index}");
        rules.push(if let Form::Function { values_on_lines } = form {
            function_form::rule(&name, rule, index, values_on_lines, &close)?
        } else {
            let schema = arguments_schema(rule, index)?;
            let arguments =
                json_rule(&schema).map_err(|reason| wrong(GrammarPart::Call(index), reason))?;
            let quoted = Value::from(rule.name.as_str());
            let head = literal(&format!("\n{{\"name\": {quoted}, \"arguments\": "));
            format!(
                "{name}: {head} {name}_arguments \"}}\\n\" {close}\n{name}_arguments: {arguments}"
            )
        });
        names.push(name);
    }
    let more = if parallel { format!(" (/\\n?/ {open} rest)*") } else { String::new() };
    Ok(format!("calls: {open} rest{more}\nrest: {}\n{}\n", names.join(" | "), rules.join("\n")))
}
