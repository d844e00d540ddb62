//! Speed of a preset on this card without its weights.

use std::path::PathBuf;

use kilotok::backend::gpu::Mode;
use kilotok::backend::gpu::synthetic::{Report, Synthetic};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::engine::write_trace;
use crate::errors::{guard, invalid, raised};

/// SMs to lay a model out for where no card is asked.
const BLOCKS: u32 = 132;

/// Measure a preset with random weights on one GPU, in one mode.
///
/// Parameters
/// ----------
/// preset : str
///     Its name.
/// rank_of : int
///     How many GPUs share the model by tensor parallelism; one share is measured, sums over ranks excluded.
/// mode : str
///     ``"graph"`` or ``"persistent"``.
/// rows : sequence of int
///     Rows of the verify passes, 1 to 8 each.
/// context : int
///     Positions in the cache.
/// block : int
///     Rows of a drafter block, 2 to 8.
/// accept : sequence of float
///     Tokens per round to give round times for, 1 to ``block`` each.
/// device : int
///     The driver's index, from 0.
/// trace : str, optional
///     Where to write a timeline of passes of the last of ``rows``, in persistent mode.
/// dry_run : bool
///     Only say how much memory is needed; needs no GPU.
///
/// Returns
/// -------
/// dict
///     ``memory``: bytes by purpose; and unless ``dry_run`` ``device``, ``copy_bytes_per_s``, ``passes``,
///     ``rounds`` (None without a drafter) and, where asked for, ``trace``: its summary.
///
/// Raises
/// ------
/// InvalidRequestError
///     An argument out of range, or a preset that so many ranks cannot share.
/// NoGpuError
///     No driver, no GPU, no kernels in this build.
/// UnsupportedError
///     A trace was asked for, and this build has no traced kernel.
/// OSError
///     The trace cannot be written.
/// OutOfMemoryError
///     It does not fit, with bytes needed and available.
/// EngineDeadError
///     The device failed, or computed what is no number.
#[pyfunction]
#[pyo3(signature = (preset, rank_of, mode, rows, context, block, accept, device = 0, trace = None, dry_run = false))]
#[expect(clippy::too_many_arguments, reason = "they are named in Python")]
pub(crate) fn bench_synthetic<'py>(
    py: Python<'py>,
    preset: String,
    rank_of: usize,
    mode: &str,
    rows: Vec<usize>,
    context: usize,
    block: usize,
    accept: Vec<f64>,
    device: usize,
    trace: Option<PathBuf>,
    dry_run: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let mode = match mode {
        "graph" => Mode::Graph,
        "persistent" => Mode::Persistent,
        other => return Err(invalid("mode", &format!("'{other}' is not 'graph' or 'persistent'"))),
    };
    let is_traced = trace.is_some();
    let asked =
        Synthetic { preset, rank_of, mode, rows, context, block, accept, device, is_traced };
    if dry_run {
        let memory = py.detach(|| guard(|| asked.memory(BLOCKS).map_err(raised)))?;
        let out = PyDict::new(py);
        out.set_item("memory", held(py, &memory)?)?;
        return Ok(out);
    }
    let report = py.detach(|| guard(|| asked.run().map_err(raised)))?;
    let out = described(py, &report)?;
    if let (Some(path), Some(trace)) = (trace, &report.trace) {
        py.detach(|| write_trace(trace, &path))?;
        out.set_item("trace", trace.summary())?;
    }
    Ok(out)
}

fn held<'py>(py: Python<'py>, memory: &[(&'static str, u64)]) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    for (purpose, bytes) in memory {
        out.set_item(*purpose, *bytes)?;
    }
    Ok(out)
}

fn described<'py>(py: Python<'py>, report: &Report) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    out.set_item("device", &report.device)?;
    out.set_item("copy_bytes_per_s", report.copy_rate)?;
    out.set_item("memory", held(py, &report.memory)?)?;
    let passes = PyList::empty(py);
    for pass in &report.passes {
        let entry = PyDict::new(py);
        entry.set_item("rows", pass.rows)?;
        entry.set_item("ms", pass.ms)?;
        entry.set_item("repeats", pass.repeats)?;
        entry.set_item("bytes", pass.bytes)?;
        entry.set_item("experts_per_layer", pass.experts)?;
        passes.append(entry)?;
    }
    out.set_item("passes", passes)?;
    let Some(rounds) = &report.rounds else {
        out.set_item("rounds", py.None())?;
        return Ok(out);
    };
    let entry = PyDict::new(py);
    entry.set_item("block", rounds.block)?;
    entry.set_item("draft_ms", rounds.draft_ms)?;
    entry.set_item("verify_ms", rounds.verify_ms)?;
    entry.set_item("device_ms", rounds.device_ms)?;
    entry.set_item("device_accept", rounds.device_accept)?;
    entry.set_item("draft_bytes", rounds.draft_bytes)?;
    let forced = PyList::empty(py);
    for round in &rounds.forced {
        let of = PyDict::new(py);
        of.set_item("accept", round.accept)?;
        of.set_item("ms", round.ms)?;
        forced.append(of)?;
    }
    entry.set_item("forced", forced)?;
    out.set_item("rounds", entry)?;
    Ok(out)
}
