//! `mimo_v2` (MiMo-V2.5, V2.5-Pro, V2.6) and `mimo_v2_flash` configurations.

use serde_json::json;

use super::json::Fields;
use super::spelling::{self, Pattern, Rotary};
use super::{limits, quantization};
use crate::error::Result;
use crate::spec::{
    Activation, AttentionSpec, LayerSpec, MlpSpec, ModelSpec, MoeSpec, QkvLayout, RouterKind,
};

/// Model types this reader understands.
pub(super) const MODEL_TYPES: [&str; 2] = ["mimo_v2", "mimo_v2_flash"];

/// Keys that cannot change the logits of text, each with the reason.
const IGNORED: &[(&str, &str)] = &[
    ("architectures", "a class name; model_type decides"),
    ("auto_map", "names remote code, which is never run"),
    ("transformers_version", "who wrote the file"),
    ("torch_dtype", "every tensor's own header says how it is stored"),
    ("dtype", "every tensor's own header says how it is stored"),
    ("initializer_range", "training only"),
    ("attention_dropout", "training only"),
    ("hidden_dropout", "training only"),
    ("output_router_logits", "training only"),
    ("router_aux_loss_coef", "training only"),
    ("use_cache", "a generation loop's choice"),
    ("hybrid_block_size", "unused where a layer pattern is spelled out, and it is required"),
    ("num_nextn_predict_layers", "the MTP heads are an alternative drafter that is not run"),
    ("bos_token_id", "nothing is prepended to a prompt"),
    ("pad_token_id", "rows are never padded"),
    ("name_or_path", "where the file came from"),
    ("_name_or_path", "where the file came from"),
    ("vision_config", "image input is not served; the text backbone does not depend on it"),
    ("audio_config", "audio input is not served; the text backbone does not depend on it"),
    ("processor_config", "image and audio input is not served"),
    ("image_token_id", "image input is not served"),
    ("video_token_id", "video input is not served"),
    ("audio_token_id", "audio input is not served"),
    ("vision_start_token_id", "image input is not served"),
    ("vision_end_token_id", "image input is not served"),
    ("vision_token_id", "image input is not served"),
    ("video_start_token_id", "video input is not served"),
    ("video_end_token_id", "video input is not served"),
    ("audio_start_token_id", "audio input is not served"),
    ("audio_end_token_id", "audio input is not served"),
    ("vision_model_type", "image input is not served"),
];

/// Heads of one layer kind.
struct Heads {
    query: usize,
    kv: usize,
    qk_dim: usize,
    v_dim: usize,
    sinks: bool,
}

/// Reads the configuration of a target model; the drafter is not part of it.
///
/// # Errors
/// [`crate::Error::ModelFormat`] naming the key that is missing, contradictory, unsupported or
/// unknown.
pub(super) fn read(mut fields: Fields<'_>) -> Result<(ModelSpec, quantization::Quantization)> {
    let f = &mut fields;
    let family = f.string("model_type")?.ok_or_else(|| f.missing("model_type"))?.to_owned();
    let layers = f.need_int("num_hidden_layers", 1..=limits::LAYERS)?;
    let hidden = f.need_int("hidden_size", 1..=limits::HIDDEN)?;
    let vocab = f.need_int("vocab_size", 1..=limits::VOCAB)?;
    let max_positions = f.need_int("max_position_embeddings", 1..=limits::POSITIONS)?;
    let pattern = spelling::pattern(f, layers)?;
    let norm_eps = spelling::norm_eps(f)?;
    let window = spelling::window(f)?;
    let rotary = spelling::rotary(f)?;
    let value_scale = value_scale(f)?;
    unsupported_switches(f)?;
    let [full, sliding] = head_counts(f, &family, &pattern)?;
    let layout = layout(f, &full)?;
    let attention = Attention { window, value_scale, layout, rotary };
    let full = attention.spec(f, &full, false, pattern.sliding.contains(&false))?;
    let sliding = attention.spec(f, &sliding, true, pattern.sliding.contains(&true))?;
    let (dense, moe) = mlp(f, &pattern)?;
    let spec = ModelSpec {
        family,
        hidden,
        vocab,
        norm_eps,
        max_positions,
        tied_head: f.boolean("tie_word_embeddings")?.unwrap_or(false),
        layers: std::iter::zip(&pattern.sliding, &pattern.sparse)
            .filter_map(|(&slides, &sparse)| {
                // Every kind that the pattern uses was read above, so nothing is filtered out.
                Some(LayerSpec {
                    attention: if slides { sliding.clone() } else { full.clone() }?,
                    mlp: if sparse { moe.clone() } else { dense.clone() }?,
                })
            })
            .collect(),
        drafter: None,
        eos_token_ids: f.token_ids("eos_token_id")?,
    };
    let quantization = quantization::read(f)?;
    fields.finish(IGNORED)?;
    Ok((spec, quantization))
}

