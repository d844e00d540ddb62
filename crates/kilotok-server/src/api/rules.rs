//! What a request demands of its output: the fields of OpenAI's API, vLLM's and others that
//! constrain an answer, and which of them is to blame where that is not possible.

use kilotok_text::{CallMode, GrammarPart, GrammarSpec, OutputRules};
use serde_json::Value;

use super::tools::Tools;
use crate::error::ApiError;
use crate::fields::{Fields, found};

type Result<T> = std::result::Result<T, ApiError>;

/// Rules and the fields they came from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    pub(crate) output: OutputRules,
    answer_field: String,
    call_fields: Vec<String>,
    choice_field: &'static str,
    thinking_field: &'static str,
}

impl Rules {
    /// Of an answer that needs no more than this.
    pub(crate) fn new(answer: Option<(String, GrammarSpec)>) -> Self {
        let (answer_field, answer) = answer.unzip();
        Self {
            output: OutputRules { answer, ..OutputRules::default() },
            answer_field: answer_field.unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Adds what the tools of the request demand.
    #[must_use]
    pub(crate) fn with_tools(mut self, tools: &Tools) -> Self {
        self.output.calls.clone_from(&tools.rules);
        self.output.mode = tools.mode;
        self.output.parallel = tools.parallel;
        self.call_fields.clone_from(&tools.fields);
        self.choice_field = if tools.mode == CallMode::Required { "tool_choice" } else { "tools" };
        self
    }

    /// Adds a limit on the thinking.
    #[must_use]
    pub(crate) fn with_budget(mut self, field: &'static str, budget: Option<u32>) -> Self {
        self.output.thinking_budget = budget;
        self.thinking_field = field;
        self
    }

    /// An answer that the client has begun cannot be held to a rule for a whole one.
    pub(crate) fn check_continued(&self, field: &str) -> Result<()> {
        let whole = self.output.answer.is_some() || self.output.mode == CallMode::Required;
        if !whole {
            return Ok(());
        }
        let reason = format!("`{}` is about whole answers", self.field(self.blamed()));
        Err(ApiError::unsupported(field, reason))
    }

    fn blamed(&self) -> GrammarPart {
        if self.output.answer.is_some() { GrammarPart::Answer } else { GrammarPart::Calls }
    }

    fn field(&self, part: GrammarPart) -> String {
        match part {
            GrammarPart::Answer => self.answer_field.clone(),
            GrammarPart::Call(index) => self.call_fields.get(index).cloned().unwrap_or_default(),
            GrammarPart::Calls => self.choice_field.to_owned(),
            GrammarPart::Thinking => self.thinking_field.to_owned(),
        }
    }

    /// A 400 that names the field a rule came from.
    pub(crate) fn refused(&self, part: GrammarPart, reason: &str) -> ApiError {
        ApiError::invalid(self.field(part), reason)
    }
}

/// The rule for the answer, and the field it stands in. There may be one.
pub(crate) fn answer(fields: &mut Fields) -> Result<Option<(String, GrammarSpec)>> {
    let mut rules = Vec::new();
    if let Some(format) = fields.object("response_format")? {
        rules.extend(response_format(format, Some("json_schema"))?);
    }
    if let Some(mut nested) = fields.object("structured_outputs")? {
        nested.refuse("structural_tag", "use `tools` with `strict`", |_| false)?;
        let off = |value: &Value| value == &Value::Bool(false);
        for name in ["disable_any_whitespace", "disable_additional_properties"] {
            nested.refuse(name, "say it in the schema", off)?;
        }
        nested.refuse("whitespace_pattern", "JSON may be laid out freely", |_| false)?;
        if nested.bool("json_object")?.unwrap_or(false) {
            rules.push((nested.path("json_object"), GrammarSpec::JsonObject));
        }
        each(&mut nested, &["json", "regex", "choice", "grammar"], &mut rules)?;
    }
    for name in ["guided_whitespace_pattern", "structural_tag", "ebnf"] {
        fields.refuse(name, "use `guided_grammar` or `structured_outputs`", |_| false)?;
    }
    each(
        fields,
        &[
            "guided_json",
            "guided_regex",
            "guided_choice",
            "guided_grammar",
            "json_schema",
            "regex",
            "grammar",
        ],
        &mut rules,
    )?;
    if let [_, (second, _), ..] = rules.as_slice() {
        let reason = format!("`{}` already says what the answer has to be", rules[0].0);
        return Err(ApiError::invalid(second.as_str(), reason));
    }
    Ok(rules.pop())
}

/// Reads rules whose names say what they are.
fn each(fields: &mut Fields, names: &[&str], rules: &mut Vec<(String, GrammarSpec)>) -> Result<()> {
    for &name in names {
        let path = fields.path(name);
        let spec = match name.trim_start_matches("guided_") {
            "json" | "json_schema" => match fields.take(name) {
                None => continue,
                Some(value) => GrammarSpec::JsonSchema(schema(&path, value)?),
            },
            "choice" => match fields.list(name)? {
                None => continue,
                Some(list) => GrammarSpec::Choice(choices(&path, list)?),
            },
            kind => match fields.string(name)? {
                None => continue,
                Some(text) if text.is_empty() => continue,
                Some(text) if kind == "regex" => GrammarSpec::Regex(text),
                Some(text) => GrammarSpec::Lark(text),
            },
        };
        rules.push((path, spec));
    }
    Ok(())
}

/// `response_format`, and what other APIs have in its place. `wrapper`: where the schema lies in
/// an object of its own.
pub(crate) fn response_format(
    mut format: Fields,
    wrapper: Option<&str>,
) -> Result<Option<(String, GrammarSpec)>> {
    let path = format.path("type");
    match format.string("type")?.as_deref() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some((path, GrammarSpec::JsonObject))),
        Some("json_schema") => {
            let mut holder = match wrapper {
                None => format,
                Some(name) => {
                    let missing = format.invalid(name, "missing, expected an object");
                    format.object(name)?.ok_or(missing)?
                }
            };
            let path = holder.path("schema");
            let value = holder.take("schema");
            let value =
                value.ok_or_else(|| holder.invalid("schema", "missing, expected an object"))?;
            Ok(Some((path.clone(), GrammarSpec::JsonSchema(schema(&path, value)?))))
        }
        _ => Err(format.invalid("type", "expected text, json_object or json_schema")),
    }
}

/// A schema, or one written as text.
fn schema(path: &str, value: Value) -> Result<Value> {
    match value {
        Value::Object(_) | Value::Bool(_) => Ok(value),
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(value @ (Value::Object(_) | Value::Bool(_))) => Ok(value),
            Ok(other) => Err(ApiError::invalid(path, found(&other, "a schema"))),
            Err(error) => Err(ApiError::invalid(path, format!("not JSON: {error}"))),
        },
        other => Err(ApiError::invalid(path, found(&other, "a schema"))),
    }
}

fn choices(path: &str, list: Vec<Value>) -> Result<Vec<String>> {
    list.into_iter()
        .map(|choice| match choice {
            Value::String(text) => Ok(text),
            other => Err(ApiError::invalid(path, found(&other, "a list of strings"))),
        })
        .collect()
}
