//! The two spellings of a MiMo-V2 configuration: the hub's and the one `transformers` writes.
//!
//! The hub says `hybrid_layer_pattern`, `moe_layer_freq`, `layernorm_epsilon`, `swa_*`;
//! `transformers` says `layer_types`, `mlp_layer_types`, `rms_norm_eps`, `rope_parameters` per
//! layer type. A file may carry both (a hub file saved again); then both must say the same.

use serde_json::{Value, json};

use super::json::Fields;
use super::limits;
use crate::error::Result;
use crate::spec::RopeSpec;

/// What each layer is.
pub(super) struct Pattern {
    /// Sliding-window attention (otherwise full).
    pub(super) sliding: Vec<bool>,
    /// Mixture of experts (otherwise dense).
    pub(super) sparse: Vec<bool>,
}

/// Merges values found under several keys: the first wins, another one must be equal.
pub(super) fn agree<T: PartialEq + std::fmt::Debug>(
    fields: &Fields<'_>,
    found: Vec<(String, T)>,
) -> Result<Option<T>> {
    let mut found = found.into_iter();
    let Some((first_key, first)) = found.next() else { return Ok(None) };
    for (key, value) in found {
        if value != first {
            return Err(fields.error(&key, format!("{value:?} contradicts {first_key}: {first:?}")));
        }
    }
    Ok(Some(first))
}

fn layer_list(
    fields: &mut Fields<'_>,
    hub: &str,
    hub_words: &[Value],
    hf: &str,
    hf_words: &[Value],
    layers: usize,
) -> Result<Vec<bool>> {
    let mut found = Vec::new();
    for (key, words) in [(hub, hub_words), (hf, hf_words)] {
        if let Some(list) = fields.words(key, words)? {
            if list.len() != layers {
                return Err(fields
                    .error(key, format!("{} items for num_hidden_layers = {layers}", list.len())));
            }
            found.push((key.to_owned(), list.into_iter().map(|word| word == 1).collect()));
        }
    }
    agree(fields, found)?.ok_or_else(|| fields.missing(hub))
}

/// Which layers slide and which are sparse.
pub(super) fn pattern(fields: &mut Fields<'_>, layers: usize) -> Result<Pattern> {
    let sliding = layer_list(
        fields,
        "hybrid_layer_pattern",
        &[json!(0), json!(1)],
        "layer_types",
        &[json!("full_attention"), json!("sliding_attention")],
        layers,
    )?;
    let sparse = layer_list(
        fields,
        "moe_layer_freq",
        &[json!(0), json!(1)],
        "mlp_layer_types",
        &[json!("dense"), json!("sparse")],
        layers,
    )?;
    Ok(Pattern { sliding, sparse })
}

/// Epsilon of the norms.
pub(super) fn norm_eps(fields: &mut Fields<'_>) -> Result<f32> {
    let mut found = Vec::new();
    for key in ["layernorm_epsilon", "rms_norm_eps"] {
        if let Some(eps) = fields.positive(key)? {
            found.push((key.to_owned(), eps));
        }
    }
    let eps = agree(fields, found)?.ok_or_else(|| fields.missing("layernorm_epsilon"))?;
    Ok(eps as f32)
}

/// Number of visible keys of a sliding layer, the query's own included; `None` where unsaid.
///
/// Hub: `sliding_window = 128` means 128 keys (mimo_spec 2.4). `transformers` masks
/// `key > query - sliding_window`, the same reading, but since 5.23 turns the hub's 128 into 129
/// when it loads one; a file it wrote (`layer_types`) therefore speaks for itself, and the hub
/// key it may still carry is one less.
pub(super) fn window(fields: &mut Fields<'_>) -> Result<Option<usize>> {
    let written_by_transformers = fields.has("layer_types");
    let window = fields.int("sliding_window", 1..=limits::POSITIONS)?;
    let size = fields.int("sliding_window_size", 1..=limits::POSITIONS)?;
    if let (Some(window), Some(size)) = (window, size) {
        let one_less = written_by_transformers && size + 1 == window;
        if size != window && !one_less {
            return Err(fields.error(
                "sliding_window_size",
                format!("{size} contradicts sliding_window: {window}"),
            ));
        }
    }
    let resolved = window.or(size);
    // A leftover of chunked attention that no implementation reads; equal in every release.
    if let Some(chunk) = fields.int("attention_chunk_size", 1..=limits::POSITIONS)? {
        if resolved.is_some() && Some(chunk) != resolved && Some(chunk) != size {
            return Err(fields.error(
                "attention_chunk_size",
                format!("{chunk} differs from the sliding window"),
            ));
        }
    }
    Ok(resolved)
}

