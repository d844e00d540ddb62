//! Attention of some query heads of one row, the kernel under the three attention ops.
//!
//! Keys are taken in tiles that are aligned to absolute positions, with a running maximum and
//! sum (online softmax). A score is one sum over dimensions in order, in the lane of its key, so
//! the result of a row depends on its position and its keys alone: not on paging, on ring
//! wrap-around, on where in a vector a key stands or on the rows beside it.
#![allow(clippy::needless_range_loop, reason = "constant index loops unroll into registers")]
#![allow(unsafe_code, reason = "generic over the vector operations of a SIMD path")]

use std::ops::Range;

use super::attention::{HEADS, Keys, TILE};
use super::cache::{LANES, key_place, padded};
use super::simd::{Vector, exp};

/// Scores of a head: a tile, and room for the lanes of its first and last vector that belong to
/// positions outside.
const SCORES: usize = LANES + TILE + LANES;

/// What a thread needs to attend: one per thread, made at start-up.
#[derive(Debug)]
pub(super) struct AttendScratch {
    outputs: Vec<f32>,
    scores: Vec<f32>,
}

impl AttendScratch {
    /// For heads of at most this value dimension.
    pub(super) fn new(v_dim: usize) -> Self {
        Self { outputs: vec![0.0; HEADS * padded(v_dim)], scores: vec![0.0; HEADS * SCORES] }
    }

    /// Bytes held.
    pub(super) fn num_bytes(&self) -> usize {
        (self.outputs.len() + self.scores.len()) * 4
    }
}

/// Up to [`HEADS`] query heads of one row that share a key/value head.
pub(super) struct AttendJob<'a> {
    /// `[heads, qk_dim]`
    pub(super) queries: &'a [f32],
    pub(super) heads: usize,
    pub(super) scale: f32,
    pub(super) sinks: Option<&'a [f32]>,
    pub(super) keys: Keys<'a>,
    pub(super) kv_head: usize,
    pub(super) visible: Range<usize>,
    pub(super) scratch: &'a mut AttendScratch,
    /// `[heads, v_dim]`
    pub(super) out: &'a mut [f32],
}

/// The keys and values of a tile.
struct Tile {
    /// Dimension 0 of a vector of keys; the next dimensions are [`LANES`] floats apart.
    keys: [*const f32; TILE],
    /// Where each vector's scores go, in a row of [`SCORES`].
    places: [usize; TILE],
    vectors: usize,
    values: [*const f32; TILE],
    count: usize,
}

impl Tile {
    const fn new() -> Self {
        let none = std::ptr::null();
        Self { keys: [none; TILE], places: [0; TILE], vectors: 0, values: [none; TILE], count: 0 }
    }

    /// Finds `count` positions from `position` on.
    #[inline(always)]
    fn find<V: Vector>(&mut self, keys: &Keys, head: usize, position: usize, count: usize) {
        let (qk_dim, v_len) = (keys.cache.qk_dim, padded(keys.cache.v_dim));
        (self.vectors, self.count) = (0, count);
        let mut n = 0;
        while n < count {
            let run = keys.at(head, position + n);
            let len = run.len.min(count - n);
            let last = run.offset + len - 1;
            assert!(key_place(last, qk_dim) + (qk_dim - 1) * LANES < run.keys.len());
            assert!(run.values.len() >= len * v_len);
            // Only the first run of a tile can start inside a vector: all others start a page,
            // a ring or a block.
            let first = run.offset / V::LANES * V::LANES;
            for offset in (first..=last).step_by(V::LANES) {
                self.keys[self.vectors] = run.keys[key_place(offset, qk_dim)..].as_ptr();
                self.places[self.vectors] = LANES + n + offset - run.offset;
                self.vectors += 1;
            }
            for i in 0..len {
                self.values[n + i] = run.values[i * v_len..].as_ptr();
            }
            n += len;
        }
    }
}

