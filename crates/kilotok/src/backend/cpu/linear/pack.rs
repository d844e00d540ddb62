//! Activations laid out for the dot products.
#![allow(unsafe_code, reason = "calls the kernels of a SIMD path")]

use super::super::simd::Kernels;
use crate::matrix::{Format, Matrix};

/// Rows are padded with zeros to a multiple of this many columns: whole chunks of any decoder.
const PAD: usize = 128;

/// Bfloat16 parts of a value on the AMX path; a row becomes as many rows.
pub(super) const PARTS: usize = 3;

/// Rows beyond the last that a tile may read: it takes up to five at a time.
const SPLIT_SLACK: usize = 5;

/// Values from one row of parts to the next: one cache line more than the row has, so that the
/// rows of a tile do not compete for the same lines of a cache.
pub(super) fn split_stride(stride: usize) -> usize {
    stride + 32
}

/// Splits the padded row `x` (columns a multiple of 32) into [`PARTS`] rows of bfloat16 at `out`,
/// `stride` values apart.
///
/// # Safety
/// The path's features, and room at `out` for all parts.
pub(crate) type Split = unsafe fn(x: &[f32], out: *mut u16, stride: usize);

/// Activation rows in the orders that their consumers take.
#[derive(Debug)]
pub(crate) struct Packed {
    /// `[rows, stride]`
    natural: Vec<f32>,
    /// `[rows, stride]`, columns in MXFP4 order.
    mxfp4: Vec<f32>,
    /// `[rows, PARTS, split_stride]`, on the AMX path alone.
    split: Vec<u16>,
    lanes: usize,
    splitter: Option<Split>,
    orders: Orders,
    /// Floats from one row to the next.
    pub(super) stride: usize,
    /// Columns of a row, padding not included.
    pub(super) cols: usize,
    /// Number of rows.
    pub(super) rows: usize,
}

/// Which orders the consumers of packed rows need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    natural: bool,
    mxfp4: bool,
}

impl Orders {
    /// The orders needed to multiply by every one of `matrices`.
    pub(crate) fn of<'a>(matrices: impl IntoIterator<Item = &'a Matrix>) -> Self {
        let mut orders = Self::default();
        for matrix in matrices {
            match matrix.format {
                Format::F32 | Format::Bf16 | Format::Fp8 { .. } => orders.natural = true,
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
        let (mxfp4, split) = match kernels.split {
            None => (floats, 0),
            // Narrow rows are at least `PAD` wide, so there are at most this many of them.
            Some(_) => (0, PARTS * (rows + SPLIT_SLACK) * (per_row + per_row / PAD * 32)),
        };
        Self {
            natural: vec![0.0; floats],
            mxfp4: vec![0.0; mxfp4],
            split: vec![0; split],
            lanes: kernels.lanes,
            splitter: kernels.split,
            orders: Orders::default(),
            stride: 0,
            cols: 0,
            rows: 0,
        }
    }

    /// Floats of a row of `cols` columns.
    pub(crate) fn padded(cols: usize) -> usize {
        cols.next_multiple_of(PAD)
    }

    /// Bytes held.
    pub(crate) fn num_bytes(&self) -> usize {
        (self.natural.len() + self.mxfp4.len()) * 4 + self.split.len() * 2
    }

    /// Packs rows `rows` of `x`, `[_, cols]`, one after the other.
    pub(crate) fn pack(&mut self, x: &[f32], rows: &[u32], cols: usize, orders: Orders) {
        let stride = Self::padded(cols);
        let part = split_stride(stride);
        assert!(rows.len() * stride <= self.natural.len(), "more rows than there is room for");
        for (i, row) in rows.iter().enumerate() {
            let from = &x[*row as usize * cols..][..cols];
            if orders.natural || self.splitter.is_some() {
                let to = &mut self.natural[i * stride..][..stride];
                to[..cols].copy_from_slice(from);
                to[cols..].fill(0.0);
                if let Some(split) = self.splitter.filter(|_| orders.mxfp4) {
                    // A tile may read `SPLIT_SLACK` rows behind this one.
                    assert!((i + 1 + SPLIT_SLACK) * PARTS * part <= self.split.len());
                    // SAFETY: kernels are handed out after feature detection; the parts end
                    // inside the buffer.
                    unsafe { split(to, self.split[i * PARTS * part..].as_mut_ptr(), part) };
                }
            }
            if orders.mxfp4 && self.splitter.is_none() {
                let to = &mut self.mxfp4[i * stride..][..stride];
                to_mxfp4_order(from, to, self.lanes);
            }
        }
        (self.stride, self.cols, self.rows, self.orders) = (stride, cols, rows.len(), orders);
    }

    /// Rows in the order that `format` takes; split parts have their own place.
    pub(super) fn rows_for(&self, format: &Format) -> &[f32] {
        let (packed, rows) = match format {
            Format::F32 | Format::Bf16 | Format::Fp8 { .. } => (self.orders.natural, &self.natural),
            Format::Mxfp4 { .. } => (self.orders.mxfp4, &self.mxfp4),
        };
        assert!(packed, "rows were not packed for this format");
        rows
    }

    /// The split parts; empty on other paths.
    pub(super) fn split(&self) -> &[u16] {
        &self.split
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
