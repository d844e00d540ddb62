//! The target line: embedding to logits, five ops a dense layer and six a routed one.

use kilotok_gpu::pool::Component;
use kilotok_kernels::abi::program as abi;

use super::buffers::Rows;
use super::place::head_order;
use super::{Lowering, rows_behind};
use crate::backend::ring_len;
use crate::error::{Error, Result};
use crate::matrix::Format;
use crate::model::{AttentionWeights, ExpertWeights, MlpWeights, QkvWeights};
use crate::spec::{Activation, AttentionSpec, MlpSpec, MoeSpec, RouterKind};
use crate::weights::repack::{RowOrder, TILE_ROWS};

/// Rings are whole tiles of attention, so that none of its tiles wraps around.
pub(super) const RING_TILE: usize = 64;

impl<'m> Lowering<'m> {
    /// The norm of an input whose squares were left by the op before.
    pub(super) fn norm(&self, eps: f32) -> abi::Norm {
        let hidden = self.model.spec.hidden;
        let parts = hidden.div_ceil(TILE_ROWS) as u32;
        let width = hidden as f32;
        abi::Norm { squares: self.buffers.squares, parts, width, eps, reserved: 0 }
    }

    /// The residual, made ready for the norm with `weight`.
    pub(super) fn residual(&mut self, name: &str, weight: &'m [f32]) -> abi::Residual {
        let Rows { address, stride } = self.buffers.residual;
        abi::Residual {
            residual: address,
            norm_weight: self.place.vector(name, weight, stride as usize),
            x: self.buffers.x.address,
            squares: self.buffers.squares,
            stride,
            x_stride: self.buffers.x.stride,
            ..abi::Residual::default()
        }
    }

    pub(super) fn target(&mut self) -> Result<Vec<abi::Op>> {
        let model = self.model;
        let spec = &model.spec;
        let hidden = spec.hidden;
        let mut ops = Vec::new();
        let mut to = match model.layers.first() {
            Some(layer) => self.residual("layers.0.input_norm", &layer.input_norm),
            None => self.residual("norm", &model.norm),
        };
        to.fresh = 1;
        let embedding = self.place.rows("embed", &model.embed, false)?;
        let (width, tiles) = (hidden as u32, hidden.div_ceil(TILE_ROWS) as u32);
        let embed = abi::Embed { embedding, mask: 0, to, width, tiles };
        ops.push(abi::Op::new(abi::OP_EMBED, 0, &embed));
        self.buffers.embedding = embedding;
        for rotation in &self.buffers.rotations {
            ops.push(abi::Op::new(abi::OP_ROPE, 0, &rotation.op));
        }
        for (i, layer) in model.layers.iter().enumerate() {
            let name = |part: &str| format!("layers.{i}.{part}");
            let attention = &spec.layers[i].attention;
            self.attention(&mut ops, i, attention, &layer.attention)?;
            let to = self.residual(&name("post_norm"), &layer.post_norm);
            let input = self.attention_out(attention);
            let o_bias = layer.attention.o_bias.as_deref();
            let o_proj = &layer.attention.o_proj;
            let bias = o_bias.map(|bias| vec![bias]);
            let (weights, bias) =
                self.place.matrix(&name("o_proj"), vec![o_proj], &RowOrder::Stored, bias)?;
            ops.push(self.add(weights, bias, input, to));

            let mut to = match model.layers.get(i + 1) {
                Some(next) => {
                    self.residual(&format!("layers.{}.input_norm", i + 1), &next.input_norm)
                }
                None => self.residual("norm", &model.norm),
            };
            if let Some(tap) =
                spec.drafter.as_ref().and_then(|d| d.taps.iter().position(|t| *t == i))
            {
                to.tap = self.buffers.taps.address + (tap * hidden * 2) as u64;
                to.tap_stride = self.buffers.taps.stride;
            }
            match (&layer.mlp, &spec.layers[i].mlp) {
                (MlpWeights::Dense(mlp), _) => {
                    self.dense(&mut ops, &name("mlp"), mlp, spec.norm_eps, to)?;
                }
                (MlpWeights::Moe { .. }, MlpSpec::Moe(moe)) => {
                    self.moe(&mut ops, &name("mlp"), &layer.mlp, moe, to)?;
                }
                (MlpWeights::Moe { .. }, MlpSpec::Dense { .. }) => {}
            }
        }
        let (weights, _) =
            self.place.matrix("lm_head", vec![&model.lm_head], &RowOrder::Stored, None)?;
        self.buffers.head = weights;
        ops.push(self.head(spec.norm_eps, abi::FLAG_LOGITS));
        Ok(ops)
    }