/// Switches with one implemented position.
fn unsupported_switches(f: &mut Fields<'_>) -> Result<()> {
    f.only("hidden_act", &[json!("silu")])?;
    f.only("attention_bias", &[json!(false)])?;
    f.only("mlp_bias", &[json!(false)])?;
    f.only("use_qk_norm", &[json!(false)])?;
    f.only("n_shared_experts", &[json!(0)])?;
    f.only("scoring_func", &[json!("sigmoid")])?;
    f.only("topk_method", &[json!("noaux_tc")])?;
    // One group makes group-limited selection the identity.
    f.only("n_group", &[json!(1)])?;
    f.only("topk_group", &[json!(1)])?;
    // How router weights are stored; logits are F32 either way (mimo_spec 2.3).
    f.only("moe_router_dtype", &[json!("bfloat16"), json!("float32")])?;
    // A clamp of 7 as in other families makes this one repeat itself (mimo_spec 2.3).
    f.only("swiglu_limit", &[])?;
    f.only("final_logit_softcapping", &[])?;
    f.only("attn_logit_softcapping", &[])
}

/// `attention_value_scale`: null means none; absent is ambiguous, since code defaults differ.
fn value_scale(f: &mut Fields<'_>) -> Result<f32> {
    match f.float("attention_value_scale")? {
        Some(scale) if scale != 0.0 && (scale as f32).is_finite() => Ok(scale as f32),
        Some(scale) => {
            Err(f.error("attention_value_scale", format!("expected a factor, found {scale}")))
        }
        None if f.mentions("attention_value_scale") => Ok(1.0),
        None => Err(f.missing("attention_value_scale")),
    }
}

/// Head counts and dimensions of full-attention and of sliding layers.
fn head_counts(f: &mut Fields<'_>, family: &str, pattern: &Pattern) -> Result<[Heads; 2]> {
    let full = Heads {
        query: f.need_int("num_attention_heads", 1..=limits::HEADS)?,
        kv: f.need_int("num_key_value_heads", 1..=limits::HEADS)?,
        qk_dim: f.need_int("head_dim", 1..=limits::HEAD_DIM)?,
        v_dim: f.need_int("v_head_dim", 1..=limits::HEAD_DIM)?,
        sinks: f.boolean("add_full_attention_sink_bias")?.unwrap_or(false),
    };
    // `transformers` writes no swa_* keys for mimo_v2_flash: its class doubles the key/value
    // heads of sliding layers and shares everything else (mimo_spec 1.3).
    let derived = family == "mimo_v2_flash" && f.has("layer_types");
    let needed = pattern.sliding.contains(&true) && !derived;
    let mut swa = |key: &str, max: usize, derived: usize| -> Result<usize> {
        match f.int(key, 1..=max)? {
            Some(found) => Ok(found),
            None if needed => Err(f.missing(key)),
            None => Ok(derived),
        }
    };
    let sliding = Heads {
        query: swa("swa_num_attention_heads", limits::HEADS, full.query)?,
        kv: swa("swa_num_key_value_heads", limits::HEADS, full.kv * 2)?,
        qk_dim: swa("swa_head_dim", limits::HEAD_DIM, full.qk_dim)?,
        v_dim: swa("swa_v_head_dim", limits::HEAD_DIM, full.v_dim)?,
        sinks: f.boolean("add_swa_attention_sink_bias")?.unwrap_or(true),
    };
    Ok([full, sliding])
}

