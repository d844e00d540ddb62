//! The target line: embedding to logits.

use super::super::attention::{self, Heads, Keys, QueryRow};
use super::super::{
    attention_full, attention_swa, dense_down, dense_up, embed, kv_append, lm_head, moe_down,
    moe_up, o_proj, qkv, rms_norm, rope, router, tap, value_scale,
};
use super::CpuExecutor;
use crate::model::MlpWeights;
use crate::program::{Op, OpKind};
use crate::spec::MlpSpec;

impl CpuExecutor {
    pub(super) fn target_op(&mut self, op: Op) {
        let (model, compute, s) = (&*self.model, &self.compute, &mut self.scratch);
        let (spec, rows) = (&model.spec, self.rows.as_slice());
        let (count, hidden) = (rows.len(), spec.hidden);
        let identity = &s.identity[..count];
        let norm = |weight: &[f32], x: &[f32], out: &mut [f32]| {
            rms_norm::run(compute, count, x, weight, spec.norm_eps, out);
        };
        let weights = &model.layers.get(op.layer);
        let layer = || weights.map(|w| (w, &spec.layers[op.layer], &self.head_maps[op.layer]));
        let Some((weights, layer, map)) = layer() else { return };
        let attention = &layer.attention;
        match op.kind {
            OpKind::Embed => {
                embed::run(&model.embed, rows.iter().map(|r| r.token), &mut s.residual);
            }
            OpKind::AttentionNorm => norm(&weights.input_norm, &s.residual, &mut s.normed),
            OpKind::MlpNorm => norm(&weights.post_norm, &s.residual, &mut s.normed),
            OpKind::FinalNorm => norm(&model.norm, &s.residual, &mut s.normed),
            OpKind::Qkv => {
                let qkv = (&weights.attention.qkv, weights.attention.qkv_bias.as_deref());
                let packs = &mut s.packs;
                qkv::run(compute, qkv, packs, &s.normed, identity, &mut s.qkv, map.width);
            }
            OpKind::Rope => {
                let table = &s.ropes[s.layer_rope[op.layer]];
                rope::run(table, count, &mut s.qkv, map.width, [&map.q, &map.k]);
            }
            OpKind::ValueScale => {
                let scale = attention.value_scale;
                value_scale::run(scale, count, &mut s.qkv, map.width, &map.v, attention.v_dim);
            }
            OpKind::KvAppend => {
                kv_append::run(&mut self.caches[op.layer], &self.pages, rows, map, &s.qkv);
            }
            OpKind::AttentionFull | OpKind::AttentionSwa => {
                let (cache, pages) = (&self.caches[op.layer], &self.pages);
                let heads = Heads {
                    count: attention.heads,
                    offsets: &map.q,
                    qkv: &s.qkv,
                    qkv_stride: map.width,
                    sinks: weights.attention.sinks.as_deref(),
                };
                let window = attention.window;
                let query = |i: usize| {
                    let (slot, position) = (rows[i].slot, rows[i].position as usize);
                    QueryRow {
                        keys: Keys { cache, slot, pages: pages.of(slot), block: None },
                        visible: match window {
                            None => attention_full::visible(position),
                            Some(w) => attention_swa::visible(position, w),
                        },
                    }
                };
                let out = &mut s.attention;
                attention::run(compute, &mut s.attend, count, &heads, cache, query, out);
            }
            OpKind::OProj => {
                let o_proj = (&weights.attention.o_proj, weights.attention.o_bias.as_deref());
                let packs = &mut s.packs;
                o_proj::run(compute, o_proj, packs, &s.attention, identity, &mut s.residual);
            }
            OpKind::DenseUp => {
                if let MlpWeights::Dense(mlp) = &weights.mlp {
                    let packs = (&mut s.packs, &mut s.up);
                    let out = &mut s.activations;
                    dense_up::run(compute, mlp, packs, &s.normed, identity, out);
                }
            }
            OpKind::DenseDown => {
                if let MlpWeights::Dense(mlp) = &weights.mlp {
                    let (packs, residual) = (&mut s.packs, &mut s.residual);
                    dense_down::run(compute, &mlp.down, packs, &s.activations, identity, residual);
                }
            }
            OpKind::Router | OpKind::MoeUp | OpKind::MoeDown => {
                let (MlpWeights::Moe { router, router_bias, experts }, MlpSpec::Moe(moe)) =
                    (&weights.mlp, &layer.mlp)
                else {
                    return;
                };
                let (packs, routes) = (&mut s.packs, &mut s.routes);
                match op.kind {
                    OpKind::Router => {
                        let router = (router, &**router_bias);
                        router::run(compute, router, moe, packs, &s.normed, identity, routes);
                    }
                    OpKind::MoeUp => {
                        let (packs, out) = ((packs, &mut s.up), &mut s.activations);
                        let experts = (experts.as_slice(), moe.activation);
                        let routes = (&*routes, moe.top_k);
                        moe_up::run(compute, experts, routes, packs, &s.normed, identity, out);
                    }
                    _ => {
                        let buffers = moe_down::Buffers {
                            hidden: &s.activations,
                            outputs: &mut s.expert_outputs,
                            residual: &mut s.residual,
                        };
                        let size = (count, moe.top_k);
                        moe_down::run(compute, experts, routes, packs, buffers, size);
                    }
                }
            }
            OpKind::Tap { index } => {
                let taps = spec.drafter.as_ref().map_or(0, |d| d.taps.len());
                tap::run(count, hidden, (index, taps), &s.residual, &mut s.taps);
            }
            OpKind::LmHead => {
                s.logit_rows.clear();
                let wanted = rows.iter().enumerate().filter(|(_, row)| row.needs_logits);
                s.logit_rows.extend(wanted.map(|(i, _)| i as u32));
                let head = &model.lm_head;
                let (packs, logits) = (&mut s.packs, &mut s.logits);
                lm_head::run(compute, head, packs, &s.normed, &s.logit_rows, identity, logits);
            }
            // Choosing and accepting need the requests; the round does both.
            OpKind::Choose | OpKind::Accept => {}
            _ => unreachable!("a drafter op in the target line"),
        }
    }
}