/// Everything said about rotary embeddings, before head dimensions are known.
#[derive(Default)]
pub(super) struct Rotary {
    theta: [Vec<(String, f64)>; 2],
    partial: [Vec<(String, f64)>; 2],
}

/// Collects the rotary keys of either spelling; index 0 is full attention, 1 sliding.
pub(super) fn rotary(fields: &mut Fields<'_>) -> Result<Rotary> {
    let mut out = Rotary::default();
    // Frequency scaling (YaRN and others) is not implemented: only "none" is accepted.
    fields.only("rope_scaling", &[])?;
    if let Some(mut nested) = fields.object("rope_parameters")? {
        let per_type = [nested.object("full_attention")?, nested.object("sliding_attention")?];
        for (kind, object) in per_type.into_iter().enumerate() {
            if let Some(mut object) = object {
                rope_object(&mut object, "rope_parameters", &[kind], &mut out)?;
                object.finish(&[])?;
            }
        }
        // One object for all layers describes the full-attention ones; swa_rope_theta the others.
        let before = out.theta[1].len();
        rope_object(&mut nested, "rope_parameters", &[0, 1], &mut out)?;
        out.theta[1].truncate(before);
        nested.finish(&[])?;
    }
    if let Some(theta) = fields.positive("rope_theta")? {
        out.theta[0].push(("rope_theta".to_owned(), theta));
    }
    if let Some(theta) = fields.positive("swa_rope_theta")? {
        out.theta[1].push(("swa_rope_theta".to_owned(), theta));
    }
    if let Some(partial) = fields.positive("partial_rotary_factor")? {
        for list in &mut out.partial {
            list.push(("partial_rotary_factor".to_owned(), partial));
        }
    }
    Ok(out)
}

fn rope_object(
    object: &mut Fields<'_>,
    name: &str,
    kinds: &[usize],
    out: &mut Rotary,
) -> Result<()> {
    object.only("rope_type", &[json!("default")])?;
    object.only("type", &[json!("default")])?;
    let theta = object.positive("rope_theta")?;
    let partial = object.positive("partial_rotary_factor")?;
    for &kind in kinds {
        out.theta[kind].extend(theta.map(|v| (format!("{name}.rope_theta"), v)));
        out.partial[kind].extend(partial.map(|v| (format!("{name}.partial_rotary_factor"), v)));
    }
    Ok(())
}

impl Rotary {
    /// The rotary embedding of one layer kind on heads of `head_dim` dimensions.
    pub(super) fn resolve(
        &self,
        fields: &Fields<'_>,
        sliding: bool,
        head_dim: usize,
    ) -> Result<RopeSpec> {
        let kind = usize::from(sliding);
        let key = if sliding { "swa_rope_theta" } else { "rope_theta" };
        let theta = agree(fields, self.theta[kind].clone())?.ok_or_else(|| fields.missing(key))?;
        let partial = agree(fields, self.partial[kind].clone())?
            .ok_or_else(|| fields.missing("partial_rotary_factor"))?;
        let dims = rotary_dims(fields, "partial_rotary_factor", partial, head_dim)?;
        Ok(RopeSpec::plain(dims, theta))
    }
}

/// `int(head_dim * partial)`, which must be even and within the head.
pub(super) fn rotary_dims(
    fields: &Fields<'_>,
    key: &str,
    partial: f64,
    head_dim: usize,
) -> Result<usize> {
    let dims = (head_dim as f64 * partial) as usize;
    if dims == 0 || dims % 2 != 0 || dims > head_dim {
        return Err(fields.error(
            key,
            format!(
                "{partial} of {head_dim} head dimensions rotates {dims}, expected an even number \
                 in 2..={head_dim}"
            ),
        ));
    }
    Ok(dims)
}
