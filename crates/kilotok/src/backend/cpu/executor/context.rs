//! The context line: taps of target rows to keys and values of the drafter.

use std::ops::Range;

use super::super::{draft_context, draft_fc};
use super::CpuExecutor;
use crate::backend::Slot;
use crate::program::OpKind;

/// Rows that become context.
pub(super) enum ContextRows {
    /// Of the last `verify`.
    Fresh(Range<usize>),
    /// Put off, of a slot.
    Deferred(Slot),
}

impl CpuExecutor {
    /// # Panics
    /// Where fresh rows reach beyond those of the last `verify`.
    pub(super) fn context(&mut self, of: ContextRows) {
        let (Some(spec), Some(drafter)) = (&self.model.spec.drafter, &self.model.drafter) else {
            return;
        };
        let hidden = self.model.spec.hidden;
        let width = self.model.spec.tap_width();
        let (compute, s) = (&self.compute, &mut self.scratch);
        let (rows, taps) = match of {
            ContextRows::Fresh(rows) => {
                (&self.rows[rows.clone()], &s.taps[rows.start * width..rows.end * width])
            }
            ContextRows::Deferred(slot) => self.deferred.of(slot),
        };
        if rows.is_empty() {
            return;
        }
        let identity = &s.identity[..rows.len()];
        for op in &self.program.context {
            match op.kind {
                OpKind::DraftFc => {
                    let eps = spec.norm_eps;
                    let (fused, context) = (&mut s.fused, &mut s.context);
                    let packs = &mut s.packs;
                    draft_fc::run(compute, (drafter, eps), packs, taps, identity, fused, context);
                }
                OpKind::DraftContext => {
                    let Some(table) = &mut s.draft_rope else { continue };
                    table.fill(rows.iter().map(|r| r.position));
                    for (layer, cache) in drafter.layers.iter().zip(&mut self.draft_caches) {
                        let buffers = draft_context::Buffers {
                            packs: &mut s.packs,
                            context: &s.context[..rows.len() * hidden],
                            kv: &mut s.qkv,
                            rope: table,
                        };
                        draft_context::run(
                            compute,
                            (spec, layer),
                            buffers,
                            (rows, identity),
                            (cache, &self.pages),
                        );
                    }
                }
                _ => unreachable!("no such op in the context line"),
            }
        }
    }
}