/// Splits `0..$all` into runs of the lengths named, longest first, and calls `$body` with `$N`
/// and the run's start.
macro_rules! for_runs {
    ($all:expr, $start:ident, $N:ident in [$($len:literal),+] => $body:expr) => {{
        let all: usize = $all;
        let mut $start = 0;
        $(
            while all - $start >= $len {
                const $N: usize = $len;
                $body;
                $start += $N;
            }
        )+
        debug_assert_eq!($start, all);
    }};
}

/// # Safety
/// The path's features.
#[inline(always)]
pub(super) unsafe fn attend<V: Vector>(job: &mut AttendJob) {
    let heads = job.heads;
    let (qk_dim, v_dim) = (job.keys.cache.qk_dim, job.keys.cache.v_dim);
    let v_len = padded(v_dim);
    let AttendScratch { outputs, scores } = &mut *job.scratch;
    assert!(heads <= HEADS && job.queries.len() >= heads * qk_dim);
    assert!(outputs.len() >= heads * v_len && scores.len() >= heads * SCORES);
    let (queries, outputs_at) = (job.queries.as_ptr(), outputs.as_mut_ptr());
    outputs[..heads * v_len].fill(0.0);
    // Running maximum and sum of every head; a sink is a logit without a value.
    let mut top = [f32::NEG_INFINITY; HEADS];
    let mut sum = [0f32; HEADS];
    if let Some(sinks) = job.sinks {
        top[..heads].copy_from_slice(sinks);
        sum[..heads].fill(1.0);
    }
    let mut tile = Tile::new();
    let mut position = job.visible.start;
    while position < job.visible.end {
        let end = ((position / TILE + 1) * TILE).min(job.visible.end);
        tile.find::<V>(&job.keys, job.kv_head, position, end - position);
        // SAFETY: the tile's pointers are those of whole vectors of keys and rows of values
        // (checked when it was found); scores and outputs have room for all heads.
        unsafe {
            for_runs!(heads, h, R in [4, 3, 2, 1] => {
                let (queries, scores) = (queries.add(h * qk_dim), scores.as_mut_ptr().add(h * SCORES));
                if V::WIDE {
                    for_runs!(tile.vectors, first, N in [4, 2, 1] => {
                        dots::<V, R, N>(&tile, first, (queries, qk_dim), job.scale, scores);
                    });
                } else {
                    for_runs!(tile.vectors, first, N in [2, 1] => {
                        dots::<V, R, N>(&tile, first, (queries, qk_dim), job.scale, scores);
                    });
                }
            });
            let correction = softmax::<V>(heads, tile.count, scores, &mut top, &mut sum);
            for_runs!(heads, h, R in [4, 3, 2, 1] => {
                let (outputs, scores) = (outputs_at.add(h * v_len), scores.as_ptr().add(h * SCORES));
                let correction = &correction[h..][..R];
                if V::WIDE {
                    for_runs!(v_len / V::LANES, d, N in [4, 2, 1] => {
                        mix::<V, R, N>(&tile, d * V::LANES, correction, scores, outputs, v_len);
                    });
                } else {
                    for_runs!(v_len / V::LANES, d, N in [2, 1] => {
                        mix::<V, R, N>(&tile, d * V::LANES, correction, scores, outputs, v_len);
                    });
                }
            });
        }
        position = end;
    }
    for h in 0..heads {
        let from = &outputs[h * v_len..][..v_dim];
        for (to, value) in job.out[h * v_dim..][..v_dim].iter_mut().zip(from) {
            *to = value / sum[h];
        }
    }
}

/// Scores of `R` heads and the `N` vectors of keys from vector `first` on.
///
/// # Safety
/// The path's features; the vectors are inside the tile, `queries` is `[R, qk_dim]`, `scores`
/// `[R, SCORES]`.
#[inline(always)]
unsafe fn dots<V: Vector, const R: usize, const N: usize>(
    tile: &Tile,
    first: usize,
    (queries, qk_dim): (*const f32, usize),
    scale: f32,
    scores: *mut f32,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        let mut keys = [std::ptr::null(); N];
        keys.copy_from_slice(&tile.keys[first..first + N]);
        let mut acc = [[V::splat(0.0); N]; R];
        for d in 0..qk_dim {
            let mut k = [V::splat(0.0); N];
            for n in 0..N {
                k[n] = V::load(keys[n].add(d * LANES));
            }
            for r in 0..R {
                let q = V::splat(*queries.add(r * qk_dim + d));
                for n in 0..N {
                    acc[r][n] = q.fma(k[n], acc[r][n]);
                }
            }
        }
        for r in 0..R {
            for n in 0..N {
                let to = scores.add(r * SCORES + tile.places[first + n]);
                acc[r][n].mul(V::splat(scale)).store(to);
            }
        }
    }
}

