//! Names that mean the same tensor.

mod original;
mod stacked;

use super::catalog::Catalog;
use crate::config::Announced;
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

/// Maps other names to those of the table: the ones of the original gpt-oss release, those that
/// `transformers` uses in memory, and tensors that hold all experts of a layer.
///
/// # Errors
/// [`crate::Error::ModelFormat`] where a tensor comes under both names.
pub(crate) fn unify(catalog: &mut Catalog, announced: &Announced) -> Result<()> {
    catalog.rewrite(|name, entry| original::rename(name, entry, &announced.spec))?;
    catalog.rewrite(|name, entry| {
        if let Some(prefix) = name.strip_suffix(".self_attn.sinks") {
            return Some(vec![(format!("{prefix}.self_attn.attention_sink_bias"), entry.clone())]);
        }
        if let Some((prefix, part)) = name.rsplit_once(".mlp.router.") {
            return Some(vec![(format!("{prefix}.mlp.gate.{part}"), entry.clone())]);
        }
        stacked::unstack(name, entry, announced)
    })
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
