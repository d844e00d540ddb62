//! `gpt_oss` configurations (gpt-oss-20b, gpt-oss-120b): the hub's spelling, the one
//! `transformers` writes, and that of the original release, which has no `model_type`.

use serde_json::json;

use super::json::Fields;
use super::quantization::{self, Quantization};
use super::{limits, spelling, yarn};
use crate::error::Result;
use crate::spec::{
    Activation, AttentionSpec, LayerSpec, MlpSpec, ModelSpec, MoeSpec, QkvLayout, RopeSpec,
    RouterKind, YarnSpec,
};

/// The model type this reader understands.
pub(super) const MODEL_TYPE: &str = "gpt_oss";

/// Keys that cannot change the logits, each with the reason.
const IGNORED: &[(&str, &str)] = &[
    ("architectures", "a class name; model_type decides"),
    ("transformers_version", "who wrote the file"),
    ("torch_dtype", "every tensor's own header says how it is stored"),
    ("dtype", "every tensor's own header says how it is stored"),
    ("initializer_range", "training only"),
    ("attention_dropout", "training only"),
    ("output_router_logits", "training only"),
    ("router_aux_loss_coef", "training only"),
    ("use_cache", "a generation loop's choice"),
    ("bos_token_id", "nothing is prepended to a prompt"),
    ("pad_token_id", "rows are never padded"),
    ("name_or_path", "where the file came from"),
    ("_name_or_path", "where the file came from"),
];

/// What the published code uses where a configuration does not say.
const ALPHA: f64 = 1.702;
const LIMIT: f64 = 7.0;
const ORIGINAL_EPS: f64 = 1e-5;

/// Whether a configuration without `model_type` is one of the original release.
pub(super) fn is_original(fields: &Fields<'_>) -> bool {
    ["num_experts", "experts_per_token", "rope_ntk_alpha"].iter().all(|key| fields.has(key))
}

/// Reads the configuration of a target model; the drafter is not part of it.
///
/// # Errors
/// [`crate::Error::ModelFormat`] naming the key that is missing, contradictory, unsupported or
/// unknown.
pub(super) fn read(mut fields: Fields<'_>) -> Result<(ModelSpec, Quantization)> {
    let f = &mut fields;
    let original = f.string("model_type")?.is_none();
    let layers = f.need_int("num_hidden_layers", 1..=limits::LAYERS)?;
    let hidden = f.need_int("hidden_size", 1..=limits::HIDDEN)?;
    let vocab = f.need_int("vocab_size", 1..=limits::VOCAB)?;
    f.only("hidden_act", &[json!("silu")])?;
    f.only("mlp_bias", &[json!(true)])?;
    let eps = f.positive("rms_norm_eps")?.or(original.then_some(ORIGINAL_EPS));
    let norm_eps = eps.ok_or_else(|| f.missing("rms_norm_eps"))? as f32;
    let (rope, stretched) = rope(f)?;
    let max_positions = f.int("max_position_embeddings", 1..=limits::POSITIONS)?;
    let max_positions = max_positions.or(stretched);
    let max_positions = max_positions.ok_or_else(|| f.missing("max_position_embeddings"))?;
    let attention = attention(f, rope)?;
    let sliding = sliding(f, layers)?;
    let window = f.int("sliding_window", 1..=limits::POSITIONS)?;
    if window.is_none() && sliding.contains(&true) {
        return Err(f.missing("sliding_window"));
    }
    let moe = MlpSpec::Moe(moe(f)?);
    let spec = ModelSpec {
        family: MODEL_TYPE.to_owned(),
        hidden,
        vocab,
        norm_eps,
        max_positions,
        tied_head: f.boolean("tie_word_embeddings")?.unwrap_or(false),
        layers: sliding
            .into_iter()
            .map(|slides| LayerSpec {
                // `key > query - sliding_window`: the number counts the query.
                attention: AttentionSpec { window: window.filter(|_| slides), ..attention.clone() },
                mlp: moe.clone(),
            })
            .collect(),
        drafter: None,
        eos_token_ids: f.token_ids("eos_token_id")?,
    };
    let mut quantization = quantization::read(f)?;
    quantization.interleaved = true;
    // The original release says it in another file.
    quantization.mxfp4 |= original;
    fields.finish(IGNORED)?;
    Ok((spec, quantization))
}

/// A number under either of two keys, which must agree.
fn either(f: &mut Fields<'_>, key: &str, alias: &str, max: usize) -> Result<usize> {
    match (f.int(key, 1..=max)?, f.int(alias, 1..=max)?) {
        (Some(found), Some(other)) if found != other => {
            Err(f.error(alias, format!("{other} contradicts {key}: {found}")))
        }
        (found, other) => found.or(other).ok_or_else(|| f.missing(key)),
    }
}

