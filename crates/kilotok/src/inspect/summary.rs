//! The specification as a table.

use serde::Serialize;

use crate::spec::{AttentionSpec, DrafterSpec, MlpSpec, ModelSpec, MoeSpec, QkvLayout};
use crate::weights::resolve::Found;
use crate::weights::table::{Demand, Part, Place};

/// Shape of a target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSummary {
    /// `model_type` of the checkpoint.
    pub family: String,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Vocabulary rows.
    pub vocab: usize,
    /// Positions the checkpoint claims to support.
    pub max_positions: usize,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Decoder layers.
    pub layers: usize,
    /// Layers with full attention, by number.
    pub full_attention_layers: Vec<usize>,
    /// Layers with a dense feed-forward, by number.
    pub dense_layers: Vec<usize>,
    /// Attention of the full layers.
    pub full_attention: Option<AttentionSummary>,
    /// Attention of the sliding layers.
    pub sliding_attention: Option<AttentionSummary>,
    /// Width of the dense feed-forward.
    pub dense_inter: Option<usize>,
    /// Routed experts of a sparse layer.
    pub experts: Option<usize>,
    /// Experts per token.
    pub top_k: Option<usize>,
    /// Width of an expert.
    pub expert_inter: Option<usize>,
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<u32>,
    /// Parameters of the target.
    pub parameters: u64,
    /// Parameters that one token meets, without the embedding table.
    pub active_parameters: u64,
}

/// Attention of one layer kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttentionSummary {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Dimension of queries and keys.
    pub qk_dim: usize,
    /// Dimension of values.
    pub v_dim: usize,
    /// Rotated dimensions.
    pub rotary_dims: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Factor on the number of positions, where YaRN stretches the frequencies.
    pub yarn_factor: Option<f64>,
    /// Visible keys, the query's own included.
    pub window: Option<usize>,
    /// Whether a learned logit per head joins the softmax.
    pub sinks: bool,
    /// Factor on values.
    pub value_scale: f32,
    /// `split`, or `fused` with the number of chunks.
    pub qkv: String,
}

/// Shape of a drafter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DrafterSummary {
    /// Rows of a block, the anchor included.
    pub block_size: usize,
    /// Token id that marks drafted rows.
    pub mask_token_id: u32,
    /// Tapped target layers.
    pub taps: Vec<usize>,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Dimension of a head.
    pub head_dim: usize,
    /// Width of the feed-forward.
    pub inter: usize,
    /// Windows per layer.
    pub windows: Vec<Option<usize>>,
    /// Causality per layer.
    pub causal: Vec<bool>,
    /// Parameters, without the target's embedding and head.
    pub parameters: u64,
}

fn attention(spec: &AttentionSpec) -> AttentionSummary {
    AttentionSummary {
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        qk_dim: spec.qk_dim,
        v_dim: spec.v_dim,
        rotary_dims: spec.rope.dims,
        rope_theta: spec.rope.theta,
        yarn_factor: spec.rope.yarn.map(|yarn| yarn.factor),
        window: spec.window,
        sinks: spec.sinks,
        value_scale: spec.value_scale,
        qkv: match spec.layout {
            QkvLayout::Split => "split".to_owned(),
            QkvLayout::Fused { chunks } => format!("fused, {chunks} chunks"),
        },
    }
}

fn numbers_where(flags: impl Iterator<Item = bool>) -> Vec<usize> {
    flags.enumerate().filter_map(|(at, flag)| flag.then_some(at)).collect()
}

fn moe(spec: &ModelSpec) -> Option<&MoeSpec> {
    spec.layers.iter().find_map(|layer| match &layer.mlp {
        MlpSpec::Moe(moe) => Some(moe),
        MlpSpec::Dense { .. } => None,
    })
}

pub(super) fn model(spec: &ModelSpec, tensors: &[(&Demand, Found<'_>)]) -> ModelSummary {
    let kind = |sliding: bool| {
        spec.layers
            .iter()
            .map(|layer| &layer.attention)
            .find(|attention| attention.window.is_some() == sliding)
            .map(attention)
    };
    let moe = moe(spec);
    let total = |keep: &dyn Fn(&Demand) -> bool| -> u64 {
        tensors
            .iter()
            .filter(|(demand, _)| keep(demand))
            .map(|(demand, _)| demand.num_elements())
            .fold(0, u64::saturating_add)
    };
    let parameters = total(&|_| true);
    let experts = total(&|demand| matches!(demand.place, Place::Expert { .. }));
    let embed = total(&|demand| demand.part == Part::Embed);
    let active_experts =
        moe.map_or(0, |moe| (u128::from(experts) * moe.top_k as u128 / moe.experts as u128) as u64);
    // A tied head is read as a matrix as well.
    let table = if spec.tied_head { 0 } else { embed };
    ModelSummary {
        family: spec.family.clone(),
        hidden: spec.hidden,
        vocab: spec.vocab,
        max_positions: spec.max_positions,
        norm_eps: spec.norm_eps,
        layers: spec.layers.len(),
        full_attention_layers: numbers_where(
            spec.layers.iter().map(|layer| layer.attention.window.is_none()),
        ),
        dense_layers: numbers_where(
            spec.layers.iter().map(|layer| matches!(layer.mlp, MlpSpec::Dense { .. })),
        ),
        full_attention: kind(false),
        sliding_attention: kind(true),
        dense_inter: spec.layers.iter().find_map(|layer| match layer.mlp {
            MlpSpec::Dense { inter } => Some(inter),
            MlpSpec::Moe(_) => None,
        }),
        experts: moe.map(|moe| moe.experts),
        top_k: moe.map(|moe| moe.top_k),
        expert_inter: moe.map(|moe| moe.inter),
        eos_token_ids: spec.eos_token_ids.clone(),
        parameters,
        active_parameters: parameters - experts - table + active_experts,
    }
}

pub(super) fn drafter(spec: &DrafterSpec, tensors: &[(&Demand, Found<'_>)]) -> DrafterSummary {
    DrafterSummary {
        block_size: spec.block_size,
        mask_token_id: spec.mask_token_id,
        taps: spec.taps.clone(),
        layers: spec.layers,
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        inter: spec.inter,
        windows: spec.windows.clone(),
        causal: spec.causal.clone(),
        parameters: tensors.iter().map(|(demand, _)| demand.num_elements()).sum(),
    }
}
