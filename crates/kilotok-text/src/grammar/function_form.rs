//! Calls of the form `<function=NAME><parameter=ARG>VALUE</parameter></function>`, whose strings
//! are raw text.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::calls::{arguments_schema, wrong};
use super::spec::{json_rule, literal};
use super::{CallRule, GrammarPart};
use crate::TextError;

/// Keywords of a string's schema that raw text can be held to.
const ENFORCED: [&str; 3] = ["type", "enum", "const"];
/// Keywords that ask nothing of a value.
const NOTES: [&str; 9] = [
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
    "$schema",
];
/// Where schemas keep the parts they refer to.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

/// A rule `name` for one call from behind `<tool_call>`, with the rules it needs.
pub(super) fn rule(
    name: &str,
    call: &CallRule,
    index: usize,
    values_on_lines: bool,
    close: &str,
) -> Result<String, TextError> {
    let fail = |reason: String| wrong(GrammarPart::Call(index), reason);
    let fits = |name: &str| {
        !name.is_empty()
            && !name.contains(|c: char| c.is_whitespace() || c.is_control() || "<>".contains(c))
    };
    if !fits(&call.name) {
        return Err(fail(format!("the model cannot write the name {:?}", call.name)));
    }
    let schema = arguments_schema(call, index)?;
    let Value::Object(root) = &schema else { return Err(fail("not an object".into())) };
    if call.strict {
        let known = ["type", "properties", "required", "additionalProperties"];
        let odd = root.keys().find(|key| {
            let key = key.as_str();
            !known.contains(&key) && !NOTES.contains(&key) && !DEFINITIONS.contains(&key)
        });
        if let Some(key) = odd {
            return Err(fail(format!("`{key}` cannot be enforced in this model's form of a call")));
        }
    }
    let empty = Map::new();
    let properties = root.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let required = |name: &str| {
        root.get("required").and_then(Value::as_array).is_some_and(|r| r.iter().any(|n| n == name))
    };
    let (before, after) = if values_on_lines { ("\n", "\n") } else { ("", "") };
    let mut parts = String::new();
    let mut rules = String::new();
    for (number, (parameter, schema)) in properties.iter().enumerate() {
        if !fits(parameter) {
            return Err(fail(format!("the model cannot write the parameter {parameter:?}")));
        }
        let part = format!("{name}_{number}");
        let open = literal(&format!("<parameter={parameter}>{before}"));
        let end = format!("{after}</parameter>");
        let value = value(&part, schema, root, call.strict, &end).map_err(&fail)?;
        let _ = write!(rules, "\n{part}: {open} {part}_value /\\n?/\n{value}");
        let optional = if required(parameter) { "" } else { "?" };
        let _ = write!(parts, " {part}{optional}");
    }
    let head = literal(&format!("<function={}>", call.name));
    Ok(format!("{name}: /\\n?/ {head} /\\n?/{parts} \"</function>\" /\\n?/ {close}{rules}"))
}

/// A rule `{part}_value` for a value and the `end` behind it.
fn value(
    part: &str,
    schema: &Value,
    root: &Map<String, Value>,
    strict: bool,
    end: &str,
) -> Result<String, String> {
    let raw =
        format!("{part}_value[lazy]: /(?s:.*){}/", end.replace('\n', "\\n").replace('/', "\\/"));
    let Value::Object(fields) = schema else { return Ok(raw) };
    let texts = |values: &[Value]| {
        values.iter().map(|v| v.as_str().map(literal)).collect::<Option<Vec<_>>>()
    };
    let is_string = fields.get("type").is_some_and(|kind| kind == "string");
    let choices = match (fields.get("enum"), fields.get("const")) {
        (Some(Value::Array(values)), _) => texts(values),
        (None, Some(value)) => texts(std::slice::from_ref(value)),
        _ => None,
    };
    if let Some(choices) = choices {
        return Ok(format!("{part}_value: ({}) {}", choices.join(" | "), literal(end)));
    }
    if is_string {
        let odd = fields
            .keys()
            .find(|key| !ENFORCED.contains(&key.as_str()) && !NOTES.contains(&key.as_str()));
        return match odd.filter(|_| strict) {
            Some(key) => Err(format!(
                "`{key}` of a string cannot be enforced in this model's form of a call"
            )),
            None => Ok(raw),
        };
    }
    let kinds = match fields.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(kind)) => vec![kind.as_str()],
        _ => Vec::new(),
    };
    // Where a string may stand among others, or anything, the parser takes any text.
    if kinds.is_empty() || kinds.contains(&"string") {
        return Ok(raw);
    }
    let mut whole = fields.clone();
    for key in DEFINITIONS {
        if let Some(definitions) = root.get(key) {
            whole.entry(key).or_insert_with(|| definitions.clone());
        }
    }
    let json = json_rule(&Value::Object(whole))?;
    Ok(format!("{part}_value: {part}_json {}\n{part}_json: {json}", literal(end)))
}
