//! MXFP4 matrices in the order in which the GPU multiplies them.
//!
//! A *step* is 32 rows x 64 columns in 1088 bytes: 512 bytes of codes for rows 0 to 15 (lane `l` of a warp has 16 bytes
//! at `16 l`), 512 for rows 16 to 31, then 64 bytes of scales. `cuda/include/kilotok/layout/mxfp4_step.cuh` describes it
//! from the other side, `format/mxfp4.cuh` has the decoder that the bits of a word are spread for.

use crate::error::Error;

/// Bytes of a step.
pub const STEP_BYTES: usize = 1088;
/// Rows of a step.
pub const STEP_ROWS: usize = 32;
/// Columns of a step.
pub const STEP_COLS: usize = 64;

/// Where a word keeps sign, exponent (high, low bit) and mantissa of each of its 8 codes.
const BITS: [[u32; 4]; 8] = [
    [15, 8, 7, 14],
    [31, 24, 23, 30],
    [13, 6, 5, 4],
    [29, 22, 21, 20],
    [9, 2, 1, 0],
    [25, 18, 17, 16],
    [19, 12, 11, 10],
    [3, 28, 27, 26],
];

/// An MXFP4 matrix as a checkpoint stores it.
#[derive(Debug, Clone, Copy)]
pub struct Mxfp4Matrix<'a> {
    /// `[rows, cols / 2]`, the low nibble is the even column.
    pub nibbles: &'a [u8],
    /// `[rows, cols / 32]` e8m0.
    pub scales: &'a [u8],
    /// Rows (outputs).
    pub rows: usize,
    /// Columns (inputs).
    pub cols: usize,
}

impl Mxfp4Matrix<'_> {
    fn code(&self, row: usize, col: usize) -> u32 {
        let byte = self.nibbles[row * (self.cols / 2) + col / 2];
        u32::from(if col % 2 == 0 { byte & 15 } else { byte >> 4 })
    }

    fn check(&self, what: &str, row_multiple: usize) -> Result<(), Error> {
        let Self { nibbles, scales, rows, cols } = self;
        let wrong = |reason: String| Error::InvalidRequest { parameter: what.to_owned(), reason };
        if *rows == 0 || *cols == 0 || rows % row_multiple != 0 || cols % STEP_COLS != 0 {
            return Err(wrong(format!(
                "[{rows}, {cols}] cannot be packed: rows have to be a multiple of {row_multiple}, columns of {STEP_COLS}"
            )));
        }
        if nibbles.len() != rows * cols / 2 || scales.len() != rows * cols / 32 {
            return Err(wrong(format!(
                "{} bytes of codes and {} of scales do not make [{rows}, {cols}]",
                nibbles.len(),
                scales.len()
            )));
        }
        match scales.iter().position(|scale| *scale == 255) {
            Some(at) => Err(wrong(format!("the scale of row {} is NaN", at / (cols / 32)))),
            None => Ok(()),
        }
    }
}

/// Gate and up projection, `[inter, size]` each, as `[inter / 16][size / 64]` steps: 16 gate rows above 16 up rows.
///
/// # Errors
/// [`Error::InvalidRequest`] for unequal or unfit shapes and for a scale that is NaN.
pub fn pack_up(gate: &Mxfp4Matrix, up: &Mxfp4Matrix) -> Result<Vec<u8>, Error> {
    gate.check("gate", STEP_ROWS / 2)?;
    up.check("up", STEP_ROWS / 2)?;
    if (gate.rows, gate.cols) != (up.rows, up.cols) {
        return Err(Error::InvalidRequest {
            parameter: "up".to_owned(),
            reason: format!(
                "[{}, {}] is not the shape of gate, [{}, {}]",
                up.rows, up.cols, gate.rows, gate.cols
            ),
        });
    }
    Ok(pack(gate.rows / 16, gate.cols, |tile, row| {
        if row < 16 { (gate, tile * 16 + row) } else { (up, tile * 16 + row - 16) }
    }))
}

/// A matrix `[rows, cols]` as `[rows / 32][cols / 64]` steps.
///
/// # Errors
/// [`Error::InvalidRequest`] for an unfit shape and for a scale that is NaN.
pub fn pack_rows(matrix: &Mxfp4Matrix) -> Result<Vec<u8>, Error> {
    matrix.check("matrix", STEP_ROWS)?;
    Ok(pack(matrix.rows / STEP_ROWS, matrix.cols, |tile, row| (matrix, tile * STEP_ROWS + row)))
}

/// `source` maps (tile, row of the tile) to a row of a checked matrix with `cols` columns.
fn pack<'a>(
    tiles: usize,
    cols: usize,
    source: impl Fn(usize, usize) -> (&'a Mxfp4Matrix<'a>, usize),
) -> Vec<u8> {
    let steps = cols / STEP_COLS;
    let mut out = vec![0; tiles * steps * STEP_BYTES];
    for (at, bytes) in out.chunks_exact_mut(STEP_BYTES).enumerate() {
        let (tile, step) = (at / steps, at % steps);
        let (codes, scales) = bytes.split_at_mut(1024);
        for (at, word) in codes.chunks_exact_mut(4).enumerate() {
            let (half, lane, product) = (at / 128, at / 4 % 32, at % 4);
            let mut bits = 0;
            for (i, places) in BITS.iter().enumerate() {
                let (row, col) = position(half, lane, product, i);
                let (matrix, row) = source(tile, row);
                bits |= spread(matrix.code(row, step * STEP_COLS + col), places);
            }
            word.copy_from_slice(&bits.to_le_bytes());
        }
        for (at, scale) in scales.iter_mut().enumerate() {
            let (matrix, row) = source(tile, at / 8 + 8 * (at % 4));
            *scale = matrix.scales[row * (cols / 32) + step * 2 + at / 4 % 2];
        }
    }
    out
}

/// Row and column, within a step, of code `i` of the word that `lane` has for `product`.
const fn position(half: usize, lane: usize, product: usize, i: usize) -> (usize, usize) {
    let register = i / 2;
    let row = 16 * half + lane / 4 + 8 * (register % 2);
    let col = 32 * (product / 2) + 8 * (lane % 4) + 4 * (product % 2) + 2 * (register / 2) + i % 2;
    (row, col)
}

/// The bits of `code` (sign, exponent, exponent, mantissa) at `places`.
fn spread(code: u32, places: &[u32; 4]) -> u32 {
    places.iter().enumerate().map(|(bit, place)| (code >> (3 - bit) & 1) << place).sum()
}

#[cfg(test)]
mod tests;
