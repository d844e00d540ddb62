//! Weight matrices in the order in which the GPU multiplies them.
//!
//! A matrix becomes *tiles* of 32 rows, and a tile *steps* along its columns: what one warp
//! multiplies at a time, one step after the other. `cuda/include/kilotok/layout/*_step.cuh`
//! describe the steps from the other side. Rows that are missing in the last tile and columns that
//! are missing in the last step are zeros.

mod bf16_step;
mod fp8_step;
mod mxfp4_step;
mod order;
#[cfg(test)]
mod tests;
pub(crate) mod unpack;

use std::ops::Range;

pub use order::RowOrder;

use crate::error::{Error, Result};
use crate::matrix::{Format, Matrix};
use crate::numeric::fp8;

/// Rows of a tile.
pub const TILE_ROWS: usize = 32;

/// Columns that are summed before the sums are added, for every this many columns of a matrix.
const CHUNK_COLS: usize = 256;
const CHUNK_PERIOD: usize = 6144;

/// What a step holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepFormat {
    /// 32 x 64 bfloat16.
    Bf16,
    /// 32 x 128 e4m3 and a factor per row.
    Fp8,
    /// 32 x 64 e2m1 and a scale per row and 32 columns.
    Mxfp4,
}

impl StepFormat {
    /// The step for a stored format; 32-bit floats have none.
    pub fn of(format: &Format) -> Option<Self> {
        match format {
            Format::F32 => None,
            Format::Bf16 => Some(Self::Bf16),
            Format::Fp8 { .. } => Some(Self::Fp8),
            Format::Mxfp4 { .. } => Some(Self::Mxfp4),
        }
    }

    /// Columns of a step.
    pub const fn cols(self) -> usize {
        match self {
            Self::Bf16 | Self::Mxfp4 => 64,
            Self::Fp8 => 128,
        }
    }

    /// Bytes of a step.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bf16 => bf16_step::BYTES,
            Self::Fp8 => fp8_step::BYTES,
            Self::Mxfp4 => mxfp4_step::BYTES,
        }
    }
}

/// Extents of a packed matrix: a function of its shape and format alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepShape {
    /// What a step holds.
    pub format: StepFormat,
    /// Tiles of 32 rows.
    pub tiles: usize,
    /// Steps of a tile.
    pub steps: usize,
    /// Steps whose sum is made before sums are added up: rows, batch and number of SMs must not
    /// change how a sum is associated (law 1).
    pub chunk_steps: usize,
}

impl StepShape {
    /// The extents of `tiles` tiles of `cols` columns.
    pub fn new(format: StepFormat, tiles: usize, cols: usize) -> Self {
        let steps = cols.div_ceil(format.cols());
        Self { format, tiles, steps, chunk_steps: chunk_cols(cols) / format.cols() }
    }

    /// Bytes of a tile.
    pub fn tile_bytes(&self) -> usize {
        self.steps * self.format.bytes()
    }

    /// Bytes of the matrix.
    pub fn bytes(&self) -> usize {
        self.tiles * self.tile_bytes()
    }
}

/// Columns whose sum is made before sums are added up: at most 24 sums for any matrix.
pub fn chunk_cols(cols: usize) -> usize {
    CHUNK_COLS * cols.div_ceil(CHUNK_PERIOD).max(1)
}

/// A matrix to be packed: the rows of `parts` in some order.
#[derive(Clone, Debug)]
pub struct Packing<'a> {
    name: String,
    parts: Vec<&'a Matrix>,
    order: RowOrder,
    cols: usize,
    shape: StepShape,
}

/// One row of a tile as it is stored; empty where there is none.
#[derive(Clone, Copy, Default)]
struct StoredRow<'a> {
    data: &'a [u8],
    /// e8m0 of MXFP4.
    scales: &'a [u8],
    /// Factors of FP8.
    factors: &'a [f32],
}

