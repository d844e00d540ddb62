//! Where a model directory keeps its chat templates.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::DEFAULT;
use crate::TextError;
use crate::special_tokens::{read_json_object, read_optional};

/// Name to Jinja source; empty when the directory has none.
pub(super) fn read(dir: &Path) -> Result<BTreeMap<String, String>, TextError> {
    let mut sources = read_jinja_files(dir)?;
    if !sources.contains_key(DEFAULT) {
        for file in ["chat_template.json", "tokenizer_config.json"] {
            let path = dir.join(file);
            let Some(config) = read_json_object(&path)? else { continue };
            let Some(templates) = config.get("chat_template") else { continue };
            let found = parse_field(templates)
                .map_err(|reason| TextError::Format { path, reason: reason.to_owned() })?;
            for (name, source) in found {
                sources.entry(name).or_insert(source);
            }
        }
    }
    Ok(sources)
}

fn read_jinja_files(dir: &Path) -> Result<BTreeMap<String, String>, TextError> {
    let mut sources = BTreeMap::new();
    if let Some(source) = read_optional(&dir.join("chat_template.jinja"))? {
        sources.insert(DEFAULT.to_owned(), source);
    }
    let folder = dir.join("additional_chat_templates");
    if !folder.is_dir() {
        return Ok(sources);
    }
    let io = |source| TextError::Io { path: folder.clone(), source };
    for entry in folder.read_dir().map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str());
        if let (Some(name), Some("jinja")) = (name, path.extension().and_then(|e| e.to_str())) {
            if let Some(source) = read_optional(&path)? {
                sources.insert(name.to_owned(), source);
            }
        }
    }
    Ok(sources)
}

/// A string, or a list of `{"name": ..., "template": ...}`.
fn parse_field(field: &Value) -> Result<Vec<(String, String)>, &'static str> {
    match field {
        Value::Null => Ok(Vec::new()),
        Value::String(source) => Ok(vec![(DEFAULT.to_owned(), source.clone())]),
        Value::Array(list) => list
            .iter()
            .map(|entry| {
                let text = |key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
                text("name")
                    .zip(text("template"))
                    .ok_or("every entry of chat_template needs a `name` and a `template`")
            })
            .collect(),
        _ => Err("chat_template must be a string or a list of named templates"),
    }
}
