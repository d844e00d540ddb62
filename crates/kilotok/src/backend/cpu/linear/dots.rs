//! Dot products of activation rows with weight rows: the inner loops of every matrix.
//!
//! One (row, output) pair owns one vector accumulator; chunk after chunk, vector after vector,
//! `acc = x * w + acc` with `w` the dequantised weight, and at the end the lanes are summed in a
//! fixed order. How many rows and outputs share a loop changes which registers hold what, never
//! the order of the sums of a pair: this is where batch invariance (law 1) comes from.
#![allow(clippy::needless_range_loop, reason = "constant index loops unroll into registers")]
#![allow(unsafe_code, reason = "generic over the vector operations of a SIMD path")]

use super::super::simd::Vector;
use super::decode::{CHUNK_BYTES, Decoder};

/// Outputs that [`block`] computes at once.
pub(crate) const OUTPUTS: usize = 8;

/// `R x N` dot products of the rows at `x` with weight rows `first .. first + N`.
///
/// # Safety
/// The decoder's contract; every `x` is readable for its columns rounded up to whole chunks.
#[inline(always)]
unsafe fn dots<V: Vector, D: Decoder<V>, const R: usize, const N: usize>(
    weights: &D,
    first: usize,
    x: &[*const f32; R],
    out: &mut [[f32; OUTPUTS]; R],
    at: usize,
) {
    // SAFETY: pointers stay inside the extents the caller vouches for.
    unsafe {
        let mut acc = [[V::splat(0.0); N]; R];
        let mut rows = [weights.row(first); N];
        for n in 1..N {
            rows[n] = weights.row(first + n);
        }
        let whole = weights.cols() / D::CHUNK;
        for index in 0..whole {
            let mut chunks = [weights.chunk(rows[0], index); N];
            for n in 1..N {
                chunks[n] = weights.chunk(rows[n], index);
            }
            accumulate::<V, D, R, N>(weights, &mut chunks, x, index, &mut acc);
        }
        if whole * D::CHUNK < weights.cols() {
            let mut buffers = [[0; CHUNK_BYTES]; N];
            let mut chunks = [weights.tail(rows[0], &mut buffers[0]); N];
            for n in 1..N {
                chunks[n] = weights.tail(rows[n], &mut buffers[n]);
            }
            accumulate::<V, D, R, N>(weights, &mut chunks, x, whole, &mut acc);
        }
        for r in 0..R {
            for n in 0..N {
                out[r][at + n] = acc[r][n].sum();
            }
        }
    }
}

/// Adds the products of one chunk.
///
/// # Safety
/// As for [`dots`].
#[inline(always)]
unsafe fn accumulate<V: Vector, D: Decoder<V>, const R: usize, const N: usize>(
    weights: &D,
    chunks: &mut [D::Chunk; N],
    x: &[*const f32; R],
    index: usize,
    acc: &mut [[V; N]; R],
) {
    for j in 0..D::VECTORS {
        // SAFETY: `x` covers whole chunks; the chunk has `VECTORS` vectors.
        unsafe {
            let mut activations = [V::splat(0.0); R];
            for r in 0..R {
                activations[r] = V::load(x[r].add(index * D::CHUNK + j * V::LANES));
            }
            for n in 0..N {
                let w = weights.next(&mut chunks[n]);
                for r in 0..R {
                    acc[r][n] = activations[r].fma(w, acc[r][n]);
                }
            }
        }
    }
}

/// `R` rows times up to [`OUTPUTS`] weight rows, in register blocks that suit the path.
///
/// # Safety
/// As for [`dots`]; `count <= OUTPUTS` and `first + count` is at most the number of rows.
#[inline(always)]
pub(crate) unsafe fn block<V: Vector, D: Decoder<V>, const R: usize>(
    weights: &D,
    first: usize,
    count: usize,
    x: &[*const f32; R],
    out: &mut [[f32; OUTPUTS]; R],
) {
    // SAFETY: passed on from the caller.
    unsafe {
        let mut n = 0;
        if R == 1 {
            if count == OUTPUTS {
                dots::<V, D, R, 8>(weights, first, x, out, 0);
                return;
            }
        } else if R < 8 && V::WIDE {
            while n + 4 <= count {
                dots::<V, D, R, 4>(weights, first + n, x, out, n);
                n += 4;
            }
        } else if R < 8 || V::WIDE {
            while n + 2 <= count {
                dots::<V, D, R, 2>(weights, first + n, x, out, n);
                n += 2;
            }
        }
        while n < count {
            dots::<V, D, R, 1>(weights, first + n, x, out, n);
            n += 1;
        }
    }
}
