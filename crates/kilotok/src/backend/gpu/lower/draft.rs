//! The drafter's lines: taps to context, and a block to drafted tokens.

use kilotok_gpu::pool::Component;
use kilotok_kernels::abi::program as abi;

use super::target::{RING_TILE, check_dims, max_chunks};
use super::{Lowering, rows_behind};
use crate::backend::ring_len;
use crate::error::Result;
use crate::model::{DraftLayerWeights, DrafterWeights};
use crate::spec::DrafterSpec;
use crate::weights::repack::{RowOrder, TILE_ROWS};

/// Where one drafter layer keeps its context.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::backend::gpu) struct ContextRing {
    keys: u64,
    values: u64,
    k_norm: u64,
    positions: u32,
}

impl<'m> Lowering<'m> {
    fn drafter(&self) -> Option<(&'m DrafterSpec, &'m DrafterWeights, abi::Rope)> {
        let model = self.model;
        let (spec, weights) = (model.spec.drafter.as_ref()?, model.drafter.as_ref()?);
        Some((spec, weights, self.buffers.draft_rotation?))
    }

    /// The context ring of layer `i`; both lines use it.
    fn ring(&mut self, i: usize, spec: &DrafterSpec, layer: &'m DraftLayerWeights) -> ContextRing {
        if let Some(ring) = self.buffers.context_rings.get(i) {
            return *ring;
        }
        let limits = self.limits;
        let positions = match spec.windows[i] {
            None => limits.max_positions + abi::ROWS,
            // Rows that are rejected later are context for a moment.
            Some(window) => ring_len(window, 2 * abi::ROWS + rows_behind(limits)),
        };
        let positions = positions.next_multiple_of(RING_TILE);
        let elements = (limits.slots * positions) as u64 * (spec.kv_heads * spec.head_dim) as u64;
        let mut cache = |part: &str| {
            let name = format!("drafter.layers.{i}.{part}");
            self.place.arena.take(Component::Rings, name, elements * 2, true)
        };
        let (keys, values) = (cache("keys"), cache("values"));
        let name = format!("drafter.layers.{i}.k_norm");
        let k_norm = self.place.vector(&name, &layer.k_norm, spec.head_dim);
        let ring = ContextRing { keys, values, k_norm, positions: positions as u32 };
        self.buffers.context_rings.push(ring);
        ring
    }

    /// Taps of the pass's rows to keys and values at their positions.
    pub(super) fn context(&mut self) -> Result<Vec<abi::Op>> {
        let Some((spec, weights, rope)) = self.drafter() else { return Ok(Vec::new()) };
        let mut ops = vec![abi::Op::new(abi::OP_ROPE, 0, &rope)];
        let (fc, _) =
            self.place.matrix("drafter.fc", vec![&weights.fc], &RowOrder::Stored, None)?;
        let mut to = self.residual("drafter.hidden_norm", &weights.hidden_norm);
        to.fresh = 1;
        ops.push(self.add(fc, 0, self.buffers.taps, to));
        let half = spec.kv_heads * spec.head_dim;
        let kv = self.buffers.output(&mut self.place, 2 * half);
        for (i, layer) in weights.layers.iter().enumerate() {
            let ring = self.ring(i, spec, layer);
            let name = format!("drafter.layers.{i}.kv");
            let parts = vec![&layer.k_proj, &layer.v_proj];
            let (weights, _) = self.place.matrix(&name, parts, &RowOrder::Stored, None)?;
            let x = (self.buffers.x, Some(spec.norm_eps));
            ops.push(self.project(weights, 0, x, (kv, 2 * half), 0));
            let context = abi::DraftContext {
                kv: kv.address,
                kv_stride: kv.stride,
                keys: ring.keys,
                values: ring.values,
                k_norm: ring.k_norm,
                rotations: rope.rotations,
                pairs: rope.pairs,
                kv_heads: spec.kv_heads as u32,
                dim: spec.head_dim as u32,
                positions: ring.positions,
                value_scale: spec.value_scale,
                eps: spec.norm_eps,
                reserved: 0,
            };
            ops.push(abi::Op::new(abi::OP_DRAFT_CONTEXT, 0, &context));
        }
        Ok(ops)
    }

