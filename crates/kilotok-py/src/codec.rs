//! Number formats, for parity with other implementations. Arrays of f32 cross as their bytes.

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
        let values: Vec<f32> =
            values.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
        let (nibbles, scales) = mxfp4::encode_row(&values);
        Ok((PyBytes::new(py, &nibbles), PyBytes::new(py, &scales)))
    })
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
