//! A given tensor in the format of the matrix that it replaces.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::matrix::{Bytes, Format, Matrix};
use crate::model::Vector;
use crate::numeric::{bf16, fp8, mxfp4};
use crate::weights::build::widen;
use crate::weights::catalog::{Catalog, Entry};
use crate::weights::resolve::{Found, Storage};

/// Rows that one worker converts at a time.
const ROWS: usize = 16;

/// An F32 or BF16 vector as f32.
pub(super) fn vector_of(catalog: &Catalog, found: &Found<'_>) -> Result<Vector> {
    let (name, entry) = &found.weight;
    let values = widen(catalog.dense(name, entry)?.as_slice(), found.storage);
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => {
            Err(bad(catalog, name, entry, format!("element {at} is {}, not finite", values[at])))
        }
    }
}

fn bad(catalog: &Catalog, name: &str, entry: &Entry, reason: String) -> Error {
    Error::model_format(catalog.place(name, entry), reason)
}

/// A matrix of `found`'s values, stored as `current` is, in bytes of its own.
pub(super) fn restored(catalog: &Catalog, found: &Found<'_>, current: &Matrix) -> Result<Matrix> {
    let (name, entry) = &found.weight;
    let bytes = catalog.dense(name, entry)?;
    let (rows, cols) = (current.rows, current.cols);
    let plain = matches!(found.storage, Storage::F32 | Storage::Bf16);
    let (data, format) = match &current.format {
        Format::F32 | Format::Bf16 if plain => {
            check_finite(catalog, found, bytes.as_slice())?;
            let narrow = matches!(current.format, Format::Bf16);
            (converted(bytes.as_slice(), found.storage, narrow), current.format.clone())
        }
        Format::Mxfp4 { .. } if plain => {
            check_finite(catalog, found, bytes.as_slice())?;
            let (nibbles, scales) = to_mxfp4(bytes.as_slice(), found.storage, cols);
            (nibbles, Format::Mxfp4 { scales: Bytes::from_vec(scales) })
        }
        Format::Fp8 { rows_per_chunk, .. } if plain => {
            check_finite(catalog, found, bytes.as_slice())?;
            to_fp8(bytes.as_slice(), found.storage, (rows, cols), *rows_per_chunk)
        }
        Format::Mxfp4 { .. } if found.storage == Storage::Mxfp4 => {
            let scales = scales_of(catalog, found)?;
            if let Some(at) = scales.iter().position(|scale| *scale == 255) {
                return Err(bad(catalog, name, entry, format!("scale byte {at} is 255, NaN")));
            }
            (bytes.as_slice().to_vec(), Format::Mxfp4 { scales: Bytes::from_vec(scales) })
        }
        Format::Fp8 { rows_per_chunk, .. } if found.storage == Storage::Fp8 => {
            let scales = widen(&scales_of(catalog, found)?, Storage::F32);
            let data = bytes.as_slice().to_vec();
            let finite = scales.iter().all(|scale| scale.is_finite());
            if !finite || data.iter().any(|code| code & 0x7f == 0x7f) {
                return Err(bad(catalog, name, entry, "an element or a scale is NaN".into()));
            }
            (data, Format::Fp8 { scales, rows_per_chunk: *rows_per_chunk })
        }
        format => {
            let expected = match format {
                Format::F32 | Format::Bf16 => "F32 or BF16",
                Format::Mxfp4 { .. } => "F32, BF16 or U8 with weight_scale",
                Format::Fp8 { .. } => "F32, BF16 or F8_E4M3 with weight_scale_inv",
            };
            let reason = format!("dtype {}, expected {expected} as the model has it", entry.dtype);
            return Err(bad(catalog, name, entry, reason));
        }
    };
    Ok(Matrix { rows, cols, data: Bytes::from_vec(data), format, row_step: 1 })
}

fn scales_of(catalog: &Catalog, found: &Found<'_>) -> Result<Vec<u8>> {
    match &found.scale {
        Some((name, entry)) => Ok(catalog.dense(name, entry)?.as_slice().to_vec()),
        None => Err(bad(catalog, &found.weight.0, found.weight.1, "has no scales".into())),
    }
}

