//! `dflash/config.json`: a DFlash drafter (dflash_spec 3.1, mimo_spec 4.1).

use serde_json::{Value, json};

use super::json::Fields;
use super::{limits, spelling, yarn};
use crate::error::Result;
use crate::spec::{DrafterSpec, ModelSpec, RopeSpec};

/// Keys that cannot change a proposal, each with the reason.
const IGNORED: &[(&str, &str)] = &[
    ("auto_map", "names remote code, which is never run"),
    ("transformers_version", "who wrote the file"),
    ("torch_dtype", "every tensor's own header says how it is stored"),
    ("dtype", "every tensor's own header says how it is stored"),
    ("vocab_size", "embedding and head are the target's (mimo_spec 4.6, row 4)"),
    ("max_position_embeddings", "angles are computed, not tabulated; distances are what matters"),
    ("initializer_range", "training only"),
    ("attention_dropout", "training only"),
    ("use_cache", "a generation loop's choice"),
    ("bos_token_id", "the target's"),
    ("eos_token_id", "the target's"),
    ("pad_token_id", "the target's"),
    ("max_window_layers", "only read to derive layer_types"),
    ("name_or_path", "where the file came from"),
    ("_name_or_path", "where the file came from"),
];

/// The same for keys inside `dflash_config`.
const IGNORED_NESTED: &[(&str, &str)] = &[
    ("num_anchors", "training only"),
    ("loss_decay_gamma", "training only"),
    (
        "backbone_rotary_base",
        "training metadata: 5e6 even where the target has 1e7 (mimo_spec 4.4)",
    ),
    ("mask_token", "the spelling of mask_token_id"),
    ("use_aux_hidden_state", "taps are always used"),
];

/// Largest block of the z-lab reference, used where no key says otherwise.
const DEFAULT_BLOCK_SIZE: usize = 16;

/// Two places to look a key up: `dflash_config` first, then the top level.
struct Places<'a> {
    nested: Fields<'a>,
    top: Fields<'a>,
}

