//! The draft line: one block per sequence, from embeddings to drafted tokens.

use std::sync::Arc;

use super::super::super::DraftBlock;
use super::super::{
    dense_down, dense_up, draft_attention, draft_choose, draft_embed, draft_qkv, lm_head, o_proj,
    rms_norm,
};
use super::CpuExecutor;
use crate::model::DrafterWeights;
use crate::program::{Op, OpKind};
use crate::spec::DrafterSpec;

impl CpuExecutor {
    pub(super) fn draft_piece(&mut self, blocks: &[DraftBlock], out: &mut Vec<u32>) {
        let s = &mut self.scratch;
        s.places.clear();
        s.draft_rows.clear();
        for (number, block) in blocks.iter().enumerate() {
            for row in 0..=block.drafts {
                if row > 0 {
                    s.draft_rows.push(s.places.len() as u32);
                }
                s.places.push((number as u32, row));
            }
        }
        if s.draft_rows.is_empty() {
            return;
        }
        if let Some(table) = &mut s.draft_rope {
            table.fill(s.places.iter().map(|(number, row)| blocks[*number as usize].start + row));
        }
        let model = Arc::clone(&self.model);
        let (Some(spec), Some(drafter)) = (&model.spec.drafter, &model.drafter) else { return };
        for i in 0..self.program.draft.len() {
            let op = self.program.draft[i];
            self.draft_op(op, (spec, drafter), blocks, out);
        }
    }

    fn draft_op(
        &mut self,
        op: Op,
        (spec, drafter): (&DrafterSpec, &DrafterWeights),
        blocks: &[DraftBlock],
        out: &mut Vec<u32>,
    ) {
        let (model, compute, s) = (&*self.model, &self.compute, &mut self.scratch);
        let count = s.places.len();
        let identity = &s.identity[..count];
        let norm = |weight: &[f32], x: &[f32], out: &mut [f32]| {
            rms_norm::run(compute, count, x, weight, spec.norm_eps, out);
        };
        let layer = &drafter.layers.get(op.layer);
        let Some(layer) = layer else { return };
        match op.kind {
            OpKind::DraftEmbed => {
                let mask = &drafter.mask_embedding;
                draft_embed::run(&model.embed, mask, blocks, &mut s.residual);
            }
            OpKind::DraftAttentionNorm => norm(&layer.input_norm, &s.residual, &mut s.normed),
            OpKind::DraftMlpNorm => norm(&layer.post_norm, &s.residual, &mut s.normed),
            OpKind::DraftFinalNorm => norm(&drafter.norm, &s.residual, &mut s.normed),
            OpKind::DraftQkv => {
                let (packs, qkv) = (&mut s.packs, &mut s.qkv);
                draft_qkv::run(compute, (spec, layer), packs, &s.normed, identity, qkv);
            }
            OpKind::DraftRope => {
                let Some(table) = &s.draft_rope else { return };
                let (layout, dim) = (draft_qkv::Layout::of(spec), spec.head_dim);
                for (row, qkv) in s.qkv.chunks_exact_mut(layout.width).take(count).enumerate() {
                    for head in qkv[..layout.v].chunks_exact_mut(dim) {
                        table.rotate(row, head);
                    }
                }
            }
            OpKind::DraftAttention => {
                let Some(block) = &mut s.block else { return };
                let buffers = draft_attention::Buffers {
                    qkv: &s.qkv,
                    block,
                    scratch: &mut s.attend,
                    places: &s.places,
                    offsets: &self.draft_offsets,
                    out: &mut s.attention,
                };
                let sinks = layer.sinks.as_deref();
                let cache = (&self.draft_caches[op.layer], &self.pages);
                draft_attention::run(compute, (spec, op.layer), sinks, blocks, cache, buffers);
            }
            OpKind::DraftOProj => {
                let packs = &mut s.packs;
                o_proj::run(
                    compute,
                    (&layer.o_proj, None),
                    packs,
                    &s.attention,
                    identity,
                    &mut s.residual,
                );
            }
            OpKind::DraftUp => {
                let packs = (&mut s.packs, &mut s.up);
                let out = &mut s.activations;
                dense_up::run(compute, &layer.mlp, packs, &s.normed, identity, out);
            }
            OpKind::DraftDown => {
                let (packs, residual) = (&mut s.packs, &mut s.residual);
                dense_down::run(
                    compute,
                    &layer.mlp.down,
                    packs,
                    &s.activations,
                    identity,
                    residual,
                );
            }
            OpKind::DraftHead => {
                let head = &model.lm_head;
                let (packs, logits) = (&mut s.packs, &mut s.draft_logits);
                lm_head::run(compute, head, packs, &s.normed, &s.draft_rows, identity, logits);
            }
            OpKind::DraftChoose => {
                let logits = s.draft_logits.chunks_exact(model.spec.vocab);
                for (token, margin) in logits.take(s.draft_rows.len()).map(draft_choose::run) {
                    out.push(token);
                    s.draft_margins.push(margin);
                }
            }
            _ => unreachable!("a target op in the draft line"),
        }
    }
}