    /// The op that multiplies the head.
    pub(super) fn head(&self, eps: f32, flags: u32) -> abi::Op {
        let logits = self.buffers.logits;
        let width = self.model.spec.vocab;
        let weights = self.buffers.head;
        self.project(weights, 0, (self.buffers.x, Some(eps)), (logits, width), flags)
    }

    /// `out = W x + bias`, f32; with an epsilon, `x` is normed.
    pub(super) fn project(
        &self,
        weights: abi::Matrix,
        bias: u64,
        (x, eps): (Rows, Option<f32>),
        (out, width): (Rows, usize),
        flags: u32,
    ) -> abi::Op {
        let linear = abi::Linear {
            weights,
            norm: eps.map_or(abi::Norm::default(), |eps| self.norm(eps)),
            x: x.address,
            x_stride: x.stride,
            out: out.address,
            out_stride: out.stride,
            out_width: width as u32,
            bias,
            store: abi::STORE_F32,
            ..abi::Linear::default()
        };
        abi::Op::new(abi::OP_LINEAR, flags, &linear)
    }

    /// `residual += W x + bias`
    pub(super) fn add(
        &self,
        weights: abi::Matrix,
        bias: u64,
        x: Rows,
        to: abi::Residual,
    ) -> abi::Op {
        let linear = abi::Linear {
            weights,
            to,
            x: x.address,
            x_stride: x.stride,
            bias,
            out_width: self.model.spec.hidden as u32,
            store: abi::STORE_RESIDUAL,
            ..abi::Linear::default()
        };
        abi::Op::new(abi::OP_LINEAR, 0, &linear)
    }

    fn attention_out(&mut self, spec: &AttentionSpec) -> Rows {
        let width = spec.heads * spec.v_dim;
        self.buffers.input(&mut self.place, "attention", width)
    }

    fn attention(
        &mut self,
        ops: &mut Vec<abi::Op>,
        layer: usize,
        spec: &AttentionSpec,
        weights: &'m AttentionWeights,
    ) -> Result<()> {
        let name = |part: &str| format!("layers.{layer}.{part}");
        let (q, k) = (spec.heads * spec.qk_dim, spec.kv_heads * spec.qk_dim);
        let v = spec.kv_heads * spec.v_dim;
        let bias = weights.qkv_bias.as_deref();
        let (matrix, bias) = match &weights.qkv {
            QkvWeights::Fused(fused) => {
                let bias = bias.map(|bias| vec![bias]);
                self.place.matrix(&name("qkv"), vec![fused], &head_order(spec), bias)?
            }
            QkvWeights::Split(parts) => {
                let bias = bias.map(|bias| {
                    let (q, rest) = bias.split_at(q.min(bias.len()));
                    let (k, v) = rest.split_at(k.min(rest.len()));
                    vec![q, k, v]
                });
                let parts = parts.iter().collect();
                self.place.matrix(&name("qkv"), parts, &RowOrder::Stored, bias)?
            }
        };
        let width = q + k + v;
        let qkv = self.buffers.output(&mut self.place, width);
        let eps = self.model.spec.norm_eps;
        let x = (self.buffers.x, Some(eps));
        ops.push(self.project(matrix, bias, x, (qkv, width), 0));

        let limits = self.limits;
        let (component, blocks, positions) = match spec.window {
            None => (Component::Kv, limits.pages, limits.page_size),
            Some(window) => {
                let rows = abi::ROWS + rows_behind(limits);
                let len = ring_len(window, rows).next_multiple_of(RING_TILE);
                (Component::Rings, limits.slots, len)
            }
        };
        let mut cache = |part: &str, dim: usize| {
            let elements = blocks as u64 * (positions * spec.kv_heads * dim) as u64;
            self.place.arena.take(component, name(part), elements * 2, true)
        };
        let (keys, values) = (cache("keys", spec.qk_dim), cache("values", spec.v_dim));
        let sinks = weights.sinks.as_deref();
        let sinks = sinks.map_or(0, |sinks| self.place.vector(&name("sinks"), sinks, spec.heads));
        let rotation = self.buffers.rotation(&spec.rope);
        let out = self.attention_out(spec);
        check_dims(&name("attention"), (spec.heads, spec.qk_dim, spec.v_dim), rotation.pairs)?;
        let max_chunks = max_chunks(spec.kv_heads, spec.window);
        let scratch = abi::attention_scratch_bytes(spec.heads, spec.v_dim, max_chunks);
        let scratch = self.buffers.partial_results(&mut self.place, scratch);
        let paged = spec.window.is_none();
        let attention = abi::Attention {
            qkv: qkv.address,
            qkv_stride: qkv.stride,
            out: out.address,
            out_stride: out.stride,
            keys,
            values,
            page_table: if paged { self.buffers.page_table } else { 0 },
            max_pages: if paged { self.buffers.max_pages } else { 0 },
            sinks,
            rotations: rotation.rotations,
            pairs: rotation.pairs,
            scratch,
            heads: spec.heads as u32,
            kv_heads: spec.kv_heads as u32,
            qk_dim: spec.qk_dim as u32,
            v_dim: spec.v_dim as u32,
            positions: positions as u32,
            window: spec.window.unwrap_or(0) as u32,
            scale: 1.0 / (spec.qk_dim as f32).sqrt(),
            value_scale: spec.value_scale,
            max_chunks: max_chunks as u32,
            reserved: 0,
        };
        ops.push(abi::Op::new(abi::OP_ATTENTION, 0, &attention));
        Ok(())
    }

