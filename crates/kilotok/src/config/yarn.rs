//! Frequency scaling of rotary embeddings: none, or YaRN.

use super::json::Fields;
use super::limits;
use crate::error::Result;
use crate::spec::YarnSpec;

/// Reads `rope_type` and what belongs to it from `rope_scaling` or `rope_parameters`; `None` where
/// frequencies are not scaled. `rope_theta` and other keys are left to the caller.
///
/// # Errors
/// [`crate::Error::ModelFormat`] for another kind of scaling, or a number that is missing or makes
/// no sense.
pub(super) fn read(object: &mut Fields<'_>) -> Result<Option<YarnSpec>> {
    let kind = object.string("rope_type")?;
    let older = object.string("type")?;
    if let (Some(kind), Some(older)) = (kind, older) {
        if kind != older {
            return Err(object.error("type", format!("{older:?} contradicts rope_type: {kind:?}")));
        }
    }
    match kind.or(older) {
        None | Some("default") => return Ok(None),
        Some("yarn") => {}
        Some(other) => {
            return Err(object.error(
                "rope_type",
                format!("{other:?} is not supported, expected \"default\" or \"yarn\""),
            ));
        }
    }
    let factor = object.positive("factor")?.ok_or_else(|| object.missing("factor"))?;
    let original = "original_max_position_embeddings";
    let original_positions = object.need_int(original, 1..=limits::POSITIONS)?;
    let beta_fast = object.positive("beta_fast")?.unwrap_or(32.0);
    let beta_slow = object.positive("beta_slow")?.unwrap_or(1.0);
    if beta_fast <= beta_slow {
        return Err(
            object.error("beta_fast", format!("{beta_fast} is not above beta_slow: {beta_slow}"))
        );
    }
    let truncate = object.boolean("truncate")?.unwrap_or(true);
    let attention_factor = object.positive("attention_factor")?;
    // Implementations disagree on what these two do to the attention factor (dflash_spec 1.3).
    object.only("mscale", &[])?;
    object.only("mscale_all_dim", &[])?;
    Ok(Some(YarnSpec {
        factor,
        original_positions,
        beta_fast,
        beta_slow,
        truncate,
        attention_factor: attention_factor
            .unwrap_or_else(|| YarnSpec::default_attention_factor(factor)),
    }))
}
