//! Tensor names of the original gpt-oss release (its reference code, `weights.py`).

use crate::spec::ModelSpec;
use crate::weights::catalog::Entry;

/// What stands for an original name in the naming of `transformers`; `None` for other names.
/// The fused `qkv` is `[Q | K | V]` and becomes three tensors.
pub(super) fn rename(name: &str, entry: &Entry, spec: &ModelSpec) -> Option<Vec<(String, Entry)>> {
    let one = |name: String| Some(vec![(name, entry.clone())]);
    match name {
        "embedding.weight" => return one("model.embed_tokens.weight".to_owned()),
        "unembedding.weight" => return one("lm_head.weight".to_owned()),
        "norm.scale" => return one("model.norm.weight".to_owned()),
        _ => {}
    }
    let (number, rest) = name.strip_prefix("block.")?.split_once('.')?;
    let layer: usize = number.parse().ok()?;
    let prefix = format!("model.layers.{layer}");
    if let Some(kind) = rest.strip_prefix("attn.qkv.") {
        return split(&prefix, kind, entry, layer, spec);
    }
    let to = match rest {
        "attn.norm.scale" => "input_layernorm.weight",
        "attn.sinks" => "self_attn.attention_sink_bias",
        "attn.out.weight" => "self_attn.o_proj.weight",
        "attn.out.bias" => "self_attn.o_proj.bias",
        "mlp.norm.scale" => "post_attention_layernorm.weight",
        "mlp.gate.weight" => "mlp.gate.weight",
        "mlp.gate.bias" => "mlp.gate.bias",
        "mlp.mlp1_weight.blocks" => "mlp.experts.gate_up_proj_blocks",
        "mlp.mlp1_weight.scales" => "mlp.experts.gate_up_proj_scales",
        "mlp.mlp1_bias" => "mlp.experts.gate_up_proj_bias",
        "mlp.mlp2_weight.blocks" => "mlp.experts.down_proj_blocks",
        "mlp.mlp2_weight.scales" => "mlp.experts.down_proj_scales",
        "mlp.mlp2_bias" => "mlp.experts.down_proj_bias",
        _ => return None,
    };
    one(format!("{prefix}.{to}"))
}

/// Rows of queries, keys and values, of a matrix or of a bias.
fn split(
    prefix: &str,
    kind: &str,
    entry: &Entry,
    layer: usize,
    spec: &ModelSpec,
) -> Option<Vec<(String, Entry)>> {
    let a = &spec.layers.get(layer)?.attention;
    let parts =
        [("q", a.heads * a.qk_dim), ("k", a.kv_heads * a.qk_dim), ("v", a.kv_heads * a.v_dim)];
    let (&rows, inner) = entry.shape.split_first()?;
    if rows != parts.iter().map(|(_, rows)| rows).sum::<usize>()
        || !matches!(kind, "weight" | "bias")
    {
        return None;
    }
    let mut start = 0;
    let mut out = Vec::new();
    for (part, rows) in parts {
        let shape = std::iter::once(rows).chain(inner.iter().copied()).collect();
        let piece = entry.part(start..start + rows, shape)?;
        out.push((format!("{prefix}.self_attn.{part}_proj.{kind}"), piece));
        start += rows;
    }
    Some(out)
}