    /// A dense SwiGLU, of the target or of the drafter.
    pub(super) fn dense(
        &mut self,
        ops: &mut Vec<abi::Op>,
        name: &str,
        mlp: &'m ExpertWeights,
        eps: f32,
        to: abi::Residual,
    ) -> Result<()> {
        let inter = mlp.gate.rows;
        let parts = vec![&mlp.gate, &mlp.up];
        let up = format!("{name}.gate_up");
        let (weights, _) = self.place.matrix(&up, parts, &RowOrder::GateUp, None)?;
        let hidden = self.buffers.input(&mut self.place, "hidden", inter);
        let linear = abi::Linear {
            weights,
            norm: self.norm(eps),
            activation: activation(Activation::Silu),
            x: self.buffers.x.address,
            x_stride: self.buffers.x.stride,
            out: hidden.address,
            out_stride: hidden.stride,
            out_width: inter as u32,
            store: abi::STORE_SWIGLU,
            ..abi::Linear::default()
        };
        ops.push(abi::Op::new(abi::OP_LINEAR, 0, &linear));
        let down = format!("{name}.down");
        let (weights, bias) = self.place.matrix(&down, vec![&mlp.down], &RowOrder::Stored, None)?;
        ops.push(self.add(weights, bias, hidden, to));
        Ok(())
    }

