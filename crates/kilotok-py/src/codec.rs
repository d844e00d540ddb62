//! Number formats, for parity with other implementations. Arrays of f32 cross as their bytes.

use kilotok::numeric::mxfp4_encoder::{self, ScaleRule};
use kilotok::numeric::{fp8, mxfp4};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{guard, invalid};

/// f32 values as bytes, native endian.
pub(crate) fn float_bytes<'py>(py: Python<'py>, values: &[f32]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, bytemuck::cast_slice(values))
}

/// Quantise f32 values (as bytes, a multiple of 32 of them) to MXFP4.
///
/// Returns
/// -------
/// (bytes, bytes)
///     Nibbles, low first, 16 bytes per block of 32; and one e8m0 scale per block.
#[pyfunction]
pub(crate) fn mxfp4_encode<'py>(
    py: Python<'py>,
    values: &[u8],
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    guard(|| {
        if values.len() % (4 * mxfp4::BLOCK) != 0 {
            return Err(invalid("values", "expected a multiple of 32 f32 values"));
        }
        let (nibbles, scales) = mxfp4::encode_row(&floats_of(values));
        Ok((PyBytes::new(py, &nibbles), PyBytes::new(py, &scales)))
    })
}

/// Nibbles, scales and sums of a rounded matrix.
type EncodedMatrix<'py> = (Bound<'py, PyBytes>, Bound<'py, PyBytes>, (f64, f64, f64, u64));

/// Round an f32 matrix (as bytes) of `cols` columns to MXFP4, on all threads.
///
/// `rule` is ``"max"`` or ``"mse"``; `importance` weighs the squared errors of columns, f32 as
/// bytes.
///
/// Returns
/// -------
/// (bytes, bytes, (float, float, float, int))
///     Nibbles, scales, and sums over elements: squared errors, squared values, the largest
///     error, the number that saturated.
#[pyfunction]
#[pyo3(signature = (values, cols, rule = "max", importance = None))]
pub(crate) fn mxfp4_encode_matrix<'py>(
    py: Python<'py>,
    values: &[u8],
    cols: usize,
    rule: &str,
    importance: Option<&[u8]>,
) -> PyResult<EncodedMatrix<'py>> {
    guard(|| {
        if cols == 0 || cols % mxfp4::BLOCK != 0 || values.len() % (4 * cols) != 0 {
            return Err(invalid("values", "expected f32 rows of a multiple of 32 columns"));
        }
        let rule = match rule {
            "max" => ScaleRule::Max,
            "mse" => ScaleRule::Mse,
            other => return Err(invalid("rule", &format!("'{other}' is not 'max' or 'mse'"))),
        };
        let importance = importance.map(floats_of);
        if importance.as_ref().is_some_and(|weights| {
            weights.len() != cols || weights.iter().any(|w| !w.is_finite() || *w < 0.0)
        }) {
            return Err(invalid(
                "importance",
                "expected a finite weight, not negative, per column",
            ));
        }
        let encoded = py.detach(|| {
            mxfp4_encoder::encode_matrix(&floats_of(values), cols, rule, importance.as_deref())
        });
        let sums = encoded.distortion;
        Ok((
            PyBytes::new(py, &encoded.nibbles),
            PyBytes::new(py, &encoded.scales),
            (sums.squared_error, sums.squared_value, sums.largest_error, sums.saturated),
        ))
    })
}

fn floats_of(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// MXFP4 nibbles and scales as the bytes of f32 values.
#[pyfunction]
pub(crate) fn mxfp4_decode<'py>(
    py: Python<'py>,
    nibbles: &[u8],
    scales: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    guard(|| {
        if nibbles.len() != scales.len() * mxfp4::BLOCK / 2 {
            return Err(invalid("nibbles", "expected 16 bytes per scale"));
        }
        let mut values = vec![0.0; scales.len() * mxfp4::BLOCK];
        mxfp4::decode_row(nibbles, scales, &mut values);
        Ok(float_bytes(py, &values))
    })
}

/// e4m3 codes as the bytes of f32 values.
#[pyfunction]
pub(crate) fn fp8_decode<'py>(py: Python<'py>, codes: &[u8]) -> Bound<'py, PyBytes> {
    let values: Vec<f32> = codes.iter().map(|code| fp8::decode(*code)).collect();
    float_bytes(py, &values)
}
