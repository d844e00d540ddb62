//! What a model is, independent of its family's configuration spelling.

mod moe;
mod rope;

pub use moe::{Activation, MlpSpec, MoeSpec, RouterKind};
pub use rope::{RopeSpec, YarnSpec};

/// A decoder-only model, validated; every number here changes the arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// `model_type` of the checkpoint, for display only.
    pub family: String,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the embedding and of the head (padding included).
    pub vocab: usize,
    /// Epsilon of every RMSNorm of the target.
    pub norm_eps: f32,
    /// Largest number of positions the checkpoint claims to support.
    pub max_positions: usize,
    /// Whether `lm_head` is the embedding matrix.
    pub tied_head: bool,
    /// Decoder layers, in order.
    pub layers: Vec<LayerSpec>,
    /// The drafter, where the checkpoint has one.
    pub drafter: Option<DrafterSpec>,
    /// Tokens that end a sequence (`config.json` and `generation_config.json` together).
    pub eos_token_ids: Vec<u32>,
}

/// One decoder layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Attention sub-layer.
    pub attention: AttentionSpec,
    /// Feed-forward sub-layer.
    pub mlp: MlpSpec,
}

/// Attention of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Dimension of queries and keys.
    pub qk_dim: usize,
    /// Dimension of values.
    pub v_dim: usize,
    /// Rotary embedding of queries and keys.
    pub rope: RopeSpec,
    /// Sliding window: number of visible keys, the query's own included. `None`: full attention.
    pub window: Option<usize>,
    /// Whether a learned logit per head joins the softmax denominator.
    pub sinks: bool,
    /// Factor on values before they enter the cache.
    pub value_scale: f32,
    /// Row order of the qkv projection.
    pub layout: QkvLayout,
    /// Whether the projections to and from attention have a bias.
    pub bias: bool,
}

/// Row order of the qkv projection's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkvLayout {
    /// Three matrices; the output is `[Q | K | V]`.
    Split,
    /// One matrix of `chunks` pieces, each `[Q_t | K_t | V_t]` (mimo_spec 3.2).
    Fused {
        /// Number of pieces: `num_key_value_heads` of the full-attention layers.
        chunks: usize,
    },
}

/// A DFlash drafter: non-causal block of anchor + masks over projected target taps.
#[derive(Clone, Debug, PartialEq)]
pub struct DrafterSpec {
    /// Rows of a block, the anchor included.
    pub block_size: usize,
    /// Token id whose embedding stands at masked rows when no sidecar replaces it.
    pub mask_token_id: u32,
    /// Target layers whose output residual is tapped, in concatenation order.
    pub taps: Vec<usize>,
    /// Drafter layers.
    pub layers: usize,
    /// Drafter width; equals the target's.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Dimension of queries, keys and values.
    pub head_dim: usize,
    /// SwiGLU width.
    pub inter: usize,
    /// Rotary embedding, absolute positions.
    pub rope: RopeSpec,
    /// Keys visible at a distance `< window` on either side, per layer; `None`: all.
    pub windows: Vec<Option<usize>>,
    /// Whether block rows see only earlier block rows, per layer.
    pub causal: Vec<bool>,
    /// Whether a learned logit per head joins the softmax denominator.
    pub sinks: bool,
    /// Factor on values.
    pub value_scale: f32,
    /// Epsilon of every RMSNorm of the drafter.
    pub norm_eps: f32,
}

/// Where each head's values start inside one row of the qkv projection's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadMap {
    /// Offset of each query head, `[heads]`.
    pub q: Vec<usize>,
    /// Offset of each key head, `[kv_heads]`.
    pub k: Vec<usize>,
    /// Offset of each value head, `[kv_heads]`.
    pub v: Vec<usize>,
    /// Width of the row.
    pub width: usize,
}

impl ModelSpec {
    /// Elements of a row's taps, all of the drafter's layers together; 0 without a drafter.
    pub fn tap_width(&self) -> usize {
        self.drafter.as_ref().map_or(0, |drafter| drafter.taps.len() * self.hidden)
    }
}

impl AttentionSpec {
    /// Rows of one fused chunk (all rows where split).
    pub fn rows_per_chunk(&self) -> usize {
        let rows = self.heads * self.qk_dim + self.kv_heads * (self.qk_dim + self.v_dim);
        match self.layout {
            QkvLayout::Split => rows,
            QkvLayout::Fused { chunks } => rows / chunks,
        }
    }

    /// The offsets of every head in the projection's output.
    pub fn head_map(&self) -> HeadMap {
        let chunks = match self.layout {
            QkvLayout::Split => 1,
            QkvLayout::Fused { chunks } => chunks,
        };
        let (q_per, kv_per) = (self.heads / chunks, self.kv_heads / chunks);
        let chunk = self.rows_per_chunk();
        let k_base = q_per * self.qk_dim;
        let v_base = k_base + kv_per * self.qk_dim;
        let at = |head: usize, per: usize, base: usize, dim: usize| {
            (head / per) * chunk + base + (head % per) * dim
        };
        HeadMap {
            q: (0..self.heads).map(|h| at(h, q_per, 0, self.qk_dim)).collect(),
            k: (0..self.kv_heads).map(|h| at(h, kv_per, k_base, self.qk_dim)).collect(),
            v: (0..self.kv_heads).map(|h| at(h, kv_per, v_base, self.v_dim)).collect(),
            width: chunk * chunks,
        }
    }
}
