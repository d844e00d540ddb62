//! What the three attention ops share: where keys are, and the split into tasks.
#![allow(unsafe_code, reason = "hands disjoint outputs of one buffer to several threads")]

use std::ops::Range;

use super::super::{Page, Slot};
use super::attend::{AttendJob, AttendScratch};
use super::cache::{Cache, Run, key_floats, padded};
use super::linear::Shared;
use super::workers::Compute;

/// Positions of a tile.
pub(super) const TILE: usize = 64;
/// Query heads of a task.
pub(super) const HEADS: usize = 8;

/// Keys and values that are in no cache yet: the rows of a drafted block.
#[derive(Clone, Copy)]
pub(super) struct BlockKeys<'a> {
    /// Position of the first row.
    pub(super) start: usize,
    /// `[kv_heads, key_floats(rows, head_dim)]`
    pub(super) keys: &'a [f32],
    /// `[kv_heads, rows, padded(head_dim)]`
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
    /// Keys and values of a head from `position` on.
    pub(super) fn at(&self, head: usize, position: usize) -> Run<'a> {
        match self.block {
            Some(b) if position >= b.start => {
                let (offset, v) = (position - b.start, padded(self.cache.v_dim));
                let keys = key_floats(b.rows, self.cache.qk_dim);
                Run {
                    keys: &b.keys[head * keys..][..keys],
                    offset,
                    values: &b.values[(head * b.rows + offset) * v..],
                    len: b.rows - offset,
                }
            }
            _ => {
                let mut run = self.cache.run_at(self.slot, self.pages, head, position);
                if let Some(b) = self.block {
                    run.len = run.len.min(b.start - position);
                }
                run
            }
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
