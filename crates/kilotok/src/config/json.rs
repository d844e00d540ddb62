//! A JSON object whose keys must all be accounted for.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Parses a configuration file, tolerating a comma before a closing bracket (one published
/// drafter has one).
///
/// # Errors
/// [`Error::ModelFormat`] where the text is not a JSON object.
pub(crate) fn parse_object(file: &str, text: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str::<Value>(&without_trailing_commas(text)) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Error::model_format(
            file,
            format!("expected a JSON object, found {}", kind_of(&other)),
        )),
        Err(error) => Err(Error::model_format(file, format!("not valid JSON: {error}"))),
    }
}

/// Drops commas outside strings that are followed by `}` or `]`.
fn without_trailing_commas(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut drop = Vec::new();
    let (mut in_string, mut escaped, mut comma) = (false, false, None);
    for (at, &byte) in bytes.iter().enumerate() {
        if in_string {
            match (escaped, byte) {
                (false, b'\\') => escaped = true,
                (false, b'"') => in_string = false,
                _ => escaped = false,
            }
            continue;
        }
        match byte {
            b',' => comma = Some(at),
            b'}' | b']' => drop.extend(comma.take()),
            b' ' | b'\t' | b'\n' | b'\r' => {}
            _ => {
                in_string = byte == b'"';
                comma = None;
            }
        }
    }
    if drop.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for at in drop {
        out.push_str(&text[from..at]);
        from = at + 1;
    }
    out.push_str(&text[from..]);
    Cow::Owned(out)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// How a value looks in an error message: short, whatever it is.
pub(crate) fn shown(value: &Value) -> String {
    let mut text: String = value.to_string().chars().take(80).collect();
    if text.len() >= 80 {
        text.push_str("...");
    }
    text
}

/// Reads an object key by key and remembers what was read, so that [`Fields::finish`] can reject
/// the rest. `null` counts as absent: the hub writes it for "not used".
pub(crate) struct Fields<'a> {
    file: &'a str,
    path: String,
    map: &'a Map<String, Value>,
    read: HashSet<&'a str>,
}

impl<'a> Fields<'a> {
    /// Fields of the top-level object of `file`.
    pub(crate) fn new(file: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { file, path: String::new(), map, read: HashSet::new() }
    }