    /// A block: anchor and masks to one drafted token per mask.
    pub(super) fn draft(&mut self) -> Result<Vec<abi::Op>> {
        let Some((spec, weights, rope)) = self.drafter() else { return Ok(Vec::new()) };
        let hidden = self.model.spec.hidden;
        let mut ops = Vec::new();
        let mask = self.place.vector("drafter.mask_embedding", &weights.mask_embedding, hidden);
        let norm = |this: &mut Self, i: usize| match weights.layers.get(i) {
            Some(layer) => {
                this.residual(&format!("drafter.layers.{i}.input_norm"), &layer.input_norm)
            }
            None => this.residual("drafter.norm", &weights.norm),
        };
        let embed = abi::Embed {
            embedding: self.buffers.embedding,
            mask,
            to: abi::Residual { fresh: 1, ..norm(self, 0) },
            width: hidden as u32,
            tiles: hidden.div_ceil(TILE_ROWS) as u32,
        };
        ops.push(abi::Op::new(abi::OP_EMBED, 0, &embed));
        ops.push(abi::Op::new(abi::OP_ROPE, 0, &rope));
        for (i, layer) in weights.layers.iter().enumerate() {
            let name = |part: &str| format!("drafter.layers.{i}.{part}");
            self.draft_attention(&mut ops, i, (spec, rope), layer)?;
            let input =
                self.buffers.input(&mut self.place, "attention", spec.heads * spec.head_dim);
            let to = self.residual(&name("post_norm"), &layer.post_norm);
            let o_proj = vec![&layer.o_proj];
            let (o_proj, _) =
                self.place.matrix(&name("o_proj"), o_proj, &RowOrder::Stored, None)?;
            ops.push(self.add(o_proj, 0, input, to));
            let to = norm(self, i + 1);
            self.dense(&mut ops, &name("mlp"), &layer.mlp, spec.norm_eps, to)?;
        }
        ops.push(self.head(spec.norm_eps, 0));
        ops.push(abi::Op::new(abi::OP_DRAFT_CHOOSE, 0, &self.choose(self.buffers.draft_best)));
        Ok(ops)
    }

    fn draft_attention(
        &mut self,
        ops: &mut Vec<abi::Op>,
        i: usize,
        (spec, rope): (&DrafterSpec, abi::Rope),
        layer: &'m DraftLayerWeights,
    ) -> Result<()> {
        let name = |part: &str| format!("drafter.layers.{i}.{part}");
        let (heads, dim) = (spec.heads, spec.head_dim);
        let width = (heads + 2 * spec.kv_heads) * dim;
        let parts = vec![&layer.q_proj, &layer.k_proj, &layer.v_proj];
        let (qkv_weights, _) = self.place.matrix(&name("qkv"), parts, &RowOrder::Stored, None)?;
        let qkv = self.buffers.output(&mut self.place, width);
        let x = (self.buffers.x, Some(spec.norm_eps));
        ops.push(self.project(qkv_weights, 0, x, (qkv, width), 0));
        let ring = self.ring(i, spec, layer);
        let out = self.buffers.input(&mut self.place, "attention", heads * dim);
        let sinks = layer.sinks.as_deref();
        let sinks = sinks.map_or(0, |sinks| self.place.vector(&name("sinks"), sinks, heads));
        check_dims(&name("attention"), (heads, dim, dim), rope.pairs)?;
        let max_chunks = max_chunks(spec.kv_heads, spec.windows[i]);
        let scratch = abi::attention_scratch_bytes(heads, dim, max_chunks);
        let scratch = self.buffers.partial_results(&mut self.place, scratch);
        let block = 2 * spec.kv_heads * abi::ROWS * dim * 2;
        let block = self.buffers.block(&mut self.place, block);
        let attention = abi::DraftAttention {
            qkv: qkv.address,
            qkv_stride: qkv.stride,
            out: out.address,
            out_stride: out.stride,
            keys: ring.keys,
            values: ring.values,
            q_norm: self.place.vector(&name("q_norm"), &layer.q_norm, dim),
            k_norm: ring.k_norm,
            sinks,
            block,
            rotations: rope.rotations,
            pairs: rope.pairs,
            scratch,
            heads: heads as u32,
            kv_heads: spec.kv_heads as u32,
            dim: dim as u32,
            positions: ring.positions,
            window: spec.windows[i].unwrap_or(0) as u32,
            causal: u32::from(spec.causal[i]),
            scale: 1.0 / (dim as f32).sqrt(),
            value_scale: spec.value_scale,
            eps: spec.norm_eps,
            max_chunks: max_chunks as u32,
            reserved: 0,
        };
        ops.push(abi::Op::new(abi::OP_DRAFT_ATTENTION, 0, &attention));
        Ok(())
    }
}
