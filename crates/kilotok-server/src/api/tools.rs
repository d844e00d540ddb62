//! The tools of a request, whichever API it came through.

use kilotok_text::{ParserOptions, ToolSchemas};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields::{Fields, found};

type Result<T> = std::result::Result<T, ApiError>;

/// Tools of one request.
const MAX_TOOLS: usize = 512;
/// Bytes of a tool's name.
const MAX_NAME_BYTES: usize = 256;

/// Why a call cannot be forced.
pub(crate) const NOT_FORCED: &str = "answers cannot be constrained, so a call cannot be forced";

/// What a request says of tools.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// In the form that templates expect; `None` without any that may be called.
    pub(crate) list: Option<Vec<Value>>,
    /// Whether an answer may have more than one call.
    pub(crate) parallel: bool,
}

impl Tools {
    /// Checks and keeps tools, unless calls are switched off.
    pub(crate) fn new(list: Vec<Value>, may_call: bool, parallel: bool) -> Self {
        Self { list: (may_call && !list.is_empty()).then_some(list), parallel }
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
        .collect::<Result<Vec<Value>>>()?;
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
        .collect::<Result<Vec<Value>>>()?;
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

fn finish(fields: &mut Fields, list: Vec<Value>) -> Result<Tools> {
    let may_call = match fields.take("tool_choice") {
        None => true,
        Some(Value::String(choice)) if choice == "auto" => true,
        Some(Value::String(choice)) if choice == "none" => false,
        Some(Value::String(choice)) if choice == "required" => {
            return Err(ApiError::unsupported("tool_choice", NOT_FORCED));
        }
        Some(Value::Object(_)) => return Err(ApiError::unsupported("tool_choice", NOT_FORCED)),
        Some(other) => {
            return Err(fields.invalid("tool_choice", found(&other, "\"auto\" or \"none\"")));
        }
    };
    let parallel = fields.bool("parallel_tool_calls")?.unwrap_or(true);
    Ok(Tools::new(list, may_call, parallel))
}

/// One function in the form that templates expect.
pub(crate) fn function_tool(function: &mut Fields, schema: &str) -> Result<Value> {
    let name = function.string("name")?.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| function.invalid("name", "missing, expected a string"))?;
    if name.len() > MAX_NAME_BYTES {
        return Err(function.invalid("name", format!("longer than {MAX_NAME_BYTES} bytes")));
    }
    function.refuse("strict", "answers cannot be constrained", |value| value == &json!(false))?;
    let description = function.string("description")?;
    let parameters = function.object(schema)?.map(Fields::into_map);
    let mut tool = json!({ "name": name });
    if let Some(description) = description {
        tool["description"] = description.into();
    }
    if let Some(parameters) = parameters {
        tool["parameters"] = Value::Object(parameters);
    }
    Ok(json!({ "type": "function", "function": tool }))
}
