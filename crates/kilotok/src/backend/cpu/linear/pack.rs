//! Activations laid out for the dot products.
#![allow(unsafe_code, reason = "calls the kernels of a SIMD path")]

use std::ops::Range;

use super::super::simd::Kernels;
use crate::matrix::{Format, Matrix};

/// Rows are padded with zeros to a multiple of this many columns: whole chunks of any decoder.
const PAD: usize = 128;

/// Columns that are split at once.
const BLOCK: usize = 32;

/// Bfloat16 parts of a value on the AMX path.
pub(super) const PARTS: usize = 3;

/// Rows whose parts make up a tile.
pub(super) const TILE_ROWS: usize = 5;

/// Values from one tile to the next in a pair of columns: a cache line, so that no row of a tile
/// crosses into another line, which would make loading the tile several times slower.
pub(super) const TILE_VALUES: usize = 16;

/// Room for a row in every pair of columns, at most [`split_stride`] of one or more rows.
const SPLIT_ROW: usize = 6;

/// Values from one pair of columns to the next in a group of rows: whole lines, an odd number
/// where there are many, so that the pairs of a tile do not compete for the same lines of a
/// cache. One row or two, the usual lot of an expert, share lines with the next pairs.
fn split_stride(rows: usize) -> usize {
    if rows <= 2 {
        return 4 * rows.max(1);
    }
    let tiles = rows.div_ceil(TILE_ROWS);
    TILE_VALUES * if tiles > 3 { tiles | 1 } else { tiles }
}

/// Rows to split: those that `rows` names of `[_, cols]` floats at `x`, columns a multiple of 32.
#[cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux")),
    allow(dead_code, reason = "only the AMX path splits rows")
)]
pub(crate) struct SplitJob<'a> {
    pub(crate) x: *const f32,
    pub(crate) rows: &'a [u32],
    pub(crate) cols: usize,
    /// `[cols / 2, out_stride]`: a pair of columns, lower half first, of part `i` of row `r` at
    /// `[pair, 16 (r / 5) + 3 (r % 5) + i]`.
    pub(crate) out: *mut u32,
    pub(crate) out_stride: usize,
    /// Which pairs: see [`Pairs`].
    pub(crate) pairs: Pairs,
}

/// The order of the 32 columns of a block in sixteen pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairs {
    /// As they come: BF16 and FP8.
    Natural,
    /// Column `4 (w % 8) + w / 8` at place `w`, as MXFP4 is decoded.
    Mxfp4,
}

/// Splits rows into [`PARTS`] bfloat16 each.
///
/// # Safety
/// The path's features; rows and `out` are as the job says.
pub(crate) type Split = unsafe fn(&SplitJob<'_>);

/// `[stride / 2, split_stride]` for every group of rows; see [`SplitJob::out`]. A group starts
/// where `SPLIT_ROW` values a row and pair put it.
#[derive(Debug)]
struct SplitRows(Vec<u32>);

impl SplitRows {
    /// Room for rows of `floats` floats in all.
    fn new(floats: usize) -> Self {
        Self(vec![0; if floats == 0 { 0 } else { floats / 2 * SPLIT_ROW + TILE_VALUES }])
    }

    /// The first value that starts a cache line.
    fn line(&self) -> usize {
        self.0.as_ptr().align_offset(4 * TILE_VALUES).min(self.0.len())
    }
}

/// Activation rows in the orders that their consumers take.
#[derive(Debug)]
pub(crate) struct Packed {
    /// `[rows, stride]`
    natural: Vec<f32>,
    /// `[rows, stride]`, columns in MXFP4 order.
    mxfp4: Vec<f32>,
    /// Split rows on the AMX path alone, for narrow formats and for MXFP4.
    split: [SplitRows; 2],
    lanes: usize,
    splitter: Option<Split>,
    /// `0, 1, 2, ...`
    identity: Vec<u32>,
    orders: Orders,
    /// Floats from one row to the next.
    pub(super) stride: usize,
    /// Columns of a row, padding not included.
    pub(super) cols: usize,
    /// Number of rows.
    pub(super) rows: usize,
    /// Whether all rows are one group.
    whole: bool,
}

/// Which orders the consumers of packed rows need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    f32: bool,
    narrow: bool,
    mxfp4: bool,
}

impl Orders {
    /// The orders needed to multiply by every one of `matrices`.
    pub(crate) fn of<'a>(matrices: impl IntoIterator<Item = &'a Matrix>) -> Self {
        let mut orders = Self::default();
        for matrix in matrices {
            match matrix.format {
                Format::F32 => orders.f32 = true,
                Format::Bf16 | Format::Fp8 { .. } => orders.narrow = true,
                Format::Mxfp4 { .. } => orders.mxfp4 = true,
            }
        }
        orders
    }
}

impl Packed {
    /// Room for `rows` times `per_row` floats of rows padded by [`Packed::padded`].
    pub(crate) fn new(rows: usize, per_row: usize, kernels: &Kernels) -> Self {
        let floats = rows * per_row;
        let (mxfp4, split) = if kernels.split.is_some() { (0, floats) } else { (floats, 0) };
        Self {
            natural: vec![0.0; floats],
            mxfp4: vec![0.0; mxfp4],
            split: [SplitRows::new(split), SplitRows::new(split)],
            lanes: kernels.lanes,
            splitter: kernels.split,
            identity: (0..(floats / PAD) as u32).collect(),
            orders: Orders::default(),
            stride: 0,
            cols: 0,
            rows: 0,
            whole: true,
        }
    }

