//! What an op takes: by physics, and today.

use super::card::Card;
use super::constants::{
    BELL, COLD_GRAPH, COLD_PERSISTENT, DISPATCH_GRAPH, DISPATCH_PERSISTENT, EXPERTS, HOP, ROUTER,
    ROW, STREAM,
};
use super::distinct_experts;
use super::predict::Times;
use crate::backend::gpu::outline::{Experts, OpWork, PassShape};

/// Prices of ops on a card, for passes of one shape.
pub(super) struct Costs<'a> {
    pub(super) card: &'a Card,
    pub(super) pass: PassShape,
    /// Distinct experts of a layer; `None`: the expected number.
    pub(super) experts: Option<f64>,
    /// Microseconds of a sum over all GPUs.
    pub(super) allreduce_us: f64,
    /// Whether a step reads more than the second-level cache holds.
    pub(super) is_cold: bool,
}

impl Costs<'_> {
    /// Distinct experts of a layer that the pass touches.
    pub(super) fn experts(&self, of: &Experts) -> f64 {
        self.experts.unwrap_or_else(|| {
            distinct_experts(of.count as f64, of.top_k as f64, self.pass.rows() as f64)
        })
    }

    pub(super) fn bytes(&self, op: &OpWork) -> f64 {
        op.bytes(self.pass, |of| self.experts(of))
    }

    fn read_us(&self, op: &OpWork) -> f64 {
        self.bytes(op) / self.card.read_rate() * 1e6
    }

    fn sum_us(&self, op: &OpWork) -> f64 {
        let is_summed = matches!(op, OpWork::Linear { is_summed: true, .. } | OpWork::MoeDown(_));
        if is_summed { self.allreduce_us } else { 0.0 }
    }

    /// Milliseconds of an op.
    pub(super) fn op(&self, op: &OpWork) -> Times {
        let sum = self.sum_us(op);
        // Rotations wait for nothing but the pass.
        let hop = if matches!(op, OpWork::Other("rope")) { 0.0 } else { HOP.value };
        let floor = hop + self.read_us(op) + sum;
        let work = self.work_us(op) + sum;
        let is_attention = matches!(op, OpWork::Attention(_) | OpWork::DraftAttention(_));
        let cold = |us: f64| if is_attention && self.is_cold { us } else { 0.0 };
        let today = |us: f64| self.card.has_kernels.then_some(us / 1e3);
        Times {
            floor_ms: floor / 1e3,
            persistent_ms: today(DISPATCH_PERSISTENT.value + work + cold(COLD_PERSISTENT.value)),
            graph_ms: today(DISPATCH_GRAPH.value + work + cold(COLD_GRAPH.value)),
        }
    }

    /// Microseconds beyond what an op that does nothing takes.
    fn work_us(&self, op: &OpWork) -> f64 {
        let alone = |shape, is_draft| {
            let blocks = u64::from(self.card.sms);
            super::attention::alone(shape, self.pass, blocks, is_draft)
        };
        // Launched alone, an op already pays for being an op.
        let in_line = |us: f64| (us - DISPATCH_GRAPH.value).max(0.0);
        match op {
            OpWork::Linear { .. } => {
                let rows = (self.pass.rows() - 1) as f64;
                STREAM.value + ROW.value * rows + self.read_us(op)
            }
            OpWork::Router { .. } => ROUTER.value + self.read_us(op),
            OpWork::MoeUp(_) | OpWork::MoeDown(_) => {
                STREAM.value + self.read_us(op) / EXPERTS.value
            }
            OpWork::Attention(shape) => in_line(alone(shape, false)),
            OpWork::DraftAttention(shape) => in_line(alone(shape, true)),
            OpWork::Embed { .. } | OpWork::Other(_) => self.read_us(op),
        }
    }

    /// What the host's command takes, once.
    pub(super) fn command(&self) -> Times {
        let today = self.card.has_kernels.then_some(BELL.value / 1e3);
        Times { floor_ms: 0.0, persistent_ms: today, graph_ms: today }
    }
}
