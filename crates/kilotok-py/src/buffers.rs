//! Python buffers as the bytes of weights, without a copy.
#![allow(unsafe_code, reason = "a Python buffer is a raw pointer with a length")]

use std::sync::Arc;

use kilotok::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

use crate::errors::invalid;

/// Keeps a buffer exported for as long as any [`Bytes`] points into it.
struct Exported(PyBuffer<u8>);

impl AsRef<[u8]> for Exported {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the exporter keeps `buf_ptr` valid for `len_bytes` until `self.0` releases the
        // export, the buffer was checked to be contiguous, and the Python API documents that
        // tensors must not be changed while the engine lives.
        unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast::<u8>(), self.0.len_bytes()) }
    }
}

/// The bytes of a contiguous buffer of unsigned bytes.
pub(crate) fn bytes_of(name: &str, object: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    let buffer = PyBuffer::<u8>::get(object)?;
    if !buffer.is_c_contiguous() {
        return Err(invalid("tensors", &format!("{name} is not contiguous")));
    }
    if buffer.len_bytes() == 0 {
        return Ok(Bytes::from_vec(Vec::new()));
    }
    Ok(Bytes::new(Arc::new(Exported(buffer))))
}
