//! Which safetensors files make up a checkpoint directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::parse_object;
use crate::error::{Error, Result};

/// Sidecars that are not part of the weight files.
const SIDECARS: [&str; 1] = ["mask_embedding.safetensors"];
const SUFFIX: &str = ".safetensors";
const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// The weight files of a directory.
#[derive(Debug)]
pub(super) struct Shards {
    /// Paths, in name order.
    pub(super) files: Vec<PathBuf>,
    /// Tensor name -> file name, where an index says so.
    pub(super) index: Option<Index>,
}

/// An index file.
#[derive(Debug)]
pub(super) struct Index {
    /// File name of the index.
    pub(super) name: String,
    /// Tensor name -> shard file name.
    pub(super) weight_map: BTreeMap<String, String>,
    /// `metadata.tp_size`: ranks that fused projections were stored for, where the writer says.
    pub(super) tp_size: Option<u64>,
}

/// Finds the weight files of `dir`: those that its index names, or all of them without an index.
///
/// # Errors
/// [`Error::Io`] where the directory cannot be listed, [`Error::ModelFormat`] where there is no
/// weight file, more than one index, or an index that is malformed or leaves the directory.
pub(super) fn find(dir: &Path) -> Result<Shards> {
    let io = |error: std::io::Error| Error::Io { path: dir.to_owned(), reason: error.to_string() };
    let mut names = Vec::new();
    for item in std::fs::read_dir(dir).map_err(io)? {
        if let Ok(name) = item.map_err(io)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    let mut indices: Vec<&String> =
        names.iter().filter(|name| name.ends_with(INDEX_SUFFIX)).collect();
    if indices.len() > 1 {
        let preferred = format!("model{INDEX_SUFFIX}");
        indices.retain(|name| **name == preferred);
        if indices.is_empty() {
            return Err(Error::model_format(
                dir.display().to_string(),
                format!("several files end in {INDEX_SUFFIX} and none is {preferred}"),
            ));
        }
    }
    if let Some(name) = indices.first() {
        let path = dir.join(name);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Error::Io { path, reason: error.to_string() })?;
        let index = parse(name, &text)?;
        let mut files: Vec<&String> = index.weight_map.values().collect();
        files.sort_unstable();
        files.dedup();
        let files = files.into_iter().map(|file| dir.join(file)).collect();
        return Ok(Shards { files, index: Some(index) });
    }
    let files: Vec<PathBuf> = names
        .iter()
        .filter(|name| name.ends_with(SUFFIX) && !SIDECARS.contains(&name.as_str()))
        .map(|name| dir.join(name))
        .collect();
    if files.is_empty() {
        return Err(Error::model_format(
            dir.display().to_string(),
            format!("no file ends in {SUFFIX}"),
        ));
    }
    Ok(Shards { files, index: None })
}

/// Parses an index: `{"metadata": {...}, "weight_map": {tensor: file}}`.
fn parse(name: &str, text: &str) -> Result<Index> {
    let map = parse_object(name, text)?;
    let weight_map = map.get("weight_map").and_then(Value::as_object);
    let weight_map =
        weight_map.ok_or_else(|| Error::model_format(name, "weight_map is not an object"))?;
    let mut out = BTreeMap::new();
    for (tensor, file) in weight_map {
        // A file name, never a path: an index must not reach outside its directory.
        let file = file.as_str().filter(|file| {
            file.ends_with(SUFFIX) && !file.contains(['/', '\\', '\0']) && !file.starts_with('.')
        });
        let file = file.ok_or_else(|| {
            Error::model_format(
                format!("{name}: {tensor}"),
                format!("expected the name of a {SUFFIX} file in the same directory"),
            )
        })?;
        out.insert(tensor.clone(), file.to_owned());
    }
    if out.is_empty() {
        return Err(Error::model_format(name, "weight_map is empty"));
    }
    // Other metadata (total_size, save_format) says nothing that headers do not.
    let tp_size = match map.get("metadata").and_then(|metadata| metadata.get("tp_size")) {
        None | Some(Value::Null) => None,
        Some(value) => Some(value.as_u64().ok_or_else(|| {
            Error::model_format(format!("{name}: metadata.tp_size"), "expected a whole number")
        })?),
    };
    Ok(Index { name: name.to_owned(), weight_map: out, tp_size })
}
