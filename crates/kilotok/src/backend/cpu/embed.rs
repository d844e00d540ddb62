//! Op `embed`: residual = embedding row of the token.

use crate::matrix::{Format, Matrix};
use crate::numeric::{bf16, fp8, mxfp4};

/// Decodes row `row` of a matrix of any format.
pub(super) fn decode_row(matrix: &Matrix, row: usize, out: &mut [f32]) {
    let cols = matrix.cols;
    let data = matrix.data.as_slice();
    let row = row * matrix.row_step;
    match &matrix.format {
        Format::F32 => {
            for (value, bytes) in out.iter_mut().zip(data[row * cols * 4..].chunks_exact(4)) {
                *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
        Format::Bf16 => bf16::decode_row(&data[row * cols * 2..], out),
        Format::Fp8 { scales, rows_per_chunk } => {
            for (col, (value, code)) in out.iter_mut().zip(&data[row * cols..]).enumerate() {
                let scale = scales[fp8::scale_index(row, col, cols, *rows_per_chunk)];
                *value = fp8::decode(*code) * scale;
            }
        }
        Format::Mxfp4 { scales } => {
            let scales = &scales.as_slice()[row * (cols / mxfp4::BLOCK)..];
            mxfp4::decode_row(&data[row * (cols / 2)..], scales, out);
        }
    }
}

/// `residual[i] = table[tokens[i]]`, `[rows, hidden]`.
pub(super) fn run(table: &Matrix, tokens: impl Iterator<Item = u32>, residual: &mut [f32]) {
    for (token, out) in tokens.zip(residual.chunks_exact_mut(table.cols)) {
        decode_row(table, token as usize, out);
    }
}