    /// The file that the object is in.
    pub(crate) fn file(&self) -> &'a str {
        self.file
    }

    /// The error for `key`.
    pub(crate) fn error(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::model_format(format!("{}: {}{key}", self.file, self.path), reason)
    }

    fn unexpected(&self, key: &str, value: &Value, expected: &str) -> Error {
        self.error(key, format!("expected {expected}, found {}", shown(value)))
    }

    /// The value of `key`, marked as read; `None` where absent or null.
    pub(crate) fn value(&mut self, key: &str) -> Option<&'a Value> {
        let (key, value) = self.map.get_key_value(key)?;
        self.read.insert(key);
        (!value.is_null()).then_some(value)
    }

    /// Whether `key` is there with a value other than null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// Whether `key` is there, null or not.
    pub(crate) fn mentions(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// A nested object.
    pub(crate) fn object(&mut self, key: &str) -> Result<Option<Fields<'a>>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields {
                file: self.file,
                path: format!("{}{key}.", self.path),
                map,
                read: HashSet::new(),
            })),
            Some(other) => Err(self.unexpected(key, other, "an object")),
        }
    }

    /// A whole number in `range`, or `None`.
    pub(crate) fn int(
        &mut self,
        key: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<Option<usize>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let found = value.as_u64().and_then(|v| usize::try_from(v).ok());
        match found.filter(|v| range.contains(v)) {
            Some(v) => Ok(Some(v)),
            None => Err(self.unexpected(
                key,
                value,
                &format!("a whole number in {}..={}", range.start(), range.end()),
            )),
        }
    }

    /// A whole number in `range` that must be there.
    pub(crate) fn need_int(
        &mut self,
        key: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize> {
        let found = self.int(key, range)?;
        found.ok_or_else(|| self.missing(key))
    }

    /// A finite number, or `None`.
    pub(crate) fn float(&mut self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_f64().filter(|v| v.is_finite()) {
            Some(v) => Ok(Some(v)),
            None => Err(self.unexpected(key, value, "a finite number")),
        }
    }

    /// A number above zero, or `None`.
    pub(crate) fn positive(&mut self, key: &str) -> Result<Option<f64>> {
        match self.float(key)? {
            Some(v) if !(v > 0.0 && (v as f32) > 0.0 && (v as f32).is_finite()) => {
                Err(self.error(key, format!("expected a number above 0, found {v}")))
            }
            other => Ok(other),
        }
    }

    /// A boolean, or `None`.
    pub(crate) fn boolean(&mut self, key: &str) -> Result<Option<bool>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(other) => Err(self.unexpected(key, other, "true or false")),
        }
    }

    /// A string, or `None`.
    pub(crate) fn string(&mut self, key: &str) -> Result<Option<&'a str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(other) => Err(self.unexpected(key, other, "a string")),
        }
    }

    /// A list, or `None`.
    pub(crate) fn list(&mut self, key: &str) -> Result<Option<&'a [Value]>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(v)) => Ok(Some(v)),
            Some(other) => Err(self.unexpected(key, other, "a list")),
        }
    }

    /// A list whose items all appear in `words`, as indices into it.
    pub(crate) fn words(&mut self, key: &str, words: &[Value]) -> Result<Option<Vec<usize>>> {
        let Some(items) = self.list(key)? else { return Ok(None) };
        let mut found = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let word = words.iter().position(|word| word == item).ok_or_else(|| {
                let known: Vec<_> = words.iter().map(Value::to_string).collect();
                self.error(
                    key,
                    format!("item {at} is {}, expected {}", shown(item), known.join(" or ")),
                )
            })?;
            found.push(word);
        }
        Ok(Some(found))
    }

    /// Token ids: a number or a list of numbers.
    pub(crate) fn token_ids(&mut self, key: &str) -> Result<Vec<u32>> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let items = match value {
            Value::Array(items) => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        items
            .iter()
            .map(|item| {
                item.as_u64()
                    .and_then(|v| u32::try_from(v).ok())
                    .ok_or_else(|| self.unexpected(key, item, "a token id"))
            })
            .collect()
    }

    /// Accepts `key` only with the value `only` (or absent): other values change the arithmetic
    /// in a way that is not implemented.
    pub(crate) fn only(&mut self, key: &str, only: &[Value]) -> Result<()> {
        match self.value(key) {
            Some(value) if !only.contains(value) => {
                let known: Vec<_> = only.iter().map(Value::to_string).collect();
                let known = if known.is_empty() { "null".to_owned() } else { known.join(" or ") };
                Err(self.error(key, format!("{} is not supported, expected {known}", shown(value))))
            }
            _ => Ok(()),
        }
    }

    /// The error for a key that must be there.
    pub(crate) fn missing(&self, key: &str) -> Error {
        self.error(key, "missing, and it has no default that is safe to assume")
    }

    /// Rejects every key that was not read and is not in `ignored` (key, why it is harmless).
    pub(crate) fn finish(self, ignored: &[(&str, &str)]) -> Result<()> {
        for key in self.map.keys() {
            if !self.read.contains(key.as_str()) && !ignored.iter().any(|(name, _)| name == key) {
                return Err(self.error(
                    key,
                    format!(
                        "unknown key with value {}: it may change the arithmetic, so it is not \
                         ignored",
                        shown(&self.map[key])
                    ),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_before_a_bracket_are_dropped_outside_strings_only() {
        let text = r#"{"a": [1, 2,], "b": ",}", "c": "\",]", "d": {"e": 1 , } ,
        }"#;
        let map = parse_object("x.json", text).unwrap();
        assert_eq!(map["a"], serde_json::json!([1, 2]));
        assert_eq!(map["b"], ",}");
        assert_eq!(map["c"], "\",]");
        assert_eq!(map["d"]["e"], 1);
    }

    #[test]
    fn other_json_mistakes_stay_errors() {
        for text in ["{,}", "{\"a\":1,,}", "[1]", "", "{\"a\":NaN}", "{\"a\" 1}"] {
            let result = parse_object("x.json", text);
            // `{,}` loses its comma and is an empty object; every other text is rejected.
            assert_eq!(result.is_ok(), text == "{,}", "{text}");
        }
    }

    #[test]
    fn an_unread_key_is_an_error_that_names_it() {
        let map = parse_object("x.json", r#"{"a": 1, "surprise": 2, "known": 3}"#).unwrap();
        let mut fields = Fields::new("x.json", &map);
        assert_eq!(fields.need_int("a", 0..=9).unwrap(), 1);
        let error = fields.finish(&[("known", "why")]).unwrap_err().to_string();
        assert!(error.contains("x.json: surprise"), "{error}");
    }
}
