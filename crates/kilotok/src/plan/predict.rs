//! Times of steps and rounds, from the ops that they consist of.

use std::iter::Sum;
use std::ops::Add;

use serde::Serialize;

use super::card::Card;
use super::constants::L2;
use super::cost::Costs;
use super::{PlanRequest, pass_of};
use crate::backend::gpu::outline::{OpWork, Outline, PassShape};

/// Milliseconds: the floor, and today in either mode where the card has kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// Bytes over the read rate, and hops.
    pub floor_ms: f64,
    /// Today, persistent mode.
    pub persistent_ms: Option<f64>,
    /// Today, graph mode.
    pub graph_ms: Option<f64>,
}

impl Add for Times {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let both = |a: Option<f64>, b: Option<f64>| Some(a? + b?);
        Self {
            floor_ms: self.floor_ms + other.floor_ms,
            persistent_ms: both(self.persistent_ms, other.persistent_ms),
            graph_ms: both(self.graph_ms, other.graph_ms),
        }
    }
}

impl Sum for Times {
    fn sum<I: Iterator<Item = Self>>(times: I) -> Self {
        let zero = Self { floor_ms: 0.0, persistent_ms: Some(0.0), graph_ms: Some(0.0) };
        times.fold(zero, Add::add)
    }
}

impl Times {
    /// Each of the three, by its name.
    pub fn each(&self) -> [(&'static str, Option<f64>); 3] {
        [
            ("floor", Some(self.floor_ms)),
            ("persistent", self.persistent_ms),
            ("graph", self.graph_ms),
        ]
    }
}

/// All ops of one kind in a line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpTotal {
    /// Name of the kind.
    pub kind: &'static str,
    /// How many there are.
    pub ops: usize,
    /// Bytes that they read.
    pub bytes: f64,
    /// What they take together.
    pub times: Times,
}

/// A line of ops for a number of rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Sequences with rows in it.
    pub sequences: usize,
    /// Rows of each of them.
    pub rows_each: usize,
    /// Distinct experts of a layer; `None` without experts.
    pub experts: Option<f64>,
    /// Bytes read.
    pub bytes: f64,
    /// The host's command included.
    pub times: Times,
    /// By kind of op, the costliest first.
    pub by_kind: Vec<OpTotal>,
}

/// A round with drafts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Round {
    /// Rows of a block.
    pub block: usize,
    /// Drafting.
    pub draft: Prediction,
    /// Verifying, choosing and accepting.
    pub verify: Prediction,
    /// Taps to drafter context.
    pub commit: Prediction,
    /// All of it, with one command of the host.
    pub times: Times,
    /// Tokens per round from which drafts pay: round over plain step.
    pub break_even: Ratios,
}

/// A ratio under each of the three times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratios {
    /// Of the floors.
    pub floor: f64,
    /// Of the persistent mode.
    pub persistent: Option<f64>,
    /// Of the graph mode.
    pub graph: Option<f64>,
}

impl Ratios {
    pub(super) fn ratio(above: &Times, below: &Times) -> Self {
        let of = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
        Self {
            floor: above.floor_ms / below.floor_ms,
            persistent: of(above.persistent_ms, below.persistent_ms),
            graph: of(above.graph_ms, below.graph_ms),
        }
    }
}

/// Predicts lines of one outline on one card.
pub(super) struct Predictor<'a> {
    pub(super) card: &'a Card,
    pub(super) outline: &'a Outline,
    context: usize,
    allreduce_us: f64,
    is_cold: bool,
}

impl<'a> Predictor<'a> {
    pub(super) fn new(card: &'a Card, request: &PlanRequest, outline: &'a Outline) -> Self {
        let allreduce_us = request.allreduce_us.filter(|_| request.tp > 1).unwrap_or(0.0);
        Self { allreduce_us, ..Self::of_bench(card, outline, request.context()) }
    }

    /// For a bench of one rank.
    pub(super) fn of_bench(card: &'a Card, outline: &'a Outline, context: usize) -> Self {
        let mut this = Self { card, outline, context, allreduce_us: 0.0, is_cold: false };
        this.is_cold = this.plain(1).bytes > L2.value * 1e6;
        this
    }

    fn costs(&self, pass: PassShape, experts: Option<f64>) -> Costs<'a> {
        let (card, allreduce_us, is_cold) = (self.card, self.allreduce_us, self.is_cold);
        Costs { card, pass, experts, allreduce_us, is_cold }
    }

    pub(super) fn line(
        &self,
        ops: &[OpWork],
        (sequences, rows_each): (usize, usize),
        experts: Option<f64>,
    ) -> Prediction {
        let costs = self.costs(pass_of(sequences, rows_each, self.context), experts);
        let mut by_kind: Vec<OpTotal> = Vec::new();
        for op in ops {
            let (bytes, times) = (costs.bytes(op), costs.op(op));
            match by_kind.iter_mut().find(|total| total.kind == op.name()) {
                Some(total) => {
                    total.ops += 1;
                    total.bytes += bytes;
                    total.times = total.times + times;
                }
                None => by_kind.push(OpTotal { kind: op.name(), ops: 1, bytes, times }),
            }
        }
        let cost = |total: &OpTotal| total.times.persistent_ms.unwrap_or(total.times.floor_ms);
        by_kind.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
        let touched = ops.iter().find_map(|op| match op {
            OpWork::MoeUp(of) => Some(costs.experts(of)),
            _ => None,
        });
        let all = by_kind.iter().map(|total| total.times).sum::<Times>();
        Prediction {
            sequences,
            rows_each,
            experts: touched,
            bytes: by_kind.iter().map(|total| total.bytes).sum(),
            times: all + costs.command(),
            by_kind,
        }
    }

    /// A step that makes a token of each of `sequences` sequences.
    pub(super) fn plain(&self, sequences: usize) -> Prediction {
        self.line(&self.outline.plain, (sequences, 1), None)
    }

    /// A round of one sequence with blocks of `block` rows.
    pub(super) fn round(&self, block: usize, plain: &Prediction) -> Round {
        let of = |ops: &[OpWork]| self.line(ops, (1, block), None);
        let draft = of(&self.outline.draft);
        let verify = of(&self.outline.plain);
        let commit = of(&self.outline.commit);
        let commands = self.costs(pass_of(1, block, self.context), None).command();
        let ops = |part: &Prediction| part.by_kind.iter().map(|total| total.times).sum::<Times>();
        // One command makes the whole round.
        let times = ops(&draft) + ops(&verify) + ops(&commit) + commands;
        let break_even = Ratios::ratio(&times, &plain.times);
        Round { block, draft, verify, commit, times, break_even }
    }
}
