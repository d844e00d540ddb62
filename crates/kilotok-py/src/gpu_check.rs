//! One op of a program on the GPU, for parity tests. Arrays cross as their bytes, native endian.
#![allow(unsafe_code, reason = "the caller says what an op reads and writes")]

use kilotok::Error;
use kilotok_gpu::ops::OpCheck;
use kilotok_gpu::{Context, GpuError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{guard, invalid, raised};

/// Bytes of the buffers, the command and the mailbox, and microseconds.
type Results<'py> = (Vec<Bound<'py, PyBytes>>, Bound<'py, PyBytes>, Bound<'py, PyBytes>, f64);

/// Run one op that streams no weights. A debugging aid: extents that do not fit the buffers are not noticed.
///
/// Parameters
/// ----------
/// kind : int
///     KILOTOK_OP_*.
/// payload : bytes
///     The op's struct of cuda/include/kilotok/program.h; addresses may hold anything.
/// places : sequence of (int, int)
///     Offset in the payload and buffer of every address.
/// buffers : sequence of bytes
///     What the addresses point to.
/// command, mailbox : bytes
///     KilotokCommand, whose pass has the rows, and KilotokMailbox.
/// blocks, repeats : int
///     Blocks of the grid; launches.
/// device : int
///     The driver's index, from 0.
///
/// Returns
/// -------
/// (list of bytes, bytes, bytes, float)
///     Buffers, command and mailbox after the last launch, and the mean time of a launch in microseconds.
///
/// Raises
/// ------
/// ValueError
///     Structs of another size, places outside.
/// NoGpuError
///     No driver, no GPU, no kernels in this build, a kernel that failed; the message says which.
#[pyfunction]
#[pyo3(signature = (kind, payload, places, buffers, command, mailbox, blocks, repeats = 1, device = 0))]
#[expect(clippy::too_many_arguments, reason = "an op is described by this much")]
pub(crate) fn gpu_op(
    py: Python<'_>,
    kind: u32,
    payload: Vec<u8>,
    places: Vec<(usize, usize)>,
    mut buffers: Vec<Vec<u8>>,
    mut command: Vec<u8>,
    mut mailbox: Vec<u8>,
    blocks: u32,
    repeats: u32,
    device: usize,
) -> PyResult<Results<'_>> {
    let microseconds = py.detach(|| {
        guard(|| {
            let context = Context::new(device).map_err(|e| failed(&e))?;
            let mut op = OpCheck {
                kind,
                payload: &payload,
                places: &places,
                buffers: &mut buffers,
                command: &mut command,
                mailbox: &mut mailbox,
                blocks,
                repeats,
            };
            // SAFETY: the Python caller lays out the buffers, as the docstring says.
            unsafe { op.run(&context) }.map_err(|e| failed(&e))
        })
    })?;
    let bytes = |values: &[u8]| PyBytes::new(py, values);
    let buffers = buffers.iter().map(|b| bytes(b)).collect();
    Ok((buffers, bytes(&command), bytes(&mailbox), microseconds))
}

fn failed(error: &GpuError) -> PyErr {
    match error {
        GpuError::Shape { .. } => invalid("op", &error.to_string()),
        _ => raised(Error::NoGpu { reason: error.to_string() }),
    }
}