/// Row order of the qkv projection. Fused chunks count the key/value heads of the
/// full-attention layers, in every layer (mimo_spec 3.2).
fn layout(f: &mut Fields<'_>, full: &Heads) -> Result<QkvLayout> {
    match f.string("attention_projection_layout")? {
        None | Some("split") => Ok(QkvLayout::Split),
        Some("fused_qkv") => Ok(QkvLayout::Fused { chunks: full.kv }),
        Some(other) => Err(f.error(
            "attention_projection_layout",
            format!("expected \"split\" or \"fused_qkv\", found {other:?}"),
        )),
    }
}

/// What both layer kinds share.
struct Attention {
    window: Option<usize>,
    value_scale: f32,
    layout: QkvLayout,
    rotary: Rotary,
}

impl Attention {
    /// The attention of one layer kind; a kind that no layer uses is not checked.
    fn spec(
        &self,
        f: &Fields<'_>,
        heads: &Heads,
        sliding: bool,
        used: bool,
    ) -> Result<Option<AttentionSpec>> {
        if !used {
            return Ok(None);
        }
        let prefix = if sliding { "swa_" } else { "" };
        let kv_key = format!("{prefix}num_key_value_heads");
        if heads.query % heads.kv != 0 {
            return Err(f.error(
                &kv_key,
                format!("{} does not divide {} query heads", heads.kv, heads.query),
            ));
        }
        if let QkvLayout::Fused { chunks } = self.layout {
            if heads.kv % chunks != 0 {
                return Err(f.error(
                    &kv_key,
                    format!("{} is not a multiple of the {chunks} qkv chunks", heads.kv),
                ));
            }
        }
        let window = match (sliding, self.window) {
            (false, _) => None,
            (true, Some(window)) => Some(window),
            (true, None) => return Err(f.missing("sliding_window")),
        };
        Ok(Some(AttentionSpec {
            heads: heads.query,
            kv_heads: heads.kv,
            qk_dim: heads.qk_dim,
            v_dim: heads.v_dim,
            rope: self.rotary.resolve(f, sliding, heads.qk_dim)?,
            window,
            sinks: heads.sinks,
            value_scale: self.value_scale,
            layout: self.layout,
            bias: false,
        }))
    }
}

/// The dense and the sparse feed-forward, each where some layer uses it.
fn mlp(f: &mut Fields<'_>, pattern: &Pattern) -> Result<(Option<MlpSpec>, Option<MlpSpec>)> {
    let inter = f.int("intermediate_size", 1..=limits::INTER)?;
    let dense = match (inter, pattern.sparse.contains(&false)) {
        (None, true) => return Err(f.missing("intermediate_size")),
        (Some(inter), true) => Some(MlpSpec::Dense { inter }),
        (_, false) => None,
    };
    let experts = f.int("n_routed_experts", 1..=limits::EXPERTS)?;
    let top_k = f.int("num_experts_per_tok", 1..=limits::EXPERTS)?;
    let width = f.int("moe_intermediate_size", 1..=limits::INTER)?;
    let normalize = f.boolean("norm_topk_prob")?.unwrap_or(true);
    let scale = f.positive("routed_scaling_factor")?.unwrap_or(1.0) as f32;
    if !pattern.sparse.contains(&true) {
        return Ok((dense, None));
    }
    let experts = experts.ok_or_else(|| f.missing("n_routed_experts"))?;
    let top_k = top_k.ok_or_else(|| f.missing("num_experts_per_tok"))?;
    let inter = width.ok_or_else(|| f.missing("moe_intermediate_size"))?;
    if top_k > experts {
        return Err(f.error(
            "num_experts_per_tok",
            format!("{top_k} of {experts} experts cannot be selected"),
        ));
    }
    let moe = MoeSpec {
        experts,
        top_k,
        inter,
        router: RouterKind::Sigmoid { normalize, scale },
        activation: Activation::Silu,
        bias: false,
    };
    Ok((dense, Some(MlpSpec::Moe(moe))))
}