fn element_size(storage: Storage) -> usize {
    if storage == Storage::F32 { 4 } else { 2 }
}

/// Values of F32 or BF16 bytes.
fn values(bytes: &[u8], storage: Storage, out: &mut Vec<f32>) {
    out.clear();
    out.resize(bytes.len() / element_size(storage), 0.0);
    match storage {
        Storage::F32 => {
            for (value, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        _ => bf16::decode_row(bytes, out),
    }
}

/// # Errors
/// Where a value of a training run that diverged would take the place of a weight.
fn check_finite(catalog: &Catalog, found: &Found<'_>, bytes: &[u8]) -> Result<()> {
    let size = element_size(found.storage);
    const PIECE: usize = 1 << 16;
    let at = bytes.par_chunks(PIECE * size).enumerate().find_map_first(|(piece, bytes)| {
        let mut decoded = Vec::new();
        values(bytes, found.storage, &mut decoded);
        let at = decoded.iter().position(|value| !value.is_finite())?;
        Some((piece * PIECE + at, decoded[at]))
    });
    match at {
        None => Ok(()),
        Some((at, value)) => {
            let (name, entry) = &found.weight;
            Err(bad(catalog, name, entry, format!("element {at} is {value}, not finite")))
        }
    }
}

/// F32 or BF16 bytes as BF16 (`narrow`) or F32 bytes.
fn converted(bytes: &[u8], storage: Storage, narrow: bool) -> Vec<u8> {
    if narrow == (storage == Storage::Bf16) {
        return bytes.to_vec();
    }
    let mut decoded = Vec::new();
    values(bytes, storage, &mut decoded);
    if narrow {
        bf16::encode_row(&decoded)
    } else {
        decoded.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

/// Nibbles and scales of rows of `cols` values.
fn to_mxfp4(bytes: &[u8], storage: Storage, cols: usize) -> (Vec<u8>, Vec<u8>) {
    let row = cols * element_size(storage);
    let count = bytes.len() / row.max(1) * cols;
    let (mut nibbles, mut scales) = (vec![0; count / 2], vec![0; count / mxfp4::BLOCK]);
    nibbles
        .par_chunks_mut((ROWS * cols / 2).max(1))
        .zip(scales.par_chunks_mut((ROWS * cols / mxfp4::BLOCK).max(1)))
        .zip(bytes.par_chunks((ROWS * row).max(1)))
        .for_each(|((nibbles, scales), bytes)| {
            let mut decoded = Vec::new();
            values(bytes, storage, &mut decoded);
            let (codes, exponents) = mxfp4::encode_row(&decoded);
            nibbles.copy_from_slice(&codes);
            scales.copy_from_slice(&exponents);
        });
    (nibbles, scales)
}

/// e4m3 codes and factors per block; the grid starts anew every `rows_per_chunk` rows.
fn to_fp8(
    bytes: &[u8],
    storage: Storage,
    (rows, cols): (usize, usize),
    rows_per_chunk: usize,
) -> (Vec<u8>, Format) {
    let mut decoded = Vec::new();
    values(bytes, storage, &mut decoded);
    let mut scales = vec![0.0_f32; fp8::scale_count(rows, cols, rows_per_chunk)];
    let at = |row, col| fp8::scale_index(row, col, cols, rows_per_chunk);
    for (row, values) in decoded.chunks_exact(cols).enumerate() {
        for (col, value) in values.iter().enumerate() {
            let amax = &mut scales[at(row, col)];
            *amax = amax.max(value.abs());
        }
    }
    for scale in &mut scales {
        *scale = fp8::block_scale(*scale);
    }
    let codes = decoded
        .par_chunks_exact(cols)
        .enumerate()
        .flat_map_iter(|(row, values)| {
            let scales = &scales;
            values.iter().enumerate().map(move |(col, value)| {
                let scale = scales[fp8::scale_index(row, col, cols, rows_per_chunk)];
                fp8::encode(value / scale)
            })
        })
        .collect();
    (codes, Format::Fp8 { scales: scales.into(), rows_per_chunk })
}