impl<'a> Places<'a> {
    fn pick<T>(
        &mut self,
        mut read: impl FnMut(&mut Fields<'a>) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let nested = read(&mut self.nested)?;
        let top = read(&mut self.top)?;
        Ok(nested.or(top))
    }

    fn int(&mut self, key: &str, max: usize) -> Result<Option<usize>> {
        self.pick(|fields| fields.int(key, 0..=max))
    }

    fn need_int(&mut self, key: &str, max: usize) -> Result<usize> {
        self.int(key, max)?.ok_or_else(|| self.nested.missing(key))
    }

    fn only(&mut self, key: &str, only: &[Value]) -> Result<()> {
        self.nested.only(key, only)?;
        self.top.only(key, only)
    }
}

/// Reads a drafter's configuration against its target.
///
/// # Errors
/// [`crate::Error::ModelFormat`] naming the key that is missing, unsupported, unknown or does not
/// fit the target.
pub(super) fn read(mut top: Fields<'_>, target: &ModelSpec) -> Result<DrafterSpec> {
    // An older drafter keeps everything at the top level.
    let empty = serde_json::Map::new();
    let nested = top.object("dflash_config")?;
    let nested = nested.unwrap_or_else(|| Fields::new(top.file(), &empty));
    let mut at = Places { nested, top };
    unsupported_switches(&mut at)?;
    let layers = at.top.need_int("num_hidden_layers", 1..=limits::LAYERS)?;
    let hidden = at.top.need_int("hidden_size", 1..=limits::HIDDEN)?;
    if hidden != target.hidden {
        return Err(at.top.error(
            "hidden_size",
            format!("{hidden} differs from the target's {}", target.hidden),
        ));
    }
    let heads = at.top.need_int("num_attention_heads", 1..=limits::HEADS)?;
    let kv_heads = at.top.need_int("num_key_value_heads", 1..=limits::HEADS)?;
    if heads % kv_heads != 0 {
        return Err(at
            .top
            .error("num_key_value_heads", format!("{kv_heads} does not divide {heads} heads")));
    }
    let head_dim = at.top.need_int("head_dim", 1..=limits::HEAD_DIM)?;
    at.top.only("v_head_dim", &[json!(head_dim)])?;
    if let Some(found) = at.int("num_target_layers", limits::LAYERS)? {
        if found != target.layers.len() {
            return Err(at.top.error(
                "num_target_layers",
                format!("{found} differs from the target's {}", target.layers.len()),
            ));
        }
    }
    let block_size = at.int("block_size", limits::BLOCK)?.unwrap_or(DEFAULT_BLOCK_SIZE);
    if block_size < 2 {
        return Err(at.nested.error("block_size", "expected an anchor and at least one draft"));
    }
    let mask_token_id = at.need_int("mask_token_id", u32::MAX as usize)?;
    if mask_token_id >= target.vocab {
        return Err(at.nested.error(
            "mask_token_id",
            format!("{mask_token_id} is outside the target's vocabulary of {}", target.vocab),
        ));
    }
    let taps = taps(&mut at, target.layers.len())?;
    let (windows, causal) = visibility(&mut at, layers)?;
    let rope = rope(&mut at, head_dim)?;
    let value_scale = at.pick(|f| f.positive("attention_value_scale"))?.unwrap_or(1.0) as f32;
    let sinks = at.pick(|f| f.boolean("attention_sink_bias"))?.unwrap_or(false);
    let eps = at.top.positive("rms_norm_eps")?.ok_or_else(|| at.top.missing("rms_norm_eps"))?;
    let inter = at.top.need_int("intermediate_size", 1..=limits::INTER)?;
    at.nested.finish(IGNORED_NESTED)?;
    at.top.finish(IGNORED)?;
    Ok(DrafterSpec {
        block_size,
        mask_token_id: mask_token_id as u32,
        taps,
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim,
        inter,
        rope,
        windows,
        causal,
        sinks,
        value_scale,
        norm_eps: eps as f32,
    })
}

/// Switches with one implemented position: later drafter families set them.
fn unsupported_switches(at: &mut Places<'_>) -> Result<()> {
    at.top.only("architectures", &[json!(["DFlashDraftModel"])])?;
    at.top.only("model_type", &[json!("qwen3")])?;
    at.top.only("hidden_act", &[json!("silu")])?;
    at.top.only("attention_bias", &[json!(false)])?;
    at.top.only("mlp_bias", &[json!(false)])?;
    // The head is the target's; tied or not is a statement about an unused matrix.
    at.top.only("tie_word_embeddings", &[json!(false), json!(true)])?;
    at.top.only("rope_interleaved", &[json!(false)])?;
    at.top.only("is_neox_style", &[json!(true)])?;
    at.top.only("logit_scale", &[json!(1), json!(1.0)])?;
    at.only("input_embedding_scale", &[json!(1), json!(1.0)])?;
    at.only("output_multiplier", &[json!(1), json!(1.0)])?;
    at.only("final_logit_softcapping", &[])?;
    at.only("sample_from_anchor", &[json!(false)])?;
    at.only("shift_label", &[json!(false)])?;
    at.only("projector_type", &[])?;
    at.only("draft_vocab_size", &[])
}

/// `target_layer_ids`: taps after those layers, concatenated in list order. Only ascending lists
/// mean the same to every implementation.
fn taps(at: &mut Places<'_>, target_layers: usize) -> Result<Vec<usize>> {
    let key = "target_layer_ids";
    let list = at.pick(|f| f.list(key))?.ok_or_else(|| at.nested.missing(key))?;
    let taps: Option<Vec<usize>> =
        list.iter().map(|v| v.as_u64().and_then(|v| usize::try_from(v).ok())).collect();
    taps.filter(|taps| {
        !taps.is_empty()
            && taps.windows(2).all(|pair| pair[0] < pair[1])
            && taps.iter().all(|&tap| tap < target_layers)
    })
    .ok_or_else(|| {
        at.nested.error(
            key,
            format!(
                "expected ascending layer numbers below {target_layers}, found {}",
                super::json::shown(&Value::Array(list.to_vec()))
            ),
        )
    })
}

/// Window and causality per layer (dflash_spec 1.6): an explicit `is_causal` beats
/// `dflash_config.causal`, which beats the old rule "listed as sliding means causal". `use_swa`
/// alone makes every layer sliding and leaves it non-causal, also where the list says all full.
fn visibility(at: &mut Places<'_>, layers: usize) -> Result<(Vec<Option<usize>>, Vec<bool>)> {
    let words = [json!("full_attention"), json!("sliding_attention")];
    let listed = at.top.words("layer_types", &words)?;
    if let Some(list) = listed.as_ref().filter(|list| list.len() != layers) {
        return Err(at
            .top
            .error("layer_types", format!("{} items for {layers} layers", list.len())));
    }
    let use_swa = at.pick(|f| f.boolean("use_swa"))?;
    let use_sliding_window = at.top.boolean("use_sliding_window")?;
    let own_window = at.pick(|f| f.int("swa_window_size", 1..=limits::POSITIONS))?;
    let window = at.top.int("sliding_window", 1..=limits::POSITIONS)?;
    let window = own_window.or(window);
    let explicit = at.top.boolean("is_causal")?;
    let causal = at.pick(|f| f.boolean("causal"))?;
    let listed: Vec<bool> = match listed {
        Some(list) => list.into_iter().map(|word| word == 1).collect(),
        None => vec![false; layers],
    };
    let forced = use_swa == Some(true) && listed.iter().all(|&slides| !slides);
    let slides: Vec<bool> = listed.iter().map(|&listed| listed || forced).collect();
    if slides.contains(&true) {
        if window.is_none() {
            return Err(at.nested.missing("swa_window_size"));
        }
        if use_swa == Some(false) {
            return Err(at.nested.error("use_swa", "false contradicts sliding layer_types"));
        }
    } else if use_sliding_window == Some(true) {
        return Err(at.top.error(
            "use_sliding_window",
            "true, but neither layer_types nor use_swa says which layers slide",
        ));
    }
    let windows = slides.iter().map(|&slides| window.filter(|_| slides)).collect();
    let causal = listed.iter().map(|&listed| explicit.or(causal).unwrap_or(listed)).collect();
    Ok((windows, causal))
}

/// `rope_theta` at the top level or in `rope_parameters`; `partial_rotary_factor` defaults to 1;
/// YaRN in either `rope_scaling` or `rope_parameters`.
fn rope(at: &mut Places<'_>, head_dim: usize) -> Result<RopeSpec> {
    let mut theta = at.top.positive("rope_theta")?;
    let mut partial = at.pick(|f| f.positive("partial_rotary_factor"))?;
    let mut scaling = Vec::new();
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(mut nested) = at.top.object(key)? else { continue };
        scaling.push((key.to_owned(), yarn::read(&mut nested)?));
        for (key, outer) in [("rope_theta", &mut theta), ("partial_rotary_factor", &mut partial)] {
            let inner = nested.positive(key)?;
            if let (Some(inner), Some(outer)) = (inner, *outer) {
                if inner != outer {
                    return Err(nested.error(key, format!("{inner} contradicts {outer}")));
                }
            }
            *outer = outer.or(inner);
        }
        nested.finish(&[])?;
    }
    let yarn = spelling::agree(&at.top, scaling)?.flatten();
    let theta = theta.ok_or_else(|| at.top.missing("rope_theta"))?;
    if yarn.is_some() && theta <= 1.0 {
        return Err(at.top.error("rope_theta", format!("{theta} is not above 1")));
    }
    let dims =
        spelling::rotary_dims(&at.top, "partial_rotary_factor", partial.unwrap_or(1.0), head_dim)?;
    Ok(RopeSpec { dims, theta, yarn })
}