/// Turns scores into probabilities relative to each head's running maximum; returns the factors
/// of what was summed before.
///
/// # Safety
/// The path's features.
#[inline(always)]
unsafe fn softmax<V: Vector>(
    heads: usize,
    count: usize,
    scores: &mut [f32],
    top: &mut [f32; HEADS],
    sum: &mut [f32; HEADS],
) -> [f32; LANES] {
    let mut correction = [0f32; LANES];
    let mut sums = [0f32; HEADS];
    for h in 0..heads {
        let scores = &mut scores[h * SCORES + LANES..][..TILE];
        scores[count..count.next_multiple_of(V::LANES)].fill(f32::NEG_INFINITY);
        // SAFETY: the caller vouches for the features; `scores` and arrays hold whole vectors.
        unsafe {
            let mut largest = V::splat(top[h]);
            for at in (0..count).step_by(V::LANES) {
                largest = largest.max(V::load(scores.as_ptr().add(at)));
            }
            let mut lanes = [f32::NEG_INFINITY; LANES];
            largest.store(lanes.as_mut_ptr());
            let largest = largest_of(lanes);
            correction[h] = top[h] - largest;
            top[h] = largest;
            let mut partial = V::splat(0.0);
            for at in (0..count).step_by(V::LANES) {
                let p = exp(V::load(scores.as_ptr().add(at)).sub(V::splat(largest)));
                p.store(scores.as_mut_ptr().add(at));
                if at + V::LANES > count {
                    scores[count..at + V::LANES].fill(0.0);
                }
                partial = partial.add(V::load(scores.as_ptr().add(at)));
            }
            sums[h] = partial.sum();
        }
    }
    // SAFETY: as above.
    unsafe {
        for at in (0..heads).step_by(V::LANES) {
            let at = correction.as_mut_ptr().add(at);
            exp(V::load(at)).store(at);
        }
    }
    for h in 0..heads {
        sum[h] = sum[h] * correction[h] + sums[h];
    }
    correction
}

/// The largest of the lanes.
#[inline(always)]
fn largest_of(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = if lanes[half + i] > lanes[i] { lanes[half + i] } else { lanes[i] };
        }
    }
    lanes[0]
}

/// Adds the tile's values, key by key, to the `N` vectors from dimension `d` on of `R` heads'
/// outputs.
///
/// # Safety
/// The path's features; `scores` is `[R, SCORES]`, `outputs` `[R, v_len]`, and the dimensions are
/// inside values and outputs.
#[inline(always)]
unsafe fn mix<V: Vector, const R: usize, const N: usize>(
    tile: &Tile,
    d: usize,
    correction: &[f32],
    scores: *const f32,
    outputs: *mut f32,
    v_len: usize,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        let mut acc = [[V::splat(0.0); N]; R];
        for r in 0..R {
            for n in 0..N {
                let old = V::load(outputs.add(r * v_len + d + n * V::LANES));
                acc[r][n] = old.mul(V::splat(correction[r]));
            }
        }
        for (key, value) in tile.values[..tile.count].iter().enumerate() {
            let mut v = [V::splat(0.0); N];
            for n in 0..N {
                v[n] = V::load(value.add(d + n * V::LANES));
            }
            for r in 0..R {
                let p = V::splat(*scores.add(r * SCORES + LANES + key));
                for n in 0..N {
                    acc[r][n] = p.fma(v[n], acc[r][n]);
                }
            }
        }
        for r in 0..R {
            for n in 0..N {
                acc[r][n].store(outputs.add(r * v_len + d + n * V::LANES));
            }
        }
    }
}
