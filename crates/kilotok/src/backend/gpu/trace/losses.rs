//! What the time of ops went to.

use std::ops::AddAssign;

use super::{Trace, TracedOp};

/// Microseconds by what they went to, mean over blocks. They add up to the time on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// What the bytes need at the memory's rate.
    pub ceiling: f64,
    /// Ops that stream: from the entry to the first weights, `moe_up` aside.
    pub ramp: f64,
    /// `moe_up`: from the entry to the first weights of its experts.
    pub routing: f64,
    /// Ops that stream: from the first weights to the end, beyond the ceiling.
    pub slow: f64,
    /// All other ops, beyond the ceiling.
    pub others: f64,
    /// Waiting for the last block.
    pub tail: f64,
    /// From the last block's arrival to passing the barrier.
    pub barrier: f64,
    /// From the barrier to the next op of the same command.
    pub between: f64,
}

impl Losses {
    /// All of it.
    pub fn total(&self) -> f64 {
        let Self { ceiling, ramp, routing, slow, others, tail, barrier, between } = *self;
        ceiling + ramp + routing + slow + others + tail + barrier + between
    }

    /// Of one op; `before` is the op that ran before it, if any.
    pub fn of(op: &TracedOp, before: Option<&TracedOp>, rate: Option<f64>) -> Self {
        let floor = rate.filter(|rate| *rate > 0.0).map_or(0.0, |rate| 1e6 * op.bytes / rate);
        let last = op.last_arrival();
        let before = before.filter(|b| b.command == op.command && b.number + 1 == op.number);
        let mut sum = Self::default();
        for (i, span) in op.blocks.iter().enumerate() {
            let begun = before.and_then(|op| op.blocks.get(i)).map_or(span.entered, |b| b.passed);
            sum.between += span.entered - begun;
            let start = match span.weights {
                Some(weights) if op.is_streamed() => weights,
                _ => span.entered,
            };
            let wait = start - span.entered;
            if op.kind == "moe_up" {
                sum.routing += wait;
            } else {
                sum.ramp += wait;
            }
            let work = span.arrived - start;
            let needed = floor.min(work);
            sum.ceiling += needed;
            if op.is_streamed() {
                sum.slow += work - needed;
            } else {
                sum.others += work - needed;
            }
            sum.tail += last - span.arrived;
            sum.barrier += span.passed - last;
        }
        sum.over(op.blocks.len())
    }

    fn over(self, count: usize) -> Self {
        let share = 1.0 / count.max(1) as f64;
        Self {
            ceiling: share * self.ceiling,
            ramp: share * self.ramp,
            routing: share * self.routing,
            slow: share * self.slow,
            others: share * self.others,
            tail: share * self.tail,
            barrier: share * self.barrier,
            between: share * self.between,
        }
    }
}

impl AddAssign for Losses {
    fn add_assign(&mut self, other: Self) {
        self.ceiling += other.ceiling;
        self.ramp += other.ramp;
        self.routing += other.routing;
        self.slow += other.slow;
        self.others += other.others;
        self.tail += other.tail;
        self.barrier += other.barrier;
        self.between += other.between;
    }
}

impl Trace {
    /// Every op with what its time went to.
    pub fn losses(&self) -> impl Iterator<Item = (&TracedOp, Losses)> {
        let before = std::iter::once(None).chain(self.ops.iter().map(Some));
        self.ops.iter().zip(before).map(|(op, before)| (op, Losses::of(op, before, self.rate)))
    }
}