    /// Floats of a row of `cols` columns.
    pub(crate) fn padded(cols: usize) -> usize {
        cols.next_multiple_of(PAD)
    }

    /// Bytes held.
    pub(crate) fn num_bytes(&self) -> usize {
        let split: usize = self.split.iter().map(|s| s.0.len()).sum();
        (self.natural.len() + self.mxfp4.len() + split) * 4
    }

    /// Packs rows `rows` of `x`, `[_, cols]`, one after the other, to be multiplied together.
    pub(crate) fn pack(&mut self, x: &[f32], rows: &[u32], cols: usize, orders: Orders) {
        self.pack_groups(x, rows, cols, orders, &std::iter::once(0..rows.len()));
        self.whole = true;
    }

    /// As [`Packed::pack`], for rows of which `groups` are multiplied by matrices of their own.
    pub(crate) fn pack_groups(
        &mut self,
        x: &[f32],
        rows: &[u32],
        cols: usize,
        orders: Orders,
        groups: &(impl Iterator<Item = Range<usize>> + Clone),
    ) {
        let stride = Self::padded(cols);
        assert!(rows.len() * stride <= self.natural.len(), "more rows than there is room for");
        // Whole blocks are split where they stand.
        let in_place = self.splitter.is_some() && cols % BLOCK == 0;
        for (i, row) in rows.iter().enumerate() {
            let from = &x[*row as usize * cols..][..cols];
            if orders.f32 || !in_place && (orders.narrow || self.splitter.is_some()) {
                let to = &mut self.natural[i * stride..][..stride];
                to[..cols].copy_from_slice(from);
                to[cols..].fill(0.0);
            }
            if orders.mxfp4 && self.splitter.is_none() {
                let to = &mut self.mxfp4[i * stride..][..stride];
                to_mxfp4_order(from, to, self.lanes);
            }
        }
        let natural = (orders.narrow, Pairs::Natural);
        for (buffer, wanted) in [natural, (orders.mxfp4, Pairs::Mxfp4)].into_iter().enumerate() {
            let (true, pairs) = wanted else { continue };
            let Some(split) = self.splitter else { break };
            let buffer = &mut self.split[buffer];
            let line = buffer.line();
            for group in groups.clone() {
                let out_stride = split_stride(group.len());
                let (x, rows, cols) = if in_place {
                    (x, &rows[group.clone()], cols)
                } else {
                    (&self.natural[group.start * stride..], &self.identity[..group.len()], stride)
                };
                let out = &mut buffer.0[line + group.start * SPLIT_ROW * (stride / 2)..];
                assert!(stride / 2 * out_stride <= out.len());
                let (x, out) = (x.as_ptr(), out.as_mut_ptr());
                let job = SplitJob { x, rows, cols, out, out_stride, pairs };
                // SAFETY: kernels are handed out after feature detection; `x` has the rows (they
                // were looked at above), the buffer, which is ours, room for all pairs.
                unsafe { split(&job) };
            }
        }
        self.whole = false;
        (self.stride, self.cols, self.rows, self.orders) = (stride, cols, rows.len(), orders);
    }

    /// Rows in the order that `format` takes; split parts have their own place.
    pub(super) fn rows_for(&self, format: &Format) -> &[f32] {
        let (packed, rows) = match format {
            Format::F32 => (self.orders.f32, &self.natural),
            Format::Bf16 | Format::Fp8 { .. } => (self.orders.narrow, &self.natural),
            Format::Mxfp4 { .. } => (self.orders.mxfp4, &self.mxfp4),
        };
        assert!(packed, "rows were not packed for this format");
        rows
    }

    /// The split parts of a group of rows in the order that `format` takes, and their stride;
    /// nothing on other paths and for F32, which is not split.
    pub(super) fn split(&self, group: &Range<usize>, format: &Format) -> (&[u32], usize) {
        assert!(!self.whole || *group == (0..self.rows), "rows were packed to stay together");
        let buffer = &self.split[usize::from(matches!(format, Format::Mxfp4 { .. }))];
        let at = buffer.line() + group.start * SPLIT_ROW * (self.stride / 2);
        (&buffer.0[at.min(buffer.0.len())..], split_stride(group.len()))
    }
}

/// Column `8 l + j` of a chunk of `8 lanes` goes to place `j lanes + l`; the rest is zero.
fn to_mxfp4_order(from: &[f32], to: &mut [f32], lanes: usize) {
    let chunk = 8 * lanes;
    let whole = from.len() / chunk * chunk;
    for (from, to) in from.chunks_exact(chunk).zip(to.chunks_exact_mut(chunk)) {
        for (l, group) in from.chunks_exact(8).enumerate() {
            for (j, value) in group.iter().enumerate() {
                to[j * lanes + l] = *value;
            }
        }
    }
    to[whole..].fill(0.0);
    for (i, value) in from[whole..].iter().enumerate() {
        to[whole + (i % 8) * lanes + i / 8] = *value;
    }
}
