//! Plans for models that are not there.

use kilotok::Error;
use kilotok::backend::gpu::Mode;
use kilotok::backend::gpu::synthetic::Synthetic;
use kilotok::plan::{PlanRequest, Times, bench_times};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{guard, raised};

/// Plan for a model from its configuration alone.
///
/// Parameters
/// ----------
/// config : str
///     A ``config.json``, a directory with one, or a preset's name.
/// drafter : str
///     ``"auto"``, ``"none"`` or a directory.
/// experts : str or None
///     ``"mxfp4"``, ``"fp8"`` or ``"bf16"`` instead of what the configuration announces.
/// gpu : str
///     Name of a card.
/// tp : int
///     GPUs that share the model.
/// context : int or None
///     Positions in the cache of each sequence; None: 8192, or what the model takes if that is less.
/// block : int or None
///     Rows of a drafter block; None: as many as drafter and engine have.
/// tau : float or None
///     Tokens per round.
/// price : float or None
///     Dollars per GPU and hour.
/// allreduce_us : float or None
///     Microseconds of one sum over all GPUs.
///
/// Returns
/// -------
/// dict
///     ``fits``: bool; ``json``: the plan as JSON text; ``text``: lines for a terminal.
///
/// Raises
/// ------
/// InvalidRequestError
///     An argument out of range, by name.
/// ModelFormatError
///     A configuration that is not understood, by file and key.
#[pyfunction]
#[pyo3(signature = (
    config, *, drafter = "auto", experts = None, gpu = "h200", tp = 1, context = None, block = None, tau = None,
    price = None, allreduce_us = None
))]
#[expect(clippy::too_many_arguments, reason = "they are named in Python")]
pub(crate) fn plan<'py>(
    py: Python<'py>,
    config: String,
    drafter: &str,
    experts: Option<String>,
    gpu: &str,
    tp: usize,
    context: Option<usize>,
    block: Option<usize>,
    tau: Option<f64>,
    price: Option<f64>,
    allreduce_us: Option<f64>,
) -> PyResult<Bound<'py, PyDict>> {
    let (drafter, gpu) = (drafter.into(), gpu.to_owned());
    let request =
        PlanRequest { config, drafter, experts, gpu, tp, context, block, tau, price, allreduce_us };
    let (fits, json, text) = py.detach(|| {
        guard(|| {
            let plan = kilotok::plan::plan(&request).map_err(raised)?;
            let json = serde_json::to_string(&plan).map_err(|error| {
                raised(Error::model_format(request.config.clone(), error.to_string()))
            })?;
            PyResult::Ok((plan.fits, json, plan.to_string()))
        })
    })?;
    let out = PyDict::new(py);
    out.set_item("fits", fits)?;
    out.set_item("json", json)?;
    out.set_item("text", text)?;
    Ok(out)
}

/// What `bench_synthetic` should measure, in milliseconds.
///
/// Parameters
/// ----------
/// preset : str
///     Its name.
/// rank_of : int
///     How many GPUs share the model.
/// rows : sequence of int
///     Rows of the verify passes.
/// context : int
///     Positions in the cache.
/// block : int
///     Rows of a drafter block.
/// accept : sequence of float
///     Tokens per round.
/// experts : sequence of float or None
///     Distinct experts per layer of each pass, as measured; None: the expected number.
/// gpu : str
///     Name of a card.
///
/// Returns
/// -------
/// dict
///     ``passes`` and ``rounds``: dicts with ``floor``, ``persistent`` and ``graph``, the last two
///     None where the card has no kernels.
///
/// Raises
/// ------
/// InvalidRequestError
///     An argument out of range.
#[pyfunction]
#[pyo3(signature = (preset, rank_of, rows, context, block, accept, experts = None, gpu = "h200"))]
#[expect(clippy::too_many_arguments, reason = "they are named in Python")]
pub(crate) fn plan_bench<'py>(
    py: Python<'py>,
    preset: String,
    rank_of: usize,
    rows: Vec<usize>,
    context: usize,
    block: usize,
    accept: Vec<f64>,
    experts: Option<Vec<f64>>,
    gpu: &str,
) -> PyResult<Bound<'py, PyDict>> {
    let mode = Mode::Persistent;
    let asked = Synthetic {
        preset,
        rank_of,
        mode,
        rows,
        context,
        block,
        accept,
        device: 0,
        is_traced: false,
    };
    let times = guard(|| bench_times(&asked, experts.as_deref(), gpu).map_err(raised))?;
    let described = |times: &[Times]| -> PyResult<Vec<Bound<'py, PyDict>>> {
        let each = times.iter().map(|times| {
            let entry = PyDict::new(py);
            for (model, ms) in times.each() {
                entry.set_item(model, ms)?;
            }
            PyResult::Ok(entry)
        });
        each.collect()
    };
    let out = PyDict::new(py);
    out.set_item("passes", described(&times.passes)?)?;
    out.set_item("rounds", described(&times.rounds)?)?;
    Ok(out)
}
