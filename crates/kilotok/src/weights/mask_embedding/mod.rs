//! The embedding of masked rows that MiMo drafters ship beside their weights.
//!
//! The target's own row of the mask token is near zero, and a drafter fed with it proposes
//! nothing useful (mimo_spec 4.6, row 1). The sidecar is `mask_embedding.pt` (a torch archive,
//! read without executing anything) or `mask_embedding.safetensors`.

mod archive;
mod pickle;
#[cfg(test)]
mod tests;

use std::path::Path;

use super::build::widen;
use super::catalog::{Access, Catalog};
use super::names::MASK_EMBEDDING;
use super::resolve::Storage;
use super::tensor::{Dtype, TensorData, num_bytes};
use crate::error::{Error, Result};
use crate::matrix::Bytes;
use crate::model::Vector;

const PT: &str = "mask_embedding.pt";
const SAFETENSORS: &str = "mask_embedding.safetensors";
/// A vector of the widest model in F32 is 4 MiB; an archive adds about a kilobyte.
const MAX_FILE: u64 = 64 << 20;

/// Reads the sidecar of the drafter in `dir`, or `None` where there is none.
///
/// # Errors
/// [`Error::ModelFormat`] where it holds anything but one vector, or one for another mask token.
pub(super) fn read(dir: &Path, mask_token_id: u32) -> Result<Option<Vector>> {
    let (pt, safetensors) = (dir.join(PT), dir.join(SAFETENSORS));
    match (pt.exists(), safetensors.exists()) {
        (false, false) => Ok(None),
        (true, true) => Err(Error::model_format(PT, format!("{SAFETENSORS} is there as well"))),
        (true, false) => read_pt(&pt, mask_token_id).map(Some),
        (false, true) => read_safetensors(&safetensors).map(Some),
    }
}

/// Takes the one embedding there is: among the drafter's tensors or from the sidecar.
pub(super) fn choose(
    inline: Option<Vector>,
    sidecar: Option<Vector>,
    hidden: usize,
) -> Result<Option<Vector>> {
    let chosen = match (inline, sidecar) {
        (Some(_), Some(_)) => {
            return Err(Error::model_format(
                MASK_EMBEDDING,
                "among the tensors and as a sidecar as well",
            ));
        }
        (one, other) => one.or(other),
    };
    if let Some(vector) = chosen.as_ref().filter(|vector| vector.len() != hidden) {
        return Err(Error::model_format(
            MASK_EMBEDDING,
            format!("{} elements, expected {hidden}", vector.len()),
        ));
    }
    Ok(chosen)
}

/// A vector from a tensor of shape `[hidden]`, `[1, hidden]` or `[1, 1, hidden]`.
pub(super) fn from_tensor(place: &str, tensor: &TensorData) -> Result<Vector> {
    let bad = |reason: String| Error::model_format(place, reason);
    let storage = match tensor.dtype {
        Dtype::F32 => Storage::F32,
        Dtype::Bf16 => Storage::Bf16,
        ref other => return Err(bad(format!("dtype {other}, expected F32 or BF16"))),
    };
    let shape = tensor.shape.as_slice();
    if shape.is_empty() || shape[..shape.len() - 1].iter().any(|&dim| dim != 1) {
        return Err(bad(format!("shape {shape:?}, expected one vector")));
    }
    if num_bytes(&tensor.dtype, shape) != Some(tensor.bytes.len()) {
        return Err(bad(format!("{} bytes for shape {shape:?}", tensor.bytes.len())));
    }
    let values = widen(tensor.bytes.as_slice(), storage);
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(bad(format!("element {at} is {}", values[at]))),
        None => Ok(values),
    }
}

fn read_safetensors(path: &Path) -> Result<Vector> {
    let mut catalog = Catalog::default();
    catalog.add_file(path, SAFETENSORS.to_owned(), Access::Mapped)?;
    let mut tensors = catalog.iter();
    let (Some((name, entry)), None) = (tensors.next(), tensors.next()) else {
        return Err(Error::model_format(SAFETENSORS, "expected exactly one tensor"));
    };
    let tensor = TensorData {
        dtype: entry.dtype.clone(),
        shape: entry.shape.clone(),
        bytes: catalog.bytes(name, entry)?,
    };
    from_tensor(&format!("{SAFETENSORS}: {name}"), &tensor)
}

fn read_pt(path: &Path, mask_token_id: u32) -> Result<Vector> {
    let io = |reason: String| Error::Io { path: path.to_owned(), reason };
    let len = std::fs::metadata(path).map_err(|error| io(error.to_string()))?.len();
    if len > MAX_FILE {
        return Err(Error::model_format(PT, format!("{len} bytes are too many for one vector")));
    }
    let bytes = std::fs::read(path).map_err(|error| io(error.to_string()))?;
    parse_pt(&bytes, mask_token_id)
}

/// Reads a torch archive of a bare tensor or of `{"embedding": tensor, "mask_token_id": int}`.
pub(super) fn parse_pt(bytes: &[u8], mask_token_id: u32) -> Result<Vector> {
    let bad = |reason: String| Error::model_format(PT, reason);
    let files = archive::stored_files(bytes).map_err(bad)?;
    let (root, program) = files
        .iter()
        .find_map(|(name, data)| Some((name.strip_suffix("/data.pkl")?, *data)))
        .ok_or_else(|| bad("no data.pkl: not a torch archive".to_owned()))?;
    let file = |name: &str| files.get(format!("{root}/{name}").as_str()).copied();
    if file("byteorder").is_some_and(|order| order != b"little") {
        return Err(bad("byte order is not little".to_owned()));
    }
    let contents = pickle::read(program).map_err(|reason| bad(format!("data.pkl: {reason}")))?;
    if let Some(found) = contents.mask_token_id.filter(|&id| id != i64::from(mask_token_id)) {
        return Err(bad(format!(
            "mask_token_id {found} differs from {mask_token_id} in the drafter's config.json"
        )));
    }
    let tensor = contents.tensor;
    let data = file(&format!("data/{}", tensor.key))
        .ok_or_else(|| bad(format!("storage data/{} is missing", tensor.key)))?;
    let size = tensor.dtype.size().unwrap_or(1);
    let elements = num_bytes(&tensor.dtype, &tensor.shape);
    let range = tensor
        .offset
        .checked_mul(size)
        .and_then(|start| Some(start..start.checked_add(elements?)?))
        .filter(|range| range.end <= data.len())
        .ok_or_else(|| bad(format!("tensor reaches past its {} stored bytes", data.len())))?;
    let tensor = TensorData {
        dtype: tensor.dtype,
        shape: tensor.shape,
        bytes: Bytes::from_vec(data[range].to_vec()),
    };
    from_tensor(PT, &tensor)
}
