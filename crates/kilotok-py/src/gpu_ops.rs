//! Single ops on the GPU, for parity with other implementations. Arrays cross as their bytes, native endian.

use kilotok::weights::repack::{Packing, RowOrder};
use kilotok::{Bytes, Error, Format, Matrix};
use kilotok_gpu::ops::{MoeBatch, MoeLayer, MoeShape};
use kilotok_gpu::{Context, GpuError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{guard, invalid, raised};

/// `(codes, scales)` of all experts' matrices, one after the other.
type Stored = (Vec<u8>, Vec<u8>);
/// `(top_k, x, experts, gates, residual)`
type Batch = (usize, Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>);

/// Run moe_up and moe_down of one layer on the GPU, for several batches of rows.
///
/// Parameters
/// ----------
/// shape : (int, int, int)
///     Experts E, residual size H, inner size I; H and I are multiples of 64.
/// gate, up, down : (bytes, bytes)
///     MXFP4 codes and scales as a checkpoint stores them, [E, I, H], [E, I, H] and [E, H, I].
/// batches : sequence of (top_k, x, experts, gates, residual)
///     x [M, H] bf16, experts [M, top_k] u32, gates [M, top_k] f32, residual [M, H] f32; M is at most 8.
/// device : int
///     The driver's index, from 0.
///
/// Returns
/// -------
/// list of (bytes, bytes)
///     Per batch: hidden [M, top_k, I] bf16, and residual [M, H] f32 with the experts' outputs added.
///
/// Raises
/// ------
/// ValueError
///     Sizes that do not fit together.
/// NoGpuError
///     No driver, no GPU, no kernels in this build; the message says which.
#[pyfunction]
#[pyo3(signature = (shape, gate, up, down, batches, device = 0))]
pub(crate) fn gpu_moe(
    py: Python<'_>,
    shape: (usize, usize, usize),
    gate: Stored,
    up: Stored,
    down: Stored,
    batches: Vec<Batch>,
    device: usize,
) -> PyResult<Vec<(Bound<'_, PyBytes>, Bound<'_, PyBytes>)>> {
    let (experts, size, inter) = shape;
    let shape = MoeShape { experts, size, inter };
    let results = py.detach(|| {
        guard(|| {
            let mut up_steps = Vec::new();
            let mut down_steps = Vec::new();
            for expert in 0..experts {
                let gate = matrix("gate", &gate, expert, (inter, size))?;
                let up = matrix("up", &up, expert, (inter, size))?;
                pack(&mut up_steps, vec![&gate, &up], RowOrder::GateUp)?;
                let down = matrix("down", &down, expert, (size, inter))?;
                pack(&mut down_steps, vec![&down], RowOrder::Stored)?;
            }
            let context = Context::new(device).map_err(|e| failed(&e))?;
            let layer =
                MoeLayer::new(&context, shape, &up_steps, &down_steps).map_err(|e| failed(&e))?;
            batches.iter().map(|batch| run(&layer, size, batch)).collect::<PyResult<Vec<_>>>()
        })
    })?;
    Ok(results
        .into_iter()
        .map(|(hidden, residual)| {
            let bytes = bytemuck::cast_slice(&hidden);
            (PyBytes::new(py, bytes), PyBytes::new(py, bytemuck::cast_slice(&residual)))
        })
        .collect())
}

fn run(layer: &MoeLayer, size: usize, batch: &Batch) -> PyResult<(Vec<u16>, Vec<f32>)> {
    let (top_k, x, experts, gates, residual) = batch;
    let x: Vec<u16> = values("x", x)?;
    let experts: Vec<u32> = values("experts", experts)?;
    let gates: Vec<f32> = values("gates", gates)?;
    let mut residual: Vec<f32> = values("residual", residual)?;
    let rows = x.len() / size;
    let batch = MoeBatch { rows, top_k: *top_k, x: &x, experts: &experts, gates: &gates };
    let hidden = layer.run(&batch, &mut residual).map_err(|e| failed(&e))?;
    Ok((hidden, residual))
}

/// The matrix of one expert among all.
fn matrix(
    name: &str,
    (codes, scales): &Stored,
    expert: usize,
    (rows, cols): (usize, usize),
) -> PyResult<Matrix> {
    let part = |bytes: &[u8], per_byte: usize| {
        let len = rows * cols / per_byte;
        bytes.get(expert * len..(expert + 1) * len).map(|part| Bytes::from_vec(part.to_vec()))
    };
    match (part(codes, 2), part(scales, 32)) {
        (Some(data), Some(scales)) => {
            Ok(Matrix { rows, cols, data, format: Format::Mxfp4 { scales }, row_step: 1 })
        }
        _ => Err(invalid(name, &format!("too short for expert {expert} of [{rows}, {cols}]"))),
    }
}

/// Appends the steps of one matrix.
fn pack(steps: &mut Vec<u8>, parts: Vec<&Matrix>, order: RowOrder) -> PyResult<()> {
    let packing = Packing::new("experts", parts, order).map_err(raised)?;
    let start = steps.len();
    steps.resize(start + packing.shape().bytes(), 0);
    packing.pack(0..packing.shape().tiles, &mut steps[start..], 1).map_err(raised)
}

fn values<T: bytemuck::Pod>(name: &str, bytes: &[u8]) -> PyResult<Vec<T>> {
    if bytes.len() % size_of::<T>() != 0 {
        return Err(invalid(name, &format!("{} bytes are no whole elements", bytes.len())));
    }
    Ok(bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect())
}

fn failed(error: &GpuError) -> PyErr {
    match error {
        GpuError::Shape { .. } => invalid("batches", &error.to_string()),
        _ => raised(Error::NoGpu { reason: error.to_string() }),
    }
}
