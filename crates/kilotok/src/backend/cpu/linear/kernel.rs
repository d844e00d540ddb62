//! Matrix times rows: register blocks over all rows and a range of outputs.
#![allow(unsafe_code, reason = "generic over the vector operations of a SIMD path")]

use std::ops::Range;

use super::super::simd::Vector;
use super::decode::{Bf16, Decoder, F32, Fp8, Mxfp4};
use super::dots::{OUTPUTS, PANEL, block, panel};

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

/// Packed rows to multiply: `count` of them from row `first` on.
#[cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux")),
    allow(dead_code, reason = "only the AMX path splits rows")
)]
#[derive(Clone, Copy)]
pub(crate) struct Source {
    /// Row 0 in the order that the weights take.
    pub(crate) base: *const f32,
    /// Floats from one row to the next.
    pub(crate) stride: usize,
    /// Split parts of row `first`, on the AMX path.
    pub(crate) split: *const u32,
    /// Values from one pair of split columns to the next.
    pub(crate) split_stride: usize,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

impl Source {
    /// # Safety
    /// Rows `row .. row + R` of the job exist.
    #[inline(always)]
    unsafe fn pointers<const R: usize>(&self, row: usize) -> [*const f32; R] {
        let mut x = [self.base; R];
        for (r, x) in x.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the row.
            unsafe { *x = self.base.add((self.first + row + r) * self.stride) };
        }
        x
    }
}

/// `y = W x` for some outputs.
#[derive(Clone)]
pub(crate) struct LinearJob<'a> {
    pub(crate) weights: Weights,
    pub(crate) source: Source,
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
    let rows = job.source.count;
    for start in job.outputs.clone().step_by(PANEL) {
        let count = PANEL.min(job.outputs.end - start);
        let mut r = 0;
        // SAFETY: rows and outputs are inside the job.
        unsafe {
            // Eight rows take 16 registers for accumulators and partial sums, four take 8.
            if V::WIDE {
                while r + 8 <= rows {
                    several::<V, D, 8>(weights, job, r, start, count);
                    r += 8;
                }
                match rows - r {
                    7 => several::<V, D, 7>(weights, job, r, start, count),
                    6 => several::<V, D, 6>(weights, job, r, start, count),
                    5 => several::<V, D, 5>(weights, job, r, start, count),
                    _ => {}
                }
            } else {
                while r + 4 <= rows {
                    several::<V, D, 4>(weights, job, r, start, count);
                    r += 4;
                }
            }
            match rows - r {
                4 => several::<V, D, 4>(weights, job, r, start, count),
                3 => several::<V, D, 3>(weights, job, r, start, count),
                2 => several::<V, D, 2>(weights, job, r, start, count),
                1 => one::<V, D>(weights, job, r, start, count),
                _ => {}
            }
        }
    }
}

/// `R` rows at a time.
///
/// # Safety
/// As for [`linear`].
#[inline(always)]
unsafe fn several<V: Vector, D: Decoder<V>, const R: usize>(
    weights: &D,
    job: &LinearJob,
    r: usize,
    start: usize,
    count: usize,
) {
    let mut y = [[0.0; PANEL]; R];
    // SAFETY: passed on from the caller.
    unsafe {
        let x = job.source.pointers::<R>(r);
        panel::<V, D, R>(weights, start, count, &x, &mut y);
        for (i, y) in y.iter().enumerate() {
            job.put(r + i, start, &y[..count]);
        }
    }
}

/// The last row, [`OUTPUTS`] outputs at a time.
///
/// # Safety
/// As for [`linear`].
#[inline(always)]
unsafe fn one<V: Vector, D: Decoder<V>>(
    weights: &D,
    job: &LinearJob,
    r: usize,
    start: usize,
    count: usize,
) {
    for first in (0..count).step_by(OUTPUTS) {
        let some = OUTPUTS.min(count - first);
        let mut y = [[0.0; OUTPUTS]];
        // SAFETY: passed on from the caller.
        unsafe {
            let x = job.source.pointers::<1>(r);
            block::<V, D, 1>(weights, start + first, some, &x, &mut y);
            job.put(r, start + first, &y[0][..some]);
        }
    }
}

impl LinearJob<'_> {
    /// Stores finished outputs `start ..` of job row `r`.
    ///
    /// # Safety
    /// They are inside the target.
    #[inline(always)]
    pub(super) unsafe fn put(&self, r: usize, start: usize, values: &[f32]) {
        // SAFETY: the caller vouches for the place.
        unsafe {
            let to = self.place(r, start);
            for (n, value) in values.iter().enumerate() {
                match self.store {
                    Store::Set => *to.add(n) = *value,
                    Store::Add => *to.add(n) += *value,
                }
            }
        }
    }

    /// Where output `start` of job row `r` goes.
    ///
    /// # Safety
    /// It is inside the target.
    #[inline(always)]
    pub(super) unsafe fn place(&self, r: usize, start: usize) -> *mut f32 {
        // SAFETY: the caller vouches for the place.
        unsafe {
            let row = *self.target.rows.get_unchecked(r) as usize;
            self.target.base.add(row * self.target.stride + start - self.target.first)
        }
    }
}
