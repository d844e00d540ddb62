//! Dot products of activation rows with weight rows: the inner loops of every matrix.
//!
//! One (row, output) pair owns one vector accumulator. It takes chunk after chunk: the products
//! of a chunk's vectors are summed in order, and the sum times the chunk's scale is added (a
//! format without scales adds every product at once). At the end the lanes are summed in a fixed
//! order. How many rows and outputs share a loop, and in which pieces columns are taken, changes
//! what stays in registers and caches, never the order of a pair's sums: this is where batch
//! invariance (law 1) comes from.
#![allow(clippy::needless_range_loop, reason = "constant index loops unroll into registers")]
#![allow(unsafe_code, reason = "generic over the vector operations of a SIMD path")]

use super::super::simd::Vector;
use super::decode::{CHUNK_BYTES, Decoder};

/// Outputs that [`block`] computes at once.
pub(super) const OUTPUTS: usize = 8;

/// Outputs that [`panel`] computes at once.
pub(super) const PANEL: usize = 32;

/// Columns after which [`panel`] turns to the next output: eight rows of them fill a third of a
/// 48 KB first-level cache.
const COLUMNS: usize = 512;

/// Weight rows that [`panel`] asks for ahead of their use, enough to cover a memory latency.
const AHEAD: usize = 6;

/// Adds the products of one chunk of `N` weight rows with `R` rows.
///
/// # Safety
/// The decoder's contract; `x` is readable for the columns of chunk `index`.
#[inline(always)]
unsafe fn add<V: Vector, D: Decoder<V>, const R: usize, const N: usize>(
    weights: &D,
    chunks: &mut [D::Chunk; N],
    x: &[*const f32; R],
    index: usize,
    acc: &mut [[V; N]; R],
) {
    // SAFETY: `x` covers the chunk, which has `VECTORS` vectors.
    unsafe {
        let mut partial = [[V::splat(0.0); N]; R];
        for j in 0..D::VECTORS {
            let mut activations = [V::splat(0.0); R];
            for r in 0..R {
                activations[r] = V::load(x[r].add(index * D::CHUNK + j * V::LANES));
            }
            for n in 0..N {
                let w = weights.next(&mut chunks[n]);
                for r in 0..R {
                    if !D::SCALED {
                        acc[r][n] = activations[r].fma(w, acc[r][n]);
                    } else if j == 0 {
                        partial[r][n] = activations[r].mul(w);
                    } else {
                        partial[r][n] = activations[r].fma(w, partial[r][n]);
                    }
                }
            }
        }
        if D::SCALED {
            for n in 0..N {
                let scale = weights.scale(&chunks[n]);
                for r in 0..R {
                    acc[r][n] = partial[r][n].fma(scale, acc[r][n]);
                }
            }
        }
    }
}

/// Adds chunks `first .. last` of weight rows `output .. output + N`, and asks for the same
/// chunks of the weight rows `ahead` further on.
///
/// # Safety
/// As for [`add`], for all those chunks.
#[inline(always)]
unsafe fn run<V: Vector, D: Decoder<V>, const R: usize, const N: usize>(
    weights: &D,
    output: usize,
    (first, last): (usize, usize),
    ahead: usize,
    x: &[*const f32; R],
    acc: &mut [[V; N]; R],
) {
    // SAFETY: passed on from the caller.
    unsafe {
        let mut rows = [weights.row(output); N];
        for n in 1..N {
            rows[n] = weights.row(output + n);
        }
        for index in first..last {
            let mut chunks = [weights.chunk(rows[0], index); N];
            for n in 1..N {
                chunks[n] = weights.chunk(rows[n], index);
            }
            for n in 0..N {
                weights.prefetch(rows[n], index, ahead);
            }
            add::<V, D, R, N>(weights, &mut chunks, x, index, acc);
        }
    }
}

/// Adds the last, incomplete chunk of one weight row, where there is one.
///
/// # Safety
/// As for [`add`]; `x` is readable for whole chunks.
#[inline(always)]
unsafe fn finish<V: Vector, D: Decoder<V>, const R: usize>(
    weights: &D,
    output: usize,
    x: &[*const f32; R],
    acc: &mut [[V; 1]; R],
) {
    let whole = weights.cols() / D::CHUNK;
    if whole * D::CHUNK < weights.cols() {
        let mut buffer = [0; CHUNK_BYTES];
        // SAFETY: passed on from the caller; the buffer outlives the chunk.
        unsafe {
            let mut chunks = [weights.tail(weights.row(output), &mut buffer)];
            add::<V, D, R, 1>(weights, &mut chunks, x, whole, acc);
        }
    }
}

