//! Names that mean the same tensor.

use super::catalog::{Catalog, Entry};
use crate::error::Result;

/// Prefixes of tensors that a text forward pass never touches: the MTP heads (an alternative
/// drafter) and the encoders of omni checkpoints.
pub(crate) const SKIPPED: &[&str] = &[
    "model.mtp.",
    "visual.",
    "model.visual.",
    "audio_encoder.",
    "model.audio_encoder.",
    "speech_embeddings.",
    "model.speech_embeddings.",
];

/// Name of the embedding of masked rows, where it sits among a drafter's tensors.
pub(crate) const MASK_EMBEDDING: &str = "mask_embedding";

/// Maps the names that `transformers` uses in memory to those of a checkpoint: experts stacked
/// into `gate_up_proj [experts, 2 * inter, hidden]` and `down_proj [experts, hidden, inter]`, and
/// `sinks`. Its `save_pretrained` undoes the same on the way out.
///
/// # Errors
/// [`crate::Error::ModelFormat`] where a tensor comes under both names.
pub(crate) fn unify(catalog: &mut Catalog) -> Result<()> {
    catalog.rewrite(|name, entry| {
        if let Some(prefix) = name.strip_suffix(".self_attn.sinks") {
            return Some(vec![(format!("{prefix}.self_attn.attention_sink_bias"), entry.clone())]);
        }
        let prefix = name.strip_suffix("_proj")?;
        let &[experts, rows, cols] = entry.shape.as_slice() else { return None };
        if let Some(prefix) = prefix.strip_suffix(".experts.gate_up") {
            return unstack(prefix, entry, [experts, rows, cols], &["gate_proj", "up_proj"]);
        }
        let prefix = prefix.strip_suffix(".experts.down")?;
        unstack(prefix, entry, [experts, rows, cols], &["down_proj"])
    })
}

/// One matrix per expert and part. `None` (keep the tensor, which is then unexpected) where the
/// rows do not divide.
fn unstack(
    prefix: &str,
    entry: &Entry,
    [experts, rows, cols]: [usize; 3],
    parts: &[&str],
) -> Option<Vec<(String, Entry)>> {
    // An empty tensor may claim any number of experts.
    if rows % parts.len() != 0 || entry.num_bytes() == 0 {
        return None;
    }
    let part_rows = rows / parts.len();
    // One entry of [experts * rows, cols], cut into pieces of part_rows rows.
    let flat = entry.part(0..experts, vec![experts.checked_mul(rows)?, cols])?;
    let mut out = Vec::new();
    for expert in 0..experts {
        for (at, part) in parts.iter().enumerate() {
            let start = expert * rows + at * part_rows;
            let piece = flat.part(start..start + part_rows, vec![part_rows, cols])?;
            out.push((format!("{prefix}.experts.{expert}.{part}.weight"), piece));
        }
    }
    Some(out)
}

/// Strips the `model.` prefix that some drafter exports carry.
///
/// # Errors
/// [`crate::Error::ModelFormat`] where a tensor comes under both names.
pub(super) fn unify_drafter(catalog: &mut Catalog) -> Result<()> {
    catalog.rewrite(|name, entry| {
        name.strip_prefix("model.").map(|name| vec![(name.to_owned(), entry.clone())])
    })
}
