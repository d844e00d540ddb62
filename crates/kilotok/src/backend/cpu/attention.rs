//! Attention of some query heads of one row, the kernel under the three attention ops.
//!
//! Keys are taken in tiles that are aligned to absolute positions, with a running maximum and
//! sum (online softmax), so the result of a row depends on its position and its keys alone: not
//! on paging, on ring wrap-around or on the rows beside it.
#![allow(clippy::needless_range_loop, reason = "constant index loops unroll into registers")]
#![allow(unsafe_code, reason = "generic over the vector operations of a SIMD path")]

use std::ops::Range;

use super::super::{Page, Slot};
use super::cache::{Cache, padded};
use super::linear::{Gathered, OUTPUTS, Shared, block};
use super::simd::{Vector, exp};
use super::workers::Compute;

/// Positions of a tile.
const TILE: usize = 64;
/// Query heads of a task.
const HEADS: usize = 8;

/// What a thread needs to attend: one per thread, made at start-up.
#[derive(Debug)]
pub(super) struct AttendScratch {
    queries: Vec<f32>,
    outputs: Vec<f32>,
    scores: Vec<f32>,
}

impl AttendScratch {
    /// For heads of at most these dimensions.
    pub(super) fn new(qk_dim: usize, v_dim: usize) -> Self {
        Self {
            queries: vec![0.0; HEADS * padded(qk_dim)],
            outputs: vec![0.0; HEADS * padded(v_dim)],
            scores: vec![0.0; HEADS * TILE],
        }
    }

    /// Bytes held.
    pub(super) fn num_bytes(&self) -> usize {
        (self.queries.len() + self.outputs.len() + self.scores.len()) * 4
    }
}

/// Keys and values that are in no cache yet: the rows of a drafted block.
#[derive(Clone, Copy)]
pub(super) struct BlockKeys<'a> {
    /// Position of the first row.
    pub(super) start: usize,
    /// `[kv_heads, rows, padded(head_dim)]`
    pub(super) keys: &'a [f32],
    /// As `keys`.
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
}

/// Where the keys of one query row are.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) cache: &'a Cache,
    pub(super) slot: Slot,
    pub(super) pages: &'a [Page],
    pub(super) block: Option<BlockKeys<'a>>,
}

impl<'a> Keys<'a> {
    /// Keys and values of a head from `position` on, and for how many positions.
    fn at(&self, head: usize, position: usize) -> (&'a [f32], &'a [f32], usize) {
        match self.block {
            Some(b) if position >= b.start => {
                let row = head * b.rows + (position - b.start);
                let (k, v) = (padded(self.cache.qk_dim), padded(self.cache.v_dim));
                (&b.keys[row * k..], &b.values[row * v..], b.rows - (position - b.start))
            }
            _ => {
                let (row, mut run) = self.cache.rows_at(self.slot, self.pages, head, position);
                if let Some(b) = self.block {
                    run = run.min(b.start - position);
                }
                (self.cache.keys(row), self.cache.values(row), run)
            }
        }
    }
}

/// Up to [`HEADS`] query heads of one row that share a key/value head.
pub(super) struct AttendJob<'a> {
    /// `[heads, qk_dim]`
    queries: &'a [f32],
    heads: usize,
    scale: f32,
    sinks: Option<&'a [f32]>,
    keys: Keys<'a>,
    kv_head: usize,
    visible: Range<usize>,
    scratch: &'a mut AttendScratch,
    /// `[heads, v_dim]`
    out: &'a mut [f32],
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