/// The sum of every accumulator's lanes, four at a time.
///
/// # Safety
/// The path's features.
#[inline(always)]
unsafe fn sums<V: Vector, const R: usize, const N: usize>(acc: &[[V; N]; R]) -> [[f32; N]; R] {
    let mut sums = [[0.0; N]; R];
    let at = |i: usize| (i / N, i % N);
    let fours = R * N / 4 * 4;
    for i in (0..fours).step_by(4) {
        let four = [0, 1, 2, 3].map(|j| acc[at(i + j).0][at(i + j).1]);
        // SAFETY: passed on from the caller.
        let four = unsafe { V::sum4(four) };
        for j in 0..4 {
            sums[at(i + j).0][at(i + j).1] = four[j];
        }
    }
    for i in fours..R * N {
        // SAFETY: passed on from the caller.
        sums[at(i).0][at(i).1] = unsafe { acc[at(i).0][at(i).1].sum() };
    }
    sums
}

/// `R` rows times `N` weight rows, all columns at once, to `out[..][at .. at + N]`.
///
/// # Safety
/// As for [`block`].
#[inline(always)]
unsafe fn direct<V: Vector, D: Decoder<V>, const R: usize, const N: usize>(
    weights: &D,
    output: usize,
    x: &[*const f32; R],
    out: &mut [[f32; OUTPUTS]; R],
    at: usize,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        let mut acc = [[V::splat(0.0); N]; R];
        let chunks = (0, weights.cols() / D::CHUNK);
        run::<V, D, R, N>(weights, output, chunks, N, x, &mut acc);
        if weights.cols() % D::CHUNK > 0 {
            for n in 0..N {
                let mut one = [[V::splat(0.0)]; R];
                for r in 0..R {
                    one[r][0] = acc[r][n];
                }
                finish::<V, D, R>(weights, output + n, x, &mut one);
                for r in 0..R {
                    acc[r][n] = one[r][0];
                }
            }
        }
        let sums = sums(&acc);
        for r in 0..R {
            for n in 0..N {
                out[r][at + n] = sums[r][n];
            }
        }
    }
}

/// `R` rows times up to [`OUTPUTS`] weight rows, for activations that fit into a first-level
/// cache.
///
/// # Safety
/// The decoder's contract; `count <= OUTPUTS`, `output + count` is at most the number of weight
/// rows, and every `x` is readable for the columns rounded up to whole chunks.
#[inline(always)]
pub(super) unsafe fn block<V: Vector, D: Decoder<V>, const R: usize>(
    weights: &D,
    output: usize,
    count: usize,
    x: &[*const f32; R],
    out: &mut [[f32; OUTPUTS]; R],
) {
    // SAFETY: passed on from the caller.
    unsafe {
        let mut n = 0;
        if R <= 2 || (R == 4 && V::WIDE) {
            while n + 4 <= count {
                direct::<V, D, R, 4>(weights, output + n, x, out, n);
                n += 4;
            }
        } else if V::WIDE || R == 4 {
            while n + 2 <= count {
                direct::<V, D, R, 2>(weights, output + n, x, out, n);
                n += 2;
            }
        }
        while n < count {
            direct::<V, D, R, 1>(weights, output + n, x, out, n);
            n += 1;
        }
    }
}

/// `R` rows times up to [`PANEL`] weight rows, some columns after the other, so that the rows'
/// columns stay in a first-level cache while all outputs pass by.
///
/// # Safety
/// As for [`block`], with [`PANEL`] in place of [`OUTPUTS`].
#[inline(always)]
pub(super) unsafe fn panel<V: Vector, D: Decoder<V>, const R: usize>(
    weights: &D,
    output: usize,
    count: usize,
    x: &[*const f32; R],
    out: &mut [[f32; PANEL]; R],
) {
    // SAFETY: passed on from the caller.
    unsafe {
        let mut sums = [[[V::splat(0.0)]; R]; PANEL];
        let (whole, step) = (weights.cols() / D::CHUNK, COLUMNS / D::CHUNK);
        for first in (0..whole).step_by(step) {
            let chunks = (first, whole.min(first + step));
            for n in 0..count {
                let mut acc = sums[n];
                run::<V, D, R, 1>(weights, output + n, chunks, AHEAD, x, &mut acc);
                sums[n] = acc;
            }
        }
        for n in 0..count {
            let mut acc = sums[n];
            finish::<V, D, R>(weights, output + n, x, &mut acc);
            let sums = self::sums(&acc);
            for r in 0..R {
                out[r][n] = sums[r][0];
            }
        }
    }
}
