//! A model's GPU program in host memory, for parity tests.

use std::path::PathBuf;

use kilotok::backend::Limits;
use kilotok::backend::gpu::replay::{LINES, Replay};
use kilotok::weights;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::errors::{guard, raised};

/// The op records of a model, the memory they work on, and an interpreter that runs one at a time.
#[pyclass(module = "kilotok._core")]
pub(crate) struct GpuProgram(Replay);

#[pymethods]
impl GpuProgram {
    /// Records of 256 bytes each (KilotokOp).
    #[getter]
    fn ops<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.ops)
    }

    /// First op and the one past the last of each line of ops, by name.
    #[getter]
    fn lines<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let lines = PyDict::new(py);
        for (name, line) in LINES.into_iter().zip(self.0.lines) {
            lines.set_item(name, line)?;
        }
        Ok(lines)
    }

    /// Name, address and bytes of every region.
    #[getter]
    fn regions(&self) -> Vec<(String, u64, u64)> {
        self.0.regions.iter().map(|r| (r.name.clone(), r.address, r.bytes)).collect()
    }

    /// Address and bytes of every piece of memory.
    #[getter]
    fn pieces(&self) -> Vec<(u64, u64)> {
        self.0.pieces.to_vec()
    }

    /// Rows of a pass at most.
    #[getter]
    fn pass_rows(&self) -> usize {
        self.0.pass_rows
    }

    /// Rows of a whole drafter block; 0 without a drafter.
    #[getter]
    fn block_rows(&self) -> usize {
        self.0.block_rows
    }

    /// Memory.
    fn read<'py>(
        &self,
        py: Python<'py>,
        address: u64,
        bytes: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, self.0.read(address, bytes).map_err(raised)?))
    }

    /// Overwrite memory.
    fn write(&mut self, address: u64, data: &[u8]) -> PyResult<()> {
        self.0.write(address, data).map_err(raised)
    }

    /// Run one record under a command (KilotokCommand), and return the command as it is then.
    fn step<'py>(
        &mut self,
        py: Python<'py>,
        record: &[u8],
        command: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        guard(|| Ok(PyBytes::new(py, &self.0.step(record, command).map_err(raised)?)))
    }
}

/// Lower a model for a grid of ``blocks`` blocks, with its weights, in host memory. A debugging aid.
///
/// Parameters
/// ----------
/// model_dir : path
/// slots, pages, page_size, max_positions : int
///     What the caches hold.
/// blocks : int
///     Blocks of the grid.
///
/// Raises
/// ------
/// ModelFormatError
///     The GPU cannot run the model, or the directory is none.
#[pyfunction]
#[pyo3(signature = (model_dir, slots = 1, pages = 4, page_size = 16, max_positions = 64, blocks = 5))]
pub(crate) fn gpu_program(
    py: Python<'_>,
    model_dir: PathBuf,
    slots: usize,
    pages: usize,
    page_size: usize,
    max_positions: usize,
    blocks: u32,
) -> PyResult<GpuProgram> {
    py.detach(|| {
        guard(|| {
            let model = weights::load(&model_dir, None).map_err(raised)?;
            let limits =
                Limits { max_rows: 8, slots, pages, page_size, max_positions, snapshots: 0 };
            Ok(GpuProgram(Replay::new(&model, limits, blocks).map_err(raised)?))
        })
    })
}