/// # Safety
/// The path's features.
#[inline(always)]
pub(super) unsafe fn attend<V: Vector>(job: &mut AttendJob) {
    let heads = job.heads;
    let (qk_dim, v_dim) = (job.keys.cache.qk_dim, job.keys.cache.v_dim);
    let (k_len, v_len) = (padded(qk_dim), padded(v_dim));
    let AttendScratch { queries, outputs, scores } = &mut *job.scratch;
    for (to, from) in queries.chunks_exact_mut(k_len).zip(job.queries.chunks_exact(qk_dim)) {
        to[..qk_dim].copy_from_slice(from);
        to[qk_dim..].fill(0.0);
    }
    outputs[..heads * v_len].fill(0.0);
    // Running maximum and sum of every head; a sink is a logit without a value.
    let mut top = [f32::NEG_INFINITY; HEADS];
    let mut sum = [0f32; HEADS];
    if let Some(sinks) = job.sinks {
        top[..heads].copy_from_slice(sinks);
        sum[..heads].fill(1.0);
    }
    let mut keys = [std::ptr::null(); TILE];
    let mut values = [std::ptr::null(); TILE];
    let mut position = job.visible.start;
    while position < job.visible.end {
        let end = ((position / TILE + 1) * TILE).min(job.visible.end);
        let count = end - position;
        let mut n = 0;
        while n < count {
            let (k, v, run) = job.keys.at(job.kv_head, position + n);
            let run = run.min(count - n);
            assert!(k.len() >= run * k_len && v.len() >= run * v_len);
            for i in 0..run {
                keys[n + i] = k[i * k_len..].as_ptr();
                values[n + i] = v[i * v_len..].as_ptr();
            }
            n += run;
        }
        let tile = Gathered { rows: &keys[..count], cols: k_len };
        for_row_runs!(heads, h, R => {
            let mut x = [queries.as_ptr(); R];
            for (r, x) in x.iter_mut().enumerate() {
                *x = queries[(h + r) * k_len..].as_ptr();
            }
            for first in (0..count).step_by(OUTPUTS) {
                let some = OUTPUTS.min(count - first);
                let mut dots = [[0.0; OUTPUTS]; R];
                // SAFETY: every key and query is `k_len` floats, a multiple of the lanes.
                unsafe { block::<V, _, R>(&tile, first, some, &x, &mut dots) };
                for (r, dots) in dots.iter().enumerate() {
                    for (n, dot) in dots.iter().take(some).enumerate() {
                        scores[(h + r) * TILE + first + n] = dot * job.scale;
                    }
                }
            }
        });
        let mut correction = [0f32; HEADS];
        for h in 0..heads {
            let scores = &mut scores[h * TILE..][..TILE];
            scores[count..count.next_multiple_of(V::LANES)].fill(f32::NEG_INFINITY);
            // SAFETY: `scores` holds whole vectors.
            let largest = unsafe {
                let mut largest = V::splat(top[h]);
                for at in (0..count).step_by(V::LANES) {
                    largest = largest.max(V::load(scores.as_ptr().add(at)));
                }
                let mut lanes = [f32::NEG_INFINITY; 16];
                largest.store(lanes.as_mut_ptr());
                lanes.into_iter().fold(top[h], f32::max)
            };
            correction[h] = top[h] - largest;
            top[h] = largest;
            // SAFETY: `scores` and `correction` hold whole vectors.
            unsafe {
                let mut partial = V::splat(0.0);
                for at in (0..count).step_by(V::LANES) {
                    let p = exp(V::load(scores.as_ptr().add(at)).sub(V::splat(largest)));
                    p.store(scores.as_mut_ptr().add(at));
                    if at + V::LANES > count {
                        scores[count..at + V::LANES].fill(0.0);
                    }
                    partial = partial.add(V::load(scores.as_ptr().add(at)));
                }
                let mut lane = [correction[h]; 16];
                exp(V::load(lane.as_ptr())).store(lane.as_mut_ptr());
                correction[h] = lane[0];
                sum[h] = sum[h] * correction[h] + partial.sum();
            }
        }
        for_row_runs!(heads, h, R => {
            for d in (0..v_len).step_by(V::LANES) {
                // SAFETY: outputs and values are `v_len` floats a row, whole vectors.
                unsafe {
                    let mut acc = [V::splat(0.0); R];
                    for r in 0..R {
                        let old = V::load(outputs.as_ptr().add((h + r) * v_len + d));
                        acc[r] = old.mul(V::splat(correction[h + r]));
                    }
                    for (n, value) in values[..count].iter().enumerate() {
                        let v = V::load(value.add(d));
                        for r in 0..R {
                            let p = *scores.get_unchecked((h + r) * TILE + n);
                            acc[r] = V::splat(p).fma(v, acc[r]);
                        }
                    }
                    for r in 0..R {
                        acc[r].store(outputs.as_mut_ptr().add((h + r) * v_len + d));
                    }
                }
            }
        });
        position = end;
    }
    for h in 0..heads {
        let from = &outputs[h * v_len..][..v_dim];
        for (to, value) in job.out[h * v_dim..][..v_dim].iter_mut().zip(from) {
            *to = value / sum[h];
        }
    }
}

