//! A slice of a tensor as bytes of the stored tensor and of its scales.

use std::ops::Range;

use super::heads::merged;
use super::{Slice, TensorPlan};
use crate::error::{Error, Result};
use crate::matrix::Format;
use crate::weights::resolve::{FP8_BLOCK, MXFP4_BLOCK, Storage};

/// What one rank reads of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSlice {
    /// Rows of the tensor, ascending and disjoint; where gate and up alternate, row `r` is stored
    /// `Matrix::row_step` times `r` rows after the first.
    pub rows: Vec<Range<usize>>,
    /// Bytes of each of those rows.
    pub row_bytes: Range<usize>,
    /// What it reads of the scales, where there are any.
    pub scales: Option<StoredScales>,
}

/// What one rank reads of a scale tensor. Where a cut runs through an FP8 block, the ranks on
/// both sides hold its factor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredScales {
    /// Rows of the scale tensor, ascending and disjoint.
    pub rows: Vec<Range<usize>>,
    /// Bytes of each of those rows.
    pub row_bytes: Range<usize>,
}

fn area(rows: &[Range<usize>], row_bytes: &Range<usize>) -> u64 {
    rows.iter().map(|rows| rows.len() as u64).sum::<u64>() * row_bytes.len() as u64
}

impl StoredSlice {
    /// Bytes, scales included.
    pub fn num_bytes(&self) -> u64 {
        let scales = self.scales.as_ref();
        area(&self.rows, &self.row_bytes)
            + scales.map_or(0, |scales| area(&scales.rows, &scales.row_bytes))
    }
}

impl TensorPlan {
    /// The slice of `rank` of a tensor stored as `format`.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] on `ranks` where the cut runs through an MXFP4 block.
    pub fn stored(&self, rank: usize, format: &Format) -> Result<StoredSlice> {
        let storage = match format {
            Format::F32 => Storage::F32,
            Format::Bf16 => Storage::Bf16,
            Format::Fp8 { .. } => Storage::Fp8,
            Format::Mxfp4 { .. } => Storage::Mxfp4,
        };
        self.stored_as(&self.slices[rank], storage)
    }

    pub(crate) fn stored_as(&self, slice: &Slice, storage: Storage) -> Result<StoredSlice> {
        let Slice { rows, cols } = slice;
        let scaled = |size: usize| cols.start * size..cols.end * size;
        let (row_bytes, scales) = match storage {
            Storage::F32 => (scaled(4), None),
            Storage::Bf16 => (scaled(2), None),
            Storage::Fp8 => {
                let blocks = cols.start / FP8_BLOCK..cols.end.div_ceil(FP8_BLOCK);
                let row_bytes = blocks.start * 4..blocks.end * 4;
                (cols.clone(), Some(StoredScales { rows: self.fp8_scale_rows(rows), row_bytes }))
            }
            Storage::Mxfp4 => {
                if cols.start % MXFP4_BLOCK != 0 || cols.end % MXFP4_BLOCK != 0 {
                    return Err(Error::invalid(
                        "ranks",
                        format!("columns {cols:?} of {} cut an MXFP4 block", self.name),
                    ));
                }
                let row_bytes = cols.start / MXFP4_BLOCK..cols.end / MXFP4_BLOCK;
                let scales = StoredScales { rows: rows.clone(), row_bytes };
                (cols.start / 2..cols.end / 2, Some(scales))
            }
        };
        let rows = rows.iter().filter(|rows| !rows.is_empty()).cloned().collect();
        Ok(StoredSlice { rows, row_bytes, scales })
    }

    /// Scale rows over `rows`; the grid starts anew in every chunk.
    fn fp8_scale_rows(&self, rows: &[Range<usize>]) -> Vec<Range<usize>> {
        let chunk = self.rows_per_chunk;
        let scale_row =
            |row: usize| row / chunk * chunk.div_ceil(FP8_BLOCK) + row % chunk / FP8_BLOCK;
        merged(
            rows.iter()
                .filter(|rows| !rows.is_empty())
                .map(|rows| scale_row(rows.start)..scale_row(rows.end - 1) + 1)
                .collect(),
        )
    }
}