impl<'a> Packing<'a> {
    /// Whether both pack the very same bytes.
    pub(crate) fn shares_matrices_with(&self, other: &Self) -> bool {
        let mut pairs = self.parts.iter().zip(&other.parts);
        self.parts.len() == other.parts.len() && pairs.all(|(a, b)| a.data.is_same(&b.data))
    }

    /// Rows of `parts`, one matrix after the other, in `order`.
    ///
    /// # Errors
    /// [`Error::ModelFormat`] naming `name` where the parts differ in format or columns, have no
    /// step format, do not suit the order, or hold fewer bytes than their shape says.
    pub fn new(name: impl Into<String>, parts: Vec<&'a Matrix>, order: RowOrder) -> Result<Self> {
        let name = name.into();
        let fail = |reason: String| Err(Error::model_format(&name, reason));
        let Some(first) = parts.first() else { return fail("nothing to pack".into()) };
        let cols = first.cols;
        let Some(format) = StepFormat::of(&first.format) else {
            return fail("32-bit floats cannot be multiplied on the GPU; bfloat16 can".into());
        };
        for part in &parts {
            if part.cols != cols || StepFormat::of(&part.format) != Some(format) {
                return fail(format!(
                    "[{}, {}] {:?} stands beside [{}, {cols}] {:?}: columns and format differ",
                    part.rows, part.cols, part.format, first.rows, first.format
                ));
            }
            if format == StepFormat::Mxfp4 && cols % 32 != 0 {
                return fail(format!("{cols} columns are no multiple of 32, which MXFP4 needs"));
            }
        }
        let rows: Vec<usize> = parts.iter().map(|part| part.rows).collect();
        let tiles = match order.tiles(&rows) {
            Ok(tiles) => tiles,
            Err(reason) => return fail(reason),
        };
        let shape = StepShape::new(format, tiles, cols);
        Ok(Self { name, parts, order, cols, shape })
    }

    /// Extents of the packed matrix.
    pub fn shape(&self) -> StepShape {
        self.shape
    }

