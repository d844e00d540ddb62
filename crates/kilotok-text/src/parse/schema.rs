//! Declared types of tool parameters.

use std::collections::HashMap;
use std::ops::BitOr;

use serde_json::Value;

/// How deep `anyOf`, `$ref` and the like are followed.
const MAX_NESTING: usize = 8;

/// The types a parameter may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TypeSet(u8);

impl TypeSet {
    pub(super) const STRING: Self = Self(1);
    pub(super) const NUMBER: Self = Self(2);
    pub(super) const BOOLEAN: Self = Self(4);
    pub(super) const OBJECT: Self = Self(8);
    pub(super) const ARRAY: Self = Self(16);
    pub(super) const NULL: Self = Self(32);
    /// Nothing is declared.
    pub(super) const ANY: Self = Self(63);
    const NONE: Self = Self(0);

    pub(super) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn named(name: &str) -> Self {
        match name {
            "string" => Self::STRING,
            "number" | "integer" => Self::NUMBER,
            "boolean" => Self::BOOLEAN,
            "object" => Self::OBJECT,
            "array" => Self::ARRAY,
            "null" => Self::NULL,
            _ => Self::ANY,
        }
    }

    fn of_value(value: &Value) -> Self {
        match value {
            Value::String(_) => Self::STRING,
            Value::Number(_) => Self::NUMBER,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Object(_) => Self::OBJECT,
            Value::Array(_) => Self::ARRAY,
            Value::Null => Self::NULL,
        }
    }

    /// The types a JSON schema allows; [`Self::ANY`] when it does not say.
    fn of_schema(schema: &Value, root: &Value, nesting: usize) -> Self {
        if nesting > MAX_NESTING {
            return Self::ANY;
        }
        let union = |types: &mut dyn Iterator<Item = Self>| types.fold(Self::NONE, BitOr::bitor);
        let found = match schema {
            Value::String(name) => Self::named(name),
            Value::Object(schema) => {
                if let Some(kind) = schema.get("type") {
                    match kind {
                        Value::Array(kinds) => union(
                            &mut kinds.iter().map(|k| k.as_str().map_or(Self::ANY, Self::named)),
                        ),
                        kind => kind.as_str().map_or(Self::ANY, Self::named),
                    }
                } else if let Some(Value::Array(values)) = schema.get("enum") {
                    union(&mut values.iter().map(Self::of_value))
                } else if let Some(value) = schema.get("const") {
                    Self::of_value(value)
                } else if let Some(branches) =
                    ["anyOf", "oneOf"].iter().find_map(|key| schema.get(*key)?.as_array())
                {
                    union(&mut branches.iter().map(|b| Self::of_schema(b, root, nesting + 1)))
                } else if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
                    let types = parts.iter().map(|part| Self::of_schema(part, root, nesting + 1));
                    Self(types.fold(Self::ANY.0, |all, types| all & types.0))
                } else if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
                    let target = target.strip_prefix('#').and_then(|path| root.pointer(path));
                    target.map_or(Self::ANY, |to| Self::of_schema(to, root, nesting + 1))
                } else if schema.contains_key("properties") {
                    Self::OBJECT
                } else if schema.contains_key("items") {
                    Self::ARRAY
                } else {
                    Self::ANY
                }
            }
            _ => Self::ANY,
        };
        if found == Self::NONE { Self::ANY } else { found }
    }
}

impl BitOr for TypeSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Parameter types of the tools of a request, by tool and parameter name.
#[derive(Debug, Clone, Default)]
pub struct ToolSchemas(HashMap<String, HashMap<String, TypeSet>>);

impl ToolSchemas {
    /// Reads the tools of a request: `{"type": "function", "function": {"name", "parameters"}}`,
    /// or the inner object alone, with the schema under `parameters`, `input_schema` or
    /// `arguments` (the last may map names to types without a schema around them). What is not
    /// understood leaves its parameters undeclared.
    pub fn from_tools(tools: &[Value]) -> Self {
        let mut all = HashMap::new();
        for tool in tools {
            let tool = tool.get("function").unwrap_or(tool);
            let Some(name) = tool.get("name").and_then(Value::as_str) else { continue };
            let schema =
                ["parameters", "input_schema", "arguments"].iter().find_map(|k| tool.get(*k));
            let Some(schema) = schema else { continue };
            let Some(properties) = schema.get("properties").unwrap_or(schema).as_object() else {
                continue;
            };
            let types = properties
                .iter()
                .map(|(name, property)| (name.clone(), TypeSet::of_schema(property, schema, 0)))
                .collect();
            all.insert(name.to_owned(), types);
        }
        Self(all)
    }

    pub(super) fn types(&self, tool: &str, parameter: &str) -> TypeSet {
        self.0.get(tool).and_then(|p| p.get(parameter)).copied().unwrap_or(TypeSet::ANY)
    }
}
