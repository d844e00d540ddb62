//! Matrix times rows: register blocks over all rows and a range of outputs.
#![allow(unsafe_code, reason = "generic over the vector operations of a SIMD path")]

use std::ops::Range;

use super::super::simd::Vector;
use super::decode::{Bf16, Decoder, F32, Fp8, Mxfp4};
use super::dots::{OUTPUTS, block};

/// A matrix as the kernels see it; whoever makes one keeps the memory alive.
#[derive(Clone, Copy)]
pub(crate) enum Weights {
    F32(F32),
    Bf16(Bf16),
    Fp8(Fp8),
    Mxfp4(Mxfp4),
}

/// What happens to a finished dot product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// Replaces the output.
    Set,
    /// Is added to the output.
    Add,
}

/// Where outputs go: output `n` of job row `r` to `base + rows[r] * stride + n - first`.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) base: *mut f32,
    pub(crate) first: usize,
    pub(crate) stride: usize,
    pub(crate) rows: &'a [u32],
}

/// Rows to multiply: row `r` of the job is at `base + rows[r] * stride`.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) base: *const f32,
    pub(crate) stride: usize,
    pub(crate) rows: &'a [u32],
}

impl Source<'_> {
    /// # Safety
    /// `first + R` rows exist.
    #[inline(always)]
    unsafe fn pointers<const R: usize>(&self, first: usize) -> [*const f32; R] {
        let mut x = [self.base; R];
        for (r, x) in x.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the row.
            unsafe {
                let row = *self.rows.get_unchecked(first + r) as usize;
                *x = self.base.add(row * self.stride);
            }
        }
        x
    }
}

/// `y = W x` for some outputs.
#[derive(Clone)]
pub(crate) struct LinearJob<'a> {
    pub(crate) weights: Weights,
    pub(crate) source: Source<'a>,
    pub(crate) target: Target<'a>,
    pub(crate) outputs: Range<usize>,
    pub(crate) store: Store,
}

/// Calls `$body` with `$d` bound to the decoder inside a [`Weights`].
macro_rules! with_decoder {
    ($weights:expr, $d:ident => $body:expr) => {
        match $weights {
            Weights::F32($d) => $body,
            Weights::Bf16($d) => $body,
            Weights::Fp8($d) => $body,
            Weights::Mxfp4($d) => $body,
        }
    };
}

/// Splits `0..rows` into runs of 8, 4, 2 and 1 and calls `$body` with `$R` and the run's start.
macro_rules! for_row_runs {
    ($rows:expr, $start:ident, $R:ident => $body:expr) => {{
        let rows: usize = $rows;
        let mut $start = 0;
        while $start < rows {
            match rows - $start {
                8.. => {
                    const $R: usize = 8;
                    $body;
                    $start += $R;
                }
                4.. => {
                    const $R: usize = 4;
                    $body;
                    $start += $R;
                }
                2.. => {
                    const $R: usize = 2;
                    $body;
                    $start += $R;
                }
                _ => {
                    const $R: usize = 1;
                    $body;
                    $start += $R;
                }
            }
        }
    }};
}
pub(crate) use for_row_runs;

/// Runs of outputs, [`OUTPUTS`] at a time.
fn output_runs(outputs: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let (start, end) = (outputs.start, outputs.end);
    (start..end).step_by(OUTPUTS).map(move |n| n..(n + OUTPUTS).min(end))
}

/// # Safety
/// The path's features; weights, source and target cover what the job names, and no other thread
/// touches the named outputs.
#[inline(always)]
pub(crate) unsafe fn linear<V: Vector>(job: &LinearJob) {
    // SAFETY: passed on from the caller.
    with_decoder!(job.weights, d => unsafe { linear_with::<V, _>(&d, job) });
}

/// # Safety
/// As for [`linear`].
#[inline(always)]
unsafe fn linear_with<V: Vector, D: Decoder<V>>(weights: &D, job: &LinearJob) {
    for run in output_runs(&job.outputs) {
        for_row_runs!(job.source.rows.len(), r, R => {
            let mut y = [[0.0; OUTPUTS]; R];
            // SAFETY: rows and outputs are inside the job.
            unsafe {
                let x = job.source.pointers::<R>(r);
                block::<V, D, R>(weights, run.start, run.len(), &x, &mut y);
                for (i, y) in y.iter().enumerate() {
                    let row = *job.target.rows.get_unchecked(r + i) as usize;
                    let at = row * job.target.stride + run.start - job.target.first;
                    let to = job.target.base.add(at);
                    for (n, value) in y.iter().take(run.len()).enumerate() {
                        match job.store {
                            Store::Set => *to.add(n) = *value,
                            Store::Add => *to.add(n) += *value,
                        }
                    }
                }
            }
        });
    }
}
