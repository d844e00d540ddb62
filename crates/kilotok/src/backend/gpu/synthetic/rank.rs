//! What one of several GPUs holds of a model that is split by tensor parallelism.

use crate::error::{Error, Result};
use crate::spec::{MlpSpec, ModelSpec, QkvLayout};

/// One rank's exact share: heads, inner widths and vocabulary divided by `ranks`, for the drafter
/// too; routers, norms and the width of the residual stay whole. The sums over ranks are no part.
///
/// # Errors
/// [`Error::InvalidRequest`] naming what `ranks` does not divide.
pub(in crate::backend::gpu) fn share(mut spec: ModelSpec, ranks: usize) -> Result<ModelSpec> {
    let divide = |what: &str, value: &mut usize| {
        if ranks == 0 || *value % ranks != 0 {
            let reason = format!("{ranks} ranks do not divide {what} of {}: {value}", spec.family);
            return Err(Error::invalid("rank_of", reason));
        }
        *value /= ranks;
        Ok(())
    };
    divide("the vocabulary", &mut spec.vocab)?;
    for layer in &mut spec.layers {
        let attention = &mut layer.attention;
        divide("the query heads", &mut attention.heads)?;
        divide("the key/value heads", &mut attention.kv_heads)?;
        // A rank's heads are stored as one piece where a whole model's are several.
        if let QkvLayout::Fused { chunks } = &mut attention.layout {
            *chunks = (*chunks / ranks).max(1);
        }
        match &mut layer.mlp {
            MlpSpec::Dense { inter } => divide("the inner width", inter)?,
            MlpSpec::Moe(moe) => divide("the experts' inner width", &mut moe.inter)?,
        }
    }
    if let Some(drafter) = &mut spec.drafter {
        divide("the drafter's query heads", &mut drafter.heads)?;
        divide("the drafter's key/value heads", &mut drafter.kv_heads)?;
        divide("the drafter's inner width", &mut drafter.inter)?;
        drafter.mask_token_id %= spec.vocab.max(1) as u32;
    }
    Ok(spec)
}