/// Rotary embedding, and the number of positions it is stretched to where that is all that is
/// said. Scaling must be spelled out: implementations default to different ones.
fn rope(f: &mut Fields<'_>) -> Result<(RopeSpec, Option<usize>)> {
    let mut theta = f.positive("rope_theta")?;
    let mut found: Vec<(String, Option<YarnSpec>)> = Vec::new();
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(mut object) = f.object(key)? else { continue };
        found.push((key.to_owned(), yarn::read(&mut object)?));
        if let Some(inner) = object.positive("rope_theta")? {
            if theta.is_some_and(|outer| outer != inner) {
                return Err(object.error("rope_theta", format!("{inner} contradicts {theta:?}")));
            }
            theta = Some(inner);
        }
        object.finish(&[])?;
    }
    let initial = f.int("initial_context_length", 1..=limits::POSITIONS)?;
    let mut stretched = None;
    if let Some(factor) = f.positive("rope_scaling_factor")? {
        let missing = |key: &str| f.missing(key);
        let original_positions = initial.ok_or_else(|| missing("initial_context_length"))?;
        let beta_slow = f.positive("rope_ntk_alpha")?;
        let beta_fast = f.positive("rope_ntk_beta")?;
        stretched = Some((original_positions as f64 * factor) as usize);
        found.push((
            "rope_scaling_factor".to_owned(),
            Some(YarnSpec {
                factor,
                original_positions,
                beta_fast: beta_fast.ok_or_else(|| f.missing("rope_ntk_beta"))?,
                beta_slow: beta_slow.ok_or_else(|| f.missing("rope_ntk_alpha"))?,
                truncate: false,
                attention_factor: YarnSpec::default_attention_factor(factor),
            }),
        ));
    }
    let yarn = spelling::agree(f, found)?.ok_or_else(|| f.missing("rope_scaling"))?;
    if let (Some(initial), Some(yarn)) = (initial, &yarn) {
        if initial != yarn.original_positions {
            return Err(f.error(
                "initial_context_length",
                format!("{initial}, but frequencies are scaled from {}", yarn.original_positions),
            ));
        }
    }
    let theta = theta.ok_or_else(|| f.missing("rope_theta"))?;
    if yarn.is_some() && theta <= 1.0 {
        return Err(f.error("rope_theta", format!("{theta} is not above 1")));
    }
    Ok((RopeSpec { dims: 0, theta, yarn }, stretched))
}

/// What all layers share; the window is set per layer, and so is `rope.dims` here.
fn attention(f: &mut Fields<'_>, rope: RopeSpec) -> Result<AttentionSpec> {
    let heads = f.need_int("num_attention_heads", 1..=limits::HEADS)?;
    let kv_heads = f.need_int("num_key_value_heads", 1..=limits::HEADS)?;
    if heads % kv_heads != 0 {
        return Err(
            f.error("num_key_value_heads", format!("{kv_heads} does not divide {heads} heads"))
        );
    }
    let head_dim = f.need_int("head_dim", 1..=limits::HEAD_DIM)?;
    if head_dim % 2 != 0 {
        return Err(f.error("head_dim", format!("{head_dim} is odd, but all of it rotates")));
    }
    Ok(AttentionSpec {
        heads,
        kv_heads,
        qk_dim: head_dim,
        v_dim: head_dim,
        rope: RopeSpec { dims: head_dim, ..rope },
        window: None,
        sinks: true,
        value_scale: 1.0,
        layout: QkvLayout::Split,
        bias: f.boolean("attention_bias")?.unwrap_or(true),
    })
}

/// Which layers slide: as listed, or every other one from the first, as all code has it.
fn sliding(f: &mut Fields<'_>, layers: usize) -> Result<Vec<bool>> {
    let words = [json!("full_attention"), json!("sliding_attention")];
    let Some(listed) = f.words("layer_types", &words)? else {
        return Ok((0..layers).map(|layer| layer % 2 == 0).collect());
    };
    if listed.len() != layers {
        return Err(f.error(
            "layer_types",
            format!("{} items for num_hidden_layers = {layers}", listed.len()),
        ));
    }
    Ok(listed.into_iter().map(|word| word == 1).collect())
}

fn moe(f: &mut Fields<'_>) -> Result<MoeSpec> {
    let experts = either(f, "num_local_experts", "num_experts", limits::EXPERTS)?;
    let top_k = either(f, "num_experts_per_tok", "experts_per_token", limits::EXPERTS)?;
    if top_k > experts {
        return Err(f.error(
            "num_experts_per_tok",
            format!("{top_k} of {experts} experts cannot be selected"),
        ));
    }
    Ok(MoeSpec {
        experts,
        top_k,
        inter: f.need_int("intermediate_size", 1..=limits::INTER)?,
        router: RouterKind::Softmax,
        activation: Activation::ClampedSwiGlu {
            alpha: f.positive("swiglu_alpha")?.unwrap_or(ALPHA) as f32,
            limit: f.positive("swiglu_limit")?.unwrap_or(LIMIT) as f32,
        },
        bias: true,
    })
}