/// Attention of one query row.
pub(super) struct QueryRow<'a> {
    pub(super) keys: Keys<'a>,
    pub(super) visible: Range<usize>,
}

/// Heads and buffers of one attention op.
pub(super) struct Heads<'a> {
    pub(super) count: usize,
    /// Offset of every query head inside a row of `qkv`; heads of a group are adjacent.
    pub(super) offsets: &'a [usize],
    /// `[rows, qkv_stride]`
    pub(super) qkv: &'a [f32],
    pub(super) qkv_stride: usize,
    pub(super) sinks: Option<&'a [f32]>,
}

/// Attends for `rows` rows; `row(i)` says where the keys of row `i` are. `out` is
/// `[rows, heads * v_dim]`.
pub(super) fn run<'a>(
    compute: &Compute,
    scratch: &mut [AttendScratch],
    rows: usize,
    shape: &Heads,
    cache: &Cache,
    row: impl Fn(usize) -> QueryRow<'a> + Sync,
    out: &mut [f32],
) {
    let (qk_dim, v_dim) = (cache.qk_dim, cache.v_dim);
    let group = shape.count / cache.kv_heads;
    let parts = group.div_ceil(HEADS);
    let tasks_per_row = cache.kv_heads * parts;
    let width = shape.count * v_dim;
    assert!(out.len() >= rows * width && scratch.len() >= compute.workers.threads());
    let keys: usize = (0..rows).map(|i| row(i).visible.len()).sum();
    let work = keys * shape.count * (qk_dim + v_dim);
    let (base, threads) = (Shared(out.as_mut_ptr()), Shared(scratch.as_mut_ptr()));
    compute.tasks(rows * tasks_per_row, work, |task, thread| {
        let (base, threads) = (&base, &threads);
        let (i, task) = (task / tasks_per_row, task % tasks_per_row);
        let (kv_head, part) = (task / parts, task % parts);
        let first = kv_head * group + part * HEADS;
        let heads = HEADS.min(group - part * HEADS);
        let QueryRow { keys, visible } = row(i);
        // SAFETY: scratch number `thread` is used by that thread alone; heads `first ..` of row
        // `i` are this task's alone and inside `out`; both stay borrowed during the call.
        let (scratch, out) = unsafe {
            let out = base.0.add(i * width + first * v_dim);
            (&mut *threads.0.add(thread), std::slice::from_raw_parts_mut(out, heads * v_dim))
        };
        let mut job = AttendJob {
            queries: &shape.qkv[i * shape.qkv_stride + shape.offsets[first]..][..heads * qk_dim],
            heads,
            scale: 1.0 / (qk_dim as f32).sqrt(),
            sinks: shape.sinks.map(|s| &s[first..first + heads]),
            keys,
            kv_head,
            visible,
            scratch,
            out,
        };
        // SAFETY: `kernels` were handed out after feature detection.
        unsafe { (compute.kernels.attend)(&mut job) }
    });
}
