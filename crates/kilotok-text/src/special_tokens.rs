//! Special tokens and end-of-sequence ids around a tokenizer.

use std::path::Path;

use serde_json::{Map, Value};

use crate::TextError;

/// Keys of `tokenizer_config.json` whose value is one token.
const SINGLE: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Keys whose value is a list of tokens.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// Named special tokens, as chat templates see them (`bos_token`, `eos_token`, ...).
///
/// Source: `tokenizer_config.json`, completed by `special_tokens_map.json` for names it lacks.
#[derive(Debug, Clone, Default)]
pub struct SpecialTokens {
    map: Map<String, Value>,
}

impl SpecialTokens {
    /// Reads both files; either may be absent.
    ///
    /// # Errors
    /// [`TextError::Io`] or [`TextError::Format`] naming the file.
    pub fn from_dir(dir: &Path) -> Result<Self, TextError> {
        let mut tokens = Self::default();
        for file in ["tokenizer_config.json", "special_tokens_map.json"] {
            if let Some(config) = read_json_object(&dir.join(file))? {
                tokens.complete_from(&config);
            }
        }
        Ok(tokens)
    }

    /// The token of a role such as `eos_token`.
    pub fn get(&self, role: &str) -> Option<&str> {
        self.map.get(role).and_then(Value::as_str)
    }

    /// Roles and tokens, in the form a template context takes.
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.map
    }

    fn complete_from(&mut self, config: &Map<String, Value>) {
        for role in SINGLE {
            if let (Some(token), false) =
                (token_text(config.get(role)), self.map.contains_key(role))
            {
                self.map.insert(role.to_owned(), Value::String(token));
            }
        }
        for role in LISTS {
            if let (Some(Value::Array(list)), false) =
                (config.get(role), self.map.contains_key(role))
            {
                let tokens = list.iter().filter_map(|t| token_text(Some(t))).map(Value::String);
                self.map.insert(role.to_owned(), Value::Array(tokens.collect()));
            }
        }
    }
}

/// A token is written as a string or as an `AddedToken` object with a `content`.
fn token_text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(token) => Some(token.clone()),
        Value::Object(object) => Some(object.get("content")?.as_str()?.to_owned()),
        _ => None,
    }
}

/// End-of-sequence ids a checkpoint declares, ascending: `generation_config.json`, or
/// `config.json` where the former is absent or silent. Needs no tokenizer.
///
/// # Errors
/// [`TextError::Io`] or [`TextError::Format`] naming the file and the value.
pub fn eos_token_ids(dir: &Path) -> Result<Vec<u32>, TextError> {
    for file in ["generation_config.json", "config.json"] {
        let path = dir.join(file);
        let Some(config) = read_json_object(&path)? else { continue };
        let values = match config.get("eos_token_id") {
            None | Some(Value::Null) => continue,
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let mut ids = Vec::with_capacity(values.len());
        for value in values {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                let reason = format!("eos_token_id holds {value}, expected token ids");
                TextError::Format { path: path.clone(), reason }
            })?;
            ids.push(id);
        }
        ids.sort_unstable();
        ids.dedup();
        return Ok(ids);
    }
    Ok(Vec::new())
}

/// Reads a JSON object; `None` if the file does not exist.
pub(crate) fn read_json_object(path: &Path) -> Result<Option<Map<String, Value>>, TextError> {
    let Some(text) = read_optional(path)? else { return Ok(None) };
    let format = |reason| TextError::Format { path: path.to_owned(), reason };
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(format("expected a JSON object at the top".to_owned())),
        Err(error) => Err(format(format!("not JSON: {error}"))),
    }
}

/// Reads a text file; `None` if it does not exist.
pub(crate) fn read_optional(path: &Path) -> Result<Option<String>, TextError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Io { path: path.to_owned(), source }),
    }
}
