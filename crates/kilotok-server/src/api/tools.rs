//! The tools of a request, whichever API it came through.

use kilotok_text::{CallMode, CallRule, ParserOptions, ToolSchemas};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields::{Fields, found};

type Result<T> = std::result::Result<T, ApiError>;

/// Tools of one request.
const MAX_TOOLS: usize = 512;
/// Bytes of a tool's name.
const MAX_NAME_BYTES: usize = 256;

/// What a request says of tools.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// In the form that templates expect; `None` without any that may be called.
    pub(crate) list: Option<Vec<Value>>,
    /// Whether an answer may have more than one call.
    pub(crate) parallel: bool,
    /// Schemas of the tools that may be called.
    pub(crate) rules: Vec<CallRule>,
    /// How far calls are constrained.
    pub(crate) mode: CallMode,
    /// Where each of `rules` has its schema.
    pub(crate) fields: Vec<String>,
    /// As the client said it.
    pub(crate) choice: Value,
}

/// One tool of a request.
pub(crate) struct Tool {
    /// In the form that templates expect.
    value: Value,
    rule: CallRule,
    field: String,
}

/// What a request says of calling.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Auto,
    None,
    Required,
    Named(String),
}

impl Tools {
    /// Puts tools and the choice among them together. `path`: the choice's field.
    pub(crate) fn new(
        tools: Vec<Tool>,
        choice: &Choice,
        path: &str,
        parallel: bool,
    ) -> Result<Self> {
        let mut all = Self {
            list: None,
            parallel: parallel && !matches!(choice, Choice::Named(_)),
            rules: Vec::new(),
            mode: CallMode::Free,
            fields: Vec::new(),
            choice: choice.as_json(),
        };
        let may_call = |name: &str| match choice {
            Choice::None => false,
            Choice::Auto | Choice::Required => true,
            Choice::Named(named) => named == name,
        };
        let mut list = Vec::new();
        for tool in tools {
            if may_call(&tool.rule.name) {
                all.rules.push(tool.rule);
                all.fields.push(tool.field);
            }
            list.push(tool.value);
        }
        match choice {
            Choice::None => return Ok(all),
            Choice::Required | Choice::Named(_) if all.rules.is_empty() => {
                return Err(ApiError::invalid(path, "there is no such tool in `tools`"));
            }
            Choice::Required | Choice::Named(_) => all.mode = CallMode::Required,
            Choice::Auto if all.rules.iter().any(|rule| rule.strict) => all.mode = CallMode::Strict,
            Choice::Auto => {}
        }
        all.list = (!list.is_empty()).then_some(list);
        Ok(all)
    }

    /// How answers are to be parsed.
    pub(crate) fn parser_options(&self, id: &str) -> ParserOptions {
        ParserOptions {
            tool_calls: self.list.is_some(),
            tools: ToolSchemas::from_tools(self.list.as_deref().unwrap_or_default()),
            call_id_prefix: format!("call_{id}_"),
        }
    }
}

/// Refuses lists that are too long.
pub(crate) fn check_count(fields: &Fields, list: &[Value]) -> Result<()> {
    if list.len() > MAX_TOOLS {
        return Err(fields.invalid("tools", format!("{} tools, at most {MAX_TOOLS}", list.len())));
    }
    Ok(())
}

/// `tools`, `tool_choice` and `parallel_tool_calls` of chat.
pub(crate) fn chat(fields: &mut Fields) -> Result<Tools> {
    let list = fields.list("tools")?.unwrap_or_default();
    check_count(fields, &list)?;
    let list = list
        .into_iter()
        .enumerate()
        .map(|(index, tool)| {
            let mut tool = Fields::nested(format!("tools[{index}]"), tool)?;
            check_kind(&mut tool)?;
            let path = tool.path("function");
            let function = tool.take("function").unwrap_or(Value::Null);
            function_tool(&mut Fields::nested(path, function)?, "parameters")
        })
        .collect::<Result<Vec<Tool>>>()?;
    finish(fields, list)
}

/// The same of responses, where a tool is not wrapped.
pub(crate) fn responses(fields: &mut Fields) -> Result<Tools> {
    let list = fields.list("tools")?.unwrap_or_default();
    check_count(fields, &list)?;
    let list = list
        .into_iter()
        .enumerate()
        .map(|(index, tool)| {
            let mut tool = Fields::nested(format!("tools[{index}]"), tool)?;
            check_kind(&mut tool)?;
            function_tool(&mut tool, "parameters")
        })
        .collect::<Result<Vec<Tool>>>()?;
    finish(fields, list)
}

fn check_kind(tool: &mut Fields) -> Result<()> {
    match tool.string("type")?.as_deref() {
        None | Some("function") => Ok(()),
        Some(_) => {
            let reason = "only functions of the client's own can be called";
            Err(ApiError::unsupported(tool.path("type"), reason))
        }
    }
}

impl Choice {
    fn as_json(&self) -> Value {
        match self {
            Self::Auto => "auto".into(),
            Self::None => "none".into(),
            Self::Required => "required".into(),
            Self::Named(name) => json!({ "type": "function", "name": name }),
        }
    }
}

fn finish(fields: &mut Fields, tools: Vec<Tool>) -> Result<Tools> {
    const NAME: &str = "tool_choice";
    let choice = match fields.take(NAME) {
        None => Choice::Auto,
        Some(Value::String(choice)) => match choice.as_str() {
            "auto" => Choice::Auto,
            "none" => Choice::None,
            "required" => Choice::Required,
            _ => return Err(fields.invalid(NAME, "expected auto, none, required or a function")),
        },
        Some(value @ Value::Object(_)) => named(Fields::nested(fields.path(NAME), value)?)?,
        Some(other) => {
            return Err(fields.invalid(NAME, found(&other, "a string or a function")));
        }
    };
    let parallel = fields.bool("parallel_tool_calls")?.unwrap_or(true);
    Tools::new(tools, &choice, &fields.path(NAME), parallel)
}

/// A function by its name, which chat wraps in an object of its own.
fn named(mut choice: Fields) -> Result<Choice> {
    match choice.string("type")?.as_deref() {
        None | Some("function") => {}
        Some(_) => {
            let reason = "only functions of the client's own can be called";
            return Err(ApiError::unsupported(choice.path("type"), reason));
        }
    }
    let mut holder = choice.object("function")?.unwrap_or(choice);
    let missing = holder.invalid("name", "missing, expected a string");
    holder.string("name")?.map(Choice::Named).ok_or(missing)
}

/// One function in the form that templates expect.
pub(crate) fn function_tool(function: &mut Fields, schema: &str) -> Result<Tool> {
    let name = function.string("name")?.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| function.invalid("name", "missing, expected a string"))?;
    if name.len() > MAX_NAME_BYTES {
        return Err(function.invalid("name", format!("longer than {MAX_NAME_BYTES} bytes")));
    }
    let strict = function.bool("strict")?.unwrap_or(false);
    let description = function.string("description")?;
    let parameters = function.object(schema)?.map(Fields::into_map);
    let rule =
        CallRule { name: name.clone(), schema: parameters.clone().map(Value::Object), strict };
    let mut tool = json!({ "name": name });
    if let Some(description) = description {
        tool["description"] = description.into();
    }
    if let Some(parameters) = parameters {
        tool["parameters"] = Value::Object(parameters);
    }
    let value = json!({ "type": "function", "function": tool });
    Ok(Tool { value, rule, field: function.path(schema) })
}
