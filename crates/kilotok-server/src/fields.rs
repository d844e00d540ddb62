//! Fields of a JSON request, read one by one so that every error names the field.

use serde_json::{Map, Value};

use crate::error::ApiError;

type Result<T> = std::result::Result<T, ApiError>;

/// An object of a request. Fields that nobody takes are ignored; `null` is the same as absent.
#[derive(Debug)]
pub(crate) struct Fields {
    map: Map<String, Value>,
    path: String,
}

impl Fields {
    /// Reads a whole body.
    pub(crate) fn parse(body: &[u8], max_depth: usize) -> Result<Self> {
        check_depth(body, max_depth)?;
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self { map, path: String::new() }),
            Ok(_) => Err(ApiError::bad_request("the body is not a JSON object")),
            Err(error) => Err(ApiError::bad_request(format!("the body is not JSON: {error}"))),
        }
    }

    /// An object inside of a request, known there as `path`.
    pub(crate) fn nested(path: impl Into<String>, value: Value) -> Result<Self> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            other => Err(ApiError::invalid(path, found(&other, "an object"))),
        }
    }

    /// The name of a field as the client knows it.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(crate) fn invalid(&self, name: &str, reason: impl std::fmt::Display) -> ApiError {
        ApiError::invalid(self.path(name), reason)
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    pub(crate) fn put(&mut self, name: &str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    pub(crate) fn into_map(self) -> Map<String, Value> {
        self.map
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.invalid(name, found(&other, "a string"))),
        }
    }

    pub(crate) fn bool(&mut self, name: &str) -> Result<Option<bool>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.invalid(name, found(&other, "true or false"))),
        }
    }

    pub(crate) fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(self.invalid(name, found(&other, "a list"))),
        }
    }

    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Fields>> {
        let path = self.path(name);
        self.take(name).map(|value| Fields::nested(path, value)).transpose()
    }

    /// A number within `[low, high]`.
    pub(crate) fn number(&mut self, name: &str, low: f64, high: f64) -> Result<Option<f32>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Some(number) = value.as_f64() else {
            return Err(self.invalid(name, found(&value, "a number")));
        };
        if number.is_finite() && (low..=high).contains(&number) {
            Ok(Some(number as f32))
        } else {
            Err(self.invalid(name, format!("{number} is not within [{low}, {high}]")))
        }
    }

    /// A whole number within `[low, high]`.
    pub(crate) fn integer(&mut self, name: &str, low: i64, high: i64) -> Result<Option<i64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match whole(&value) {
            Some(number) if (low..=high).contains(&number) => Ok(Some(number)),
            Some(number) => {
                Err(self.invalid(name, format!("{number} is not within [{low}, {high}]")))
            }
            None => Err(self.invalid(name, found(&value, "a whole number"))),
        }
    }

    /// Refuses a field unless its value changes nothing.
    pub(crate) fn refuse(
        &mut self,
        name: &str,
        reason: &str,
        harmless: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        match self.take(name) {
            Some(value) if !harmless(&value) => Err(ApiError::unsupported(self.path(name), reason)),
            _ => Ok(()),
        }
    }
}

/// `1.0` is a whole number too: some clients write all numbers as floats.
fn whole(value: &Value) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_i64().or_else(|| {
        let float = value.as_f64()?;
        (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i64)
    })
}

/// `found X, expected Y`, without the value: it may be part of a prompt.
pub(crate) fn found(value: &Value, expected: &str) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    format!("found {kind}, expected {expected}")
}

/// Nesting is counted before parsing, so that depth costs no stack.
fn check_depth(body: &[u8], max_depth: usize) -> Result<()> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in body {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                if depth > max_depth {
                    let message = format!("the body nests deeper than {max_depth} levels");
                    return Err(ApiError::bad_request(message));
                }
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Fields, check_depth};

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        assert!(check_depth(br#"{"a": "[[[[\"[[["}"#, 1).is_ok());
        assert!(check_depth(b"[[[]]]", 3).is_ok());
        assert!(check_depth(b"[[[]]]", 2).is_err());
        assert!(check_depth(b"[][][]", 1).is_ok());
    }

    #[test]
    fn errors_name_the_field() {
        let mut fields = Fields::parse(br#"{"a": 1.5, "b": {"c": "x"}, "d": null}"#, 8).unwrap();
        assert_eq!(fields.integer("a", 0, 9).unwrap_err().param.as_deref(), Some("a"));
        let mut nested = fields.object("b").unwrap().unwrap();
        assert_eq!(nested.bool("c").unwrap_err().param.as_deref(), Some("b.c"));
        assert!(fields.bool("d").unwrap().is_none());
        let mut fields = Fields::parse(br#"{"n": 1e300, "m": 2.0}"#, 8).unwrap();
        assert!(fields.integer("n", 0, i64::MAX).is_err());
        assert_eq!(fields.integer("m", 0, 9).unwrap(), Some(2));
    }
}