    /// What errors call the matrix.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Columns of the stored matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Packs some tiles into `out`, which holds exactly them, with as many threads as told.
    ///
    /// # Errors
    /// [`Error::ModelFormat`] for codes or scales that are no numbers, and where bytes are missing.
    ///
    /// # Panics
    /// Where `out` has another length, or a tile is beyond the last one.
    pub fn pack(&self, tiles: Range<usize>, out: &mut [u8], threads: usize) -> Result<()> {
        let bytes = self.shape.tile_bytes();
        assert!(tiles.end <= self.shape.tiles && out.len() == tiles.len() * bytes);
        if threads <= 1 || tiles.len() < 2 {
            return self.pack_in_place(tiles.start, out);
        }
        let each = tiles.len().div_ceil(threads);
        std::thread::scope(|scope| {
            let workers: Vec<_> = out
                .chunks_mut(each * bytes)
                .enumerate()
                .map(|(i, piece)| {
                    scope.spawn(move || self.pack_in_place(tiles.start + i * each, piece))
                })
                .collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|_| {
                    Err(Error::model_format(&self.name, "packing failed: the data is shorter"))
                })
            })
        })
    }

    fn pack_in_place(&self, first_tile: usize, out: &mut [u8]) -> Result<()> {
        let format = self.shape.format;
        for (i, tile) in out.chunks_exact_mut(self.shape.tile_bytes().max(1)).enumerate() {
            let mut rows = [StoredRow::default(); TILE_ROWS];
            for (k, row) in rows.iter_mut().enumerate() {
                if let Some((part, at)) = self.source((first_tile + i) * TILE_ROWS + k) {
                    *row = self.stored(part, at)?;
                }
            }
            for (step, out) in tile.chunks_exact_mut(format.bytes()).enumerate() {
                let packed = match format {
                    StepFormat::Bf16 => {
                        bf16_step::pack(&rows, step, out);
                        Ok(())
                    }
                    StepFormat::Fp8 => fp8_step::pack(&rows, step, out),
                    StepFormat::Mxfp4 => mxfp4_step::pack(&rows, step, out),
                };
                packed.map_err(|NotANumber { row }| self.not_a_number(first_tile + i, row))?;
            }
        }
        Ok(())
    }

    fn not_a_number(&self, tile: usize, row: usize) -> Error {
        let (part, at) = self.source(tile * TILE_ROWS + row).unwrap_or_default();
        Error::model_format(&self.name, format!("row {at} of part {part} holds a NaN"))
    }

    fn source(&self, row: usize) -> Option<(usize, usize)> {
        self.order.source(row, self.parts.iter().map(|part| part.rows))
    }

    fn stored(&self, part: usize, row: usize) -> Result<StoredRow<'a>> {
        let matrix = self.parts[part];
        let cols = self.cols;
        let missing = || {
            let reason = format!("row {row} of part {part} is beyond the stored bytes");
            Error::model_format(&self.name, reason)
        };
        let at = row * matrix.row_step;
        let slice = |bytes: &'a [u8], len: usize| bytes.get(at * len..(at + 1) * len);
        let data = |len: usize| slice(matrix.data.as_slice(), len).ok_or_else(missing);
        Ok(match &matrix.format {
            Format::F32 => StoredRow::default(),
            Format::Bf16 => StoredRow { data: data(cols * 2)?, ..StoredRow::default() },
            Format::Fp8 { scales, rows_per_chunk } => {
                let blocks = cols.div_ceil(fp8::BLOCK);
                let first = fp8::scale_row(row, *rows_per_chunk) * blocks;
                let factors = scales.get(first..first + blocks).ok_or_else(missing)?;
                StoredRow { data: data(cols)?, factors, ..StoredRow::default() }
            }
            Format::Mxfp4 { scales } => {
                let scales = slice(scales.as_slice(), cols / 32).ok_or_else(missing)?;
                StoredRow { data: data(cols / 2)?, scales, ..StoredRow::default() }
            }
        })
    }

    /// A vector that goes with the rows (a bias), in the order of the packed rows: `[tiles * 32]`,
    /// zeros where there is no row.
    ///
    /// # Errors
    /// [`Error::ModelFormat`] where the vectors are not as long as the parts have rows.
    pub fn order_vector(&self, vectors: &[&[f32]]) -> Result<Vec<f32>> {
        let fits = vectors.len() == self.parts.len()
            && vectors.iter().zip(&self.parts).all(|(vector, part)| vector.len() == part.rows);
        if !fits {
            let lengths: Vec<usize> = vectors.iter().map(|vector| vector.len()).collect();
            let reason = format!("biases of {lengths:?} elements do not suit its rows");
            return Err(Error::model_format(&self.name, reason));
        }
        Ok((0..self.shape.tiles * TILE_ROWS)
            .map(|row| self.source(row).map_or(0.0, |(part, at)| vectors[part][at]))
            .collect())
    }
}

/// A code or a scale that is no number, in one row of a tile.
struct NotANumber {
    row: usize,
}

/// `LEN` bytes of every row of a tile from byte `start` on, zeros past the end of a row.
fn gather<const LEN: usize>(rows: &[StoredRow; TILE_ROWS], start: usize) -> [[u8; LEN]; TILE_ROWS] {
    let mut segments = [[0; LEN]; TILE_ROWS];
    for (segment, row) in segments.iter_mut().zip(rows) {
        let bytes = row.data.get(start..).unwrap_or_default();
        let len = bytes.len().min(LEN);
        segment[..len].copy_from_slice(&bytes[..len]);
    }
    segments
}

/// Row and column, within a step, of element `i` of the eight that `lane` has in `product` of the
/// rows `16 half ..`: registers a0 to a3 of mma.m16n8k16, two elements each. The K that a product
/// covers is chosen so that the columns of a lane in 32 columns are consecutive.
const fn position(half: usize, lane: usize, product: usize, i: usize) -> (usize, usize) {
    let register = i / 2;
    let row = 16 * half + lane / 4 + 8 * (register % 2);
    let col = 32 * (product / 2) + 8 * (lane % 4) + 4 * (product % 2) + 2 * (register / 2) + i % 2;
    (row, col)
}
