//! Arithmetic per row, to know where a batch stops being bound by memory.

use crate::spec::{MlpSpec, ModelSpec};

/// Operations of one row on one rank; a multiplication and an addition are two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Flops {
    pub(super) per_row: f64,
}

impl Flops {
    /// Of a rank's `spec` with `context` positions in the cache.
    pub(super) fn new(spec: &ModelSpec, context: usize) -> Self {
        let hidden = spec.hidden;
        let layers = spec.layers.iter().map(|layer| {
            let a = &layer.attention;
            let qkv = (a.heads * a.qk_dim + a.kv_heads * (a.qk_dim + a.v_dim)) * hidden;
            let visible = a.window.map_or(context, |window| window.min(context));
            let attention = a.heads * (a.qk_dim + a.v_dim) * visible;
            let mlp = match &layer.mlp {
                MlpSpec::Dense { inter } => 3 * inter * hidden,
                MlpSpec::Moe(moe) => (moe.experts + 3 * moe.top_k * moe.inter) * hidden,
            };
            qkv + attention + a.heads * a.v_dim * hidden + mlp
        });
        let products = layers.sum::<usize>() + spec.vocab * hidden;
        Self { per_row: 2.0 * products as f64 }
    }
}
