//! The header of a safetensors file, checked before anything is believed.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value};

use super::tensor::{Dtype, num_bytes};
use crate::error::{Error, Result};

/// Largest header, as in the reference implementation.
const MAX_HEADER: u64 = 100_000_000;

/// One tensor as a header describes it.
#[derive(Clone, Debug)]
pub(super) struct HeaderEntry {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Bytes from the start of the file.
    pub(super) range: Range<usize>,
}

/// Reads and checks the header of the file at `path`; tensor data need not be there.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read, [`Error::ModelFormat`] where it is malformed.
pub(super) fn read(path: &Path, label: &str) -> Result<Vec<HeaderEntry>> {
    let io = |error: std::io::Error| Error::Io { path: path.to_owned(), reason: error.to_string() };
    let mut file = File::open(path).map_err(io)?;
    let file_len = file.metadata().map_err(io)?.len();
    let mut prefix = [0_u8; 8];
    file.read_exact(&mut prefix).map_err(|_| {
        Error::model_format(label, format!("{file_len} bytes are too few for a safetensors file"))
    })?;
    let len = u64::from_le_bytes(prefix);
    // Compared with the file before anything is allocated: the length comes from the file itself.
    if len > MAX_HEADER || len > file_len.saturating_sub(8) {
        return Err(Error::model_format(
            label,
            format!(
                "header of {len} bytes in a file of {file_len}: not a safetensors file, or cut"
            ),
        ));
    }
    let mut text = vec![0_u8; len as usize];
    file.read_exact(&mut text).map_err(io)?;
    parse(label, &text)
}

/// Parses header text (without its length prefix).
///
/// # Errors
/// [`Error::ModelFormat`] naming the tensor: unknown fields, sizes that overflow or differ from
/// the offsets, tensors that overlap or leave a hole.
pub(super) fn parse(label: &str, text: &[u8]) -> Result<Vec<HeaderEntry>> {
    let bad = |reason: String| Error::model_format(label, reason);
    let map: Map<String, Value> =
        serde_json::from_slice(text).map_err(|error| bad(format!("header: {error}")))?;
    let data_start = text.len() + 8;
    let mut entries = Vec::with_capacity(map.len());
    for (name, value) in map {
        if name != "__metadata__" {
            entries.push(entry(label, data_start, name, &value)?);
        }
    }
    entries.sort_by(|a, b| {
        (a.range.start, a.range.end, &a.name).cmp(&(b.range.start, b.range.end, &b.name))
    });
    let mut end = data_start;
    for entry in &entries {
        if entry.range.start != end {
            return Err(Error::model_format(
                format!("{label}: {}", entry.name),
                format!(
                    "data starts at byte {} where the tensor before ends at {end}",
                    entry.range.start
                ),
            ));
        }
        end = entry.range.end;
    }
    Ok(entries)
}

fn entry(label: &str, data_start: usize, name: String, value: &Value) -> Result<HeaderEntry> {
    let bad = |reason: &str| Error::model_format(format!("{label}: {name}"), reason.to_owned());
    let object = value.as_object().ok_or_else(|| bad("header entry is not an object"))?;
    if let Some(key) =
        object.keys().find(|key| !["dtype", "shape", "data_offsets"].contains(&key.as_str()))
    {
        return Err(bad(&format!("unknown header field {key:?}")));
    }
    let dtype = object.get("dtype").and_then(Value::as_str).ok_or_else(|| bad("no dtype"))?;
    let dtype = Dtype::from_name(dtype);
    let shape = object.get("shape").and_then(numbers).ok_or_else(|| bad("no valid shape"))?;
    let offsets =
        object.get("data_offsets").and_then(numbers).ok_or_else(|| bad("no valid data_offsets"))?;
    let &[start, end] = offsets.as_slice() else {
        return Err(bad("data_offsets are not a pair"));
    };
    let range = match (data_start.checked_add(start), data_start.checked_add(end)) {
        (Some(start), Some(end)) if start <= end => start..end,
        _ => return Err(bad("data_offsets are not an ascending pair")),
    };
    // A type of unknown size cannot be checked here; no weight is accepted in one.
    let found = end - start;
    let expected = match dtype.size() {
        Some(_) => num_bytes(&dtype, &shape).ok_or_else(|| bad("shape overflows"))?,
        None => found,
    };
    if expected != found {
        return Err(bad(&format!(
            "{dtype} {shape:?} takes {expected} bytes, data_offsets span {found}"
        )));
    }
    Ok(HeaderEntry { name, dtype, shape, range })
}

fn numbers(value: &Value) -> Option<Vec<usize>> {
    let items = value.as_array()?;
    items.iter().map(|v| v.as_u64().and_then(|v| usize::try_from(v).ok())).collect()
}
