//! Activations laid out for the dot products.

use crate::matrix::{Format, Matrix};

/// Rows are padded with zeros to a multiple of this many columns: whole chunks of any decoder.
const PAD: usize = 128;

/// Activation rows, in natural order, in MXFP4 order, or both.
#[derive(Debug)]
pub(crate) struct Packed {
    natural: Vec<f32>,
    mxfp4: Vec<f32>,
    lanes: usize,
    /// Floats from one row to the next.
    pub(super) stride: usize,
    /// Columns of a row, padding not included.
    pub(super) cols: usize,
    /// Number of rows.
    pub(super) rows: usize,
    has_natural: bool,
    has_mxfp4: bool,
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
                Format::Mxfp4 { .. } => orders.mxfp4 = true,
                Format::F32 | Format::Bf16 | Format::Fp8 { .. } => orders.natural = true,
            }
        }
        orders
    }
}

impl Packed {
    /// Room for `floats` floats of rows padded by [`Packed::padded`], for paths of `lanes` lanes.
    pub(crate) fn new(floats: usize, lanes: usize) -> Self {
        Self {
            natural: vec![0.0; floats],
            mxfp4: vec![0.0; floats],
            lanes,
            stride: 0,
            cols: 0,
            rows: 0,
            has_natural: false,
            has_mxfp4: false,
        }
    }

    /// Floats of a row of `cols` columns.
    pub(crate) fn padded(cols: usize) -> usize {
        cols.next_multiple_of(PAD)
    }

    /// Bytes held.
    pub(crate) fn num_bytes(&self) -> usize {
        (self.natural.len() + self.mxfp4.len()) * 4
    }

    /// Packs rows of `cols` columns from `x`, `[rows, x_stride]`.
    pub(crate) fn pack(
        &mut self,
        x: &[f32],
        x_stride: usize,
        rows: usize,
        cols: usize,
        orders: Orders,
    ) {
        let stride = Self::padded(cols);
        let lanes = self.lanes;
        for row in 0..rows {
            let from = &x[row * x_stride..][..cols];
            if orders.natural {
                let to = &mut self.natural[row * stride..][..stride];
                to[..cols].copy_from_slice(from);
                to[cols..].fill(0.0);
            }
            if orders.mxfp4 {
                let to = &mut self.mxfp4[row * stride..][..stride];
                to_mxfp4_order(from, to, lanes);
            }
        }
        (self.stride, self.cols, self.rows) = (stride, cols, rows);
        (self.has_natural, self.has_mxfp4) = (orders.natural, orders.mxfp4);
    }

    /// Rows in the order that `format` takes.
    pub(super) fn rows_for(&self, format: &Format) -> &[f32] {
        match format {
            Format::Mxfp4 { .. } => {
                assert!(self.has_mxfp4, "rows were not packed in MXFP4 order");
                &self.mxfp4
            }
            Format::F32 | Format::Bf16 | Format::Fp8 { .. } => {
                assert!(self.has_natural, "rows were not packed in natural order");
                &self.natural
            }
        }
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
