//! Op `rope`: rotates the first dimensions of queries and keys by the row's position.

use crate::spec::RopeSpec;

/// Cosines and sines of the rows in flight; angles in f64, so that long contexts stay exact.
#[derive(Debug)]
pub(super) struct RopeTable {
    frequencies: Vec<f64>,
    /// Factor on both.
    magnitude: f64,
    /// `[rows, dims / 2]` pairs of cosine and sine.
    rotations: Vec<(f32, f32)>,
}

impl RopeTable {
    /// Room for `rows` rows.
    pub(super) fn new(spec: RopeSpec, rows: usize) -> Self {
        Self {
            frequencies: spec.frequencies(),
            magnitude: spec.magnitude(),
            rotations: vec![(1.0, 0.0); rows * (spec.dims / 2)],
        }
    }

    /// Computes the rotations of rows at `positions`.
    pub(super) fn fill(&mut self, positions: impl Iterator<Item = u32>) {
        let half = self.frequencies.len();
        if half == 0 {
            return;
        }
        for (position, row) in positions.zip(self.rotations.chunks_exact_mut(half)) {
            for (rotation, frequency) in row.iter_mut().zip(&self.frequencies) {
                let (sin, cos) = (f64::from(position) * frequency).sin_cos();
                *rotation = ((cos * self.magnitude) as f32, (sin * self.magnitude) as f32);
            }
        }
    }

    /// Rotates one head of row `row`: pairs `(i, i + dims / 2)`.
    pub(super) fn rotate(&self, row: usize, head: &mut [f32]) {
        let half = self.frequencies.len();
        let (low, high) = head[..2 * half].split_at_mut(half);
        for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(&self.rotations[row * half..]) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// Rotates the heads at `offsets` of every row of `qkv`, `[rows, width]`.
pub(super) fn run(
    table: &RopeTable,
    rows: usize,
    qkv: &mut [f32],
    width: usize,
    offsets: [&[usize]; 2],
) {
    for (row, qkv) in qkv.chunks_exact_mut(width).take(rows).enumerate() {
        for offset in offsets.into_iter().flatten() {
            table.rotate(row, &mut qkv[*offset..]);
        }
    }
}
