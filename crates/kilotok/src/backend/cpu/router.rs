//! Op `router`: the experts of every row and their weights.
#![allow(unsafe_code, reason = "calls the kernels of a SIMD path")]

use std::ops::Range;

use super::linear::{Orders, Packs, Store, Unpacked, apply};
use super::workers::Compute;
use crate::matrix::Matrix;
use crate::spec::{MoeSpec, RouterKind};

/// Selected experts, and the same grouped by expert.
#[derive(Debug)]
pub(super) struct Routes {
    /// `[rows, top_k]`, best first.
    pub(super) experts: Vec<u32>,
    /// Weights beside `experts`.
    pub(super) weights: Vec<f32>,
    /// Router scores, `[rows, experts]`.
    scores: Vec<f32>,
    /// Pairs (`row * top_k + rank`) sorted by expert, ascending within one.
    pairs: Vec<u32>,
    /// Rows of `pairs`.
    rows: Vec<u32>,
    /// Start of every expert in `pairs`, `[experts + 1]`.
    starts: Vec<u32>,
    /// Experts that have rows, ascending.
    pub(super) active: Vec<u32>,
}

impl Routes {
    /// Room for `rows` rows of at most `experts` experts, `top_k` of them selected.
    pub(super) fn new(rows: usize, experts: usize, top_k: usize) -> Self {
        Self {
            experts: vec![0; rows * top_k],
            weights: vec![0.0; rows * top_k],
            scores: vec![0.0; rows * experts],
            pairs: vec![0; rows * top_k],
            rows: vec![0; rows * top_k],
            starts: vec![0; experts + 1],
            active: Vec::with_capacity(experts),
        }
    }

    /// Bytes held.
    pub(super) fn num_bytes(&self) -> usize {
        4 * (self.experts.len() * 4 + self.scores.len() + self.starts.len() * 2)
    }

    /// Places of one expert in [`Routes::sorted`].
    pub(super) fn of(&self, expert: u32) -> Range<usize> {
        let expert = expert as usize;
        self.starts[expert] as usize..self.starts[expert + 1] as usize
    }

    /// Rows and pairs of the first `pairs` selections, sorted by expert.
    pub(super) fn sorted(&self, pairs: usize) -> (&[u32], &[u32]) {
        (&self.rows[..pairs], &self.pairs[..pairs])
    }

    /// Sorts the first `count` selections by expert.
    fn group(&mut self, count: usize, experts: usize, top_k: usize) {
        let starts = &mut self.starts[..=experts];
        starts.fill(0);
        for expert in &self.experts[..count] {
            starts[*expert as usize + 1] += 1;
        }
        self.active.clear();
        for expert in 0..experts {
            if starts[expert + 1] > 0 {
                self.active.push(expert as u32);
            }
            starts[expert + 1] += starts[expert];
        }
        for pair in 0..count {
            let place = &mut starts[self.experts[pair] as usize];
            self.pairs[*place as usize] = pair as u32;
            self.rows[*place as usize] = (pair / top_k) as u32;
            *place += 1;
        }
        // Every start has moved to its expert's end: shift them back by one.
        starts.copy_within(0..experts, 1);
        starts[0] = 0;
    }
}

/// Selects and weighs by `spec.router`; ties go to the lower expert.
pub(super) fn run(
    compute: &Compute,
    (router, bias): (&Matrix, &[f32]),
    spec: &MoeSpec,
    packs: &mut Packs,
    normed: &[f32],
    rows: &[u32],
    routes: &mut Routes,
) {
    let (experts, top_k) = (spec.experts, spec.top_k);
    let (cols, orders) = (router.cols, Orders::of([router]));
    let x = packs.input(Unpacked { x: normed, rows, cols, orders, routes: None });
    let scores = &mut routes.scores[..rows.len() * experts];
    apply(compute, router, &x, (scores, experts, 0), rows, Store::Set);
    if let RouterKind::Sigmoid { .. } = spec.router {
        // SAFETY: `kernels` were handed out after feature detection.
        unsafe { (compute.kernels.sigmoid)(scores) };
    }
    for row in 0..rows.len() {
        let scores = &routes.scores[row * experts..][..experts];
        let selected = &mut routes.experts[row * top_k..][..top_k];
        let weights = &mut routes.weights[row * top_k..][..top_k];
        select(scores, bias, selected);
        for (weight, expert) in weights.iter_mut().zip(&*selected) {
            *weight = scores[*expert as usize];
        }
        match spec.router {
            RouterKind::Sigmoid { normalize, scale } => {
                let divisor = if normalize { sum(weights) + 1e-20 } else { 1.0 };
                for weight in weights {
                    *weight = *weight / divisor * scale;
                }
            }
            RouterKind::Softmax => {
                for (weight, expert) in weights.iter_mut().zip(&*selected) {
                    *weight += bias[*expert as usize];
                }
                softmax(weights);
            }
        }
    }
    routes.group(rows.len() * top_k, experts, top_k);
}

/// The sum in order.
fn sum(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |sum, value| sum + value)
}

/// Softmax in place; the first value is the largest.
fn softmax(values: &mut [f32]) {
    let largest = values.first().copied().unwrap_or(0.0);
    for value in &mut *values {
        *value = (*value - largest).exp();
    }
    let sum = sum(values);
    for value in values {
        *value /= sum;
    }
}

/// The `selected.len()` experts with the largest biased scores, best first.
fn select(scores: &[f32], bias: &[f32], selected: &mut [u32]) {
    let key = |expert: u32| scores[expert as usize] + bias[expert as usize];
    let mut count = 0;
    for expert in 0..scores.len() as u32 {
        let mine = key(expert);
        if count == selected.len() && mine <= key(selected[count - 1]) {
            continue;
        }
        // Insertion from the back; equals stay in front, they have the lower number.
        let mut place = count.min(selected.len() - 1);
        while place > 0 && key(selected[place - 1]) < mine {
            selected[place] = selected[place - 1];
            place -= 1;
        }
        selected[place] = expert;
        count = (count + 1).min(selected.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_is_by_biased_score_and_ties_go_to_the_lower_expert() {
        let scores = [0.5, 0.9, 0.5, 0.1, 0.9];
        let mut selected = [0; 3];
        select(&scores, &[0.0; 5], &mut selected);
        assert_eq!(selected, [1, 4, 0]);
        select(&scores, &[0.0, 0.0, 0.0, 2.0, -1.0], &mut selected);
        assert_eq!(selected, [3, 1, 0]);
    }

    #[test]
    fn grouping_is_a_permutation_sorted_by_expert() {
        let mut routes = Routes::new(3, 4, 2);
        routes.experts = vec![3, 1, 1, 0, 3, 1];
        routes.group(6, 4, 2);
        assert_eq!(routes.active, [0, 1, 3]);
        assert_eq!([0, 1, 2, 3].map(|e| routes.of(e)), [0..1, 1..4, 4..4, 4..6]);
        let rows_and_pairs = (&[1, 0, 1, 2, 0, 2][..], &[3, 1, 2, 5, 0, 4][..]);
        assert_eq!(routes.sorted(6), rows_and_pairs);
    }
}