    fn moe(
        &mut self,
        ops: &mut Vec<abi::Op>,
        name: &str,
        weights: &'m MlpWeights,
        spec: &MoeSpec,
        to: abi::Residual,
    ) -> Result<()> {
        const MAX_EXPERTS: usize = 512;
        let MlpWeights::Moe { router, router_bias, experts } = weights else { return Ok(()) };
        let width = self.model.spec.hidden;
        if spec.experts > MAX_EXPERTS {
            let reason = format!("{} experts, the GPU selects among {MAX_EXPERTS}", spec.experts);
            return Err(Error::model_format(name, reason));
        }
        if width % 4 != 0 {
            let reason = format!("the residual's width {width} is no multiple of 4");
            return Err(Error::model_format(name, reason));
        }
        let x = self.buffers.x;
        let norm = self.norm(self.model.spec.norm_eps);
        let logits = self.buffers.router_logits(&mut self.place, spec.experts);
        let op = abi::Router {
            weights: self.place.rows(&format!("{name}.router"), router, true)?,
            x: x.address,
            x_stride: x.stride,
            logits,
            norm,
            experts: spec.experts as u32,
            width: width as u32,
            format: if matches!(router.format, Format::F32) { abi::F32 } else { abi::BF16 },
        };
        ops.push(abi::Op::new(abi::OP_ROUTER, 0, &op));

        let gate_up = experts.iter().map(|expert| {
            let bias = expert.bias.as_ref().map(|bias| vec![&*bias.gate, &*bias.up]);
            (vec![&expert.gate, &expert.up], bias)
        });
        let (weights, bias) = self.place.experts(
            &format!("{name}.experts.gate_up"),
            gate_up.collect(),
            &RowOrder::GateUp,
        )?;
        let hidden = self.buffers.pairs(&mut self.place, spec.inter);
        let routes = self.buffers.routes(&mut self.place);
        let (router, router_scale) = match spec.router {
            RouterKind::Sigmoid { normalize: false, scale } => (abi::ROUTER_SIGMOID, scale),
            RouterKind::Sigmoid { normalize: true, scale } => {
                (abi::ROUTER_SIGMOID_NORMALIZED, scale)
            }
            RouterKind::Softmax => (abi::ROUTER_SOFTMAX, 1.0),
        };
        let router_bias =
            self.place.vector(&format!("{name}.router_bias"), router_bias, spec.experts);
        let up = abi::MoeUp {
            weights,
            norm,
            activation: activation(spec.activation),
            x: x.address,
            x_stride: x.stride,
            hidden: hidden.address,
            hidden_stride: hidden.stride,
            bias,
            logits,
            router_bias,
            routes,
            out_width: spec.inter as u32,
            experts: spec.experts as u32,
            top_k: spec.top_k as u32,
            router,
            router_scale,
            reserved: 0,
        };
        ops.push(abi::Op::new(abi::OP_MOE_UP, 0, &up));

        let down = experts
            .iter()
            .map(|expert| (vec![&expert.down], expert.bias.as_ref().map(|bias| vec![&*bias.down])));
        let (weights, bias) = self.place.experts(
            &format!("{name}.experts.down"),
            down.collect(),
            &RowOrder::Stored,
        )?;
        let down = abi::MoeDown {
            weights,
            to,
            hidden: hidden.address,
            hidden_stride: hidden.stride,
            bias,
            routes,
            top_k: spec.top_k as u32,
        };
        ops.push(abi::Op::new(abi::OP_MOE_DOWN, 0, &down));
        Ok(())
    }
}

/// Partial results of a row: enough for every block to have some, one where a window is short. They
/// depend on shapes alone, so that limits never change how a row's sums are associated.
pub(super) fn max_chunks(kv_heads: usize, window: Option<usize>) -> usize {
    const SHORT_WINDOW: usize = 256;
    match window {
        Some(window) if window <= SHORT_WINDOW => 1,
        _ => (abi::MAX_CHUNKS as usize / kv_heads.max(1)).max(1),
    }
}

/// What attention on the device asks of the dimensions of heads.
pub(super) fn check_dims(
    name: &str,
    (heads, qk_dim, v_dim): (usize, usize, usize),
    pairs: u32,
) -> Result<()> {
    const MAX_DIM: usize = 256;
    // More would need more counters of partial results.
    const MAX_HEADS: usize = abi::COUNTERS as usize / 256;
    if heads > MAX_HEADS {
        let reason = format!("{heads} query heads: the GPU needs {MAX_HEADS} or fewer");
        return Err(Error::model_format(name, reason));
    }
    let suits = |dim: usize| dim % 8 == 0 && (8..=MAX_DIM).contains(&dim);
    if suits(qk_dim) && suits(v_dim) && pairs % 4 == 0 {
        return Ok(());
    }
    let reason = format!(
        "heads of {qk_dim} and {v_dim} dimensions with {pairs} rotated pairs: the GPU needs \
         multiples of 8 up to {MAX_DIM}, and of 4"
    );
    Err(Error::model_format(name, reason))
}

fn activation(activation: Activation) -> abi::Activation {
    let (kind, alpha, limit) = match activation {
        Activation::Silu => (abi::SILU, 0.0, 0.0),
        Activation::ClampedSwiGlu { alpha, limit } => (abi::CLAMPED_SWIGLU, alpha, limit),
    };
    abi::Activation { kind, alpha, limit, reserved: 0 }
}
