//! A model's weights, in their stored formats.

use std::sync::Arc;

use crate::matrix::Matrix;
use crate::spec::ModelSpec;

/// A small vector (norm weights, sinks, biases), widened to f32 at load.
pub type Vector = Arc<[f32]>;

/// A model ready to be lowered: its spec and its weights.
#[derive(Clone, Debug)]
pub struct Model {
    /// What the model is.
    pub spec: ModelSpec,
    /// Token embedding, `[vocab, hidden]`.
    pub embed: Matrix,
    /// Decoder layers.
    pub layers: Vec<LayerWeights>,
    /// Final norm, `[hidden]`.
    pub norm: Vector,
    /// Output head, `[vocab, hidden]`.
    pub lm_head: Matrix,
    /// The drafter, where `spec.drafter` is some.
    pub drafter: Option<DrafterWeights>,
}

/// Weights of one decoder layer.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// Norm before attention, `[hidden]`.
    pub input_norm: Vector,
    /// Attention.
    pub attention: AttentionWeights,
    /// Norm before the feed-forward, `[hidden]`.
    pub post_norm: Vector,
    /// Feed-forward.
    pub mlp: MlpWeights,
}

/// Weights of attention.
#[derive(Clone, Debug)]
pub struct AttentionWeights {
    /// Projection to queries, keys and values; row order is the spec's `layout`.
    pub qkv: QkvWeights,
    /// Bias of that projection, `[HeadMap::width]`.
    pub qkv_bias: Option<Vector>,
    /// Output projection, `[hidden, heads * v_dim]`.
    pub o_proj: Matrix,
    /// Bias of the output projection, `[hidden]`.
    pub o_bias: Option<Vector>,
    /// Sink logits, `[heads]`.
    pub sinks: Option<Vector>,
}

/// The qkv projection as one matrix or as three.
#[derive(Clone, Debug)]
pub enum QkvWeights {
    /// One fused matrix.
    Fused(Matrix),
    /// Query, key and value matrices.
    Split(Box<[Matrix; 3]>),
}

/// Weights of a feed-forward.
#[derive(Clone, Debug)]
pub enum MlpWeights {
    /// One SwiGLU.
    Dense(ExpertWeights),
    /// Routed experts.
    Moe {
        /// Router, `[experts, hidden]`.
        router: Matrix,
        /// Bias, `[experts]`; what it does is the spec's `router`.
        router_bias: Vector,
        /// Experts, in order.
        experts: Vec<ExpertWeights>,
    },
}

/// A SwiGLU: `down(activation(gate x, up x))`.
#[derive(Clone, Debug)]
pub struct ExpertWeights {
    /// `[inter, hidden]`
    pub gate: Matrix,
    /// `[inter, hidden]`
    pub up: Matrix,
    /// `[hidden, inter]`
    pub down: Matrix,
    /// Biases of the three.
    pub bias: Option<ExpertBias>,
}

/// What is added to the outputs of a SwiGLU's matrices.
#[derive(Clone, Debug)]
pub struct ExpertBias {
    /// `[inter]`
    pub gate: Vector,
    /// `[inter]`
    pub up: Vector,
    /// `[hidden]`
    pub down: Vector,
}

/// Weights of a DFlash drafter (dflash_spec 3.2).
#[derive(Clone, Debug)]
pub struct DrafterWeights {
    /// Fusion of the taps, `[hidden, taps * hidden]`.
    pub fc: Matrix,
    /// Norm after the fusion, `[hidden]`.
    pub hidden_norm: Vector,
    /// Final norm, `[hidden]`.
    pub norm: Vector,
    /// Embedding of masked rows, `[hidden]`: the sidecar, or the target's row of `mask_token_id`.
    pub mask_embedding: Vector,
    /// Layers, in order.
    pub layers: Vec<DraftLayerWeights>,
}

/// Weights of one drafter layer (Qwen3-style).
#[derive(Clone, Debug)]
pub struct DraftLayerWeights {
    /// Norm before attention (block rows only), `[hidden]`.
    pub input_norm: Vector,
    /// `[heads * head_dim, hidden]`
    pub q_proj: Matrix,
    /// `[kv_heads * head_dim, hidden]`
    pub k_proj: Matrix,
    /// `[kv_heads * head_dim, hidden]`
    pub v_proj: Matrix,
    /// `[hidden, heads * head_dim]`
    pub o_proj: Matrix,
    /// Per-head norm of queries, `[head_dim]`.
    pub q_norm: Vector,
    /// Per-head norm of keys, `[head_dim]`.
    pub k_norm: Vector,
    /// Sink logits, `[heads]`.
    pub sinks: Option<Vector>,
    /// Norm before the feed-forward, `[hidden]`.
    pub post_norm: Vector,
    /// Feed-forward.
    pub mlp: ExpertWeights,
}
