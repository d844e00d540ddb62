//! What the GPU layer knows, as Python dictionaries.

use kilotok::Error;
use kilotok_gpu::{Context, DeviceInfo, GpuError, GpuReport, ImageFit, Probe, pool};
use kilotok_kernels::Coverage;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::errors::{invalid, raised};

/// Describe the driver, the GPUs and the embedded kernels; launches nothing and never fails for lack of a GPU.
///
/// Returns
/// -------
/// dict
///     ``state``: ``"ready"``, ``"no_driver"``, ``"driver_too_old"`` or ``"no_device"``; ``detail``: a sentence;
///     ``text``: lines for a terminal; ``kernels``: ``compiler``, ``source_hash`` (both None in a build without
///     kernels) and ``images``; ``devices``: one dict per GPU.
#[pyfunction]
pub(crate) fn gpu_report(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let report = py.detach(kilotok_gpu::report);
    let GpuReport { build, probe, devices } = &report;
    let out = PyDict::new(py);
    let state = match probe {
        Probe::Ready { .. } => "ready",
        Probe::NoDriver { .. } => "no_driver",
        Probe::DriverTooOld { .. } => "driver_too_old",
        Probe::NoDevice => "no_device",
    };
    out.set_item("state", state)?;
    out.set_item("detail", probe.to_string())?;
    out.set_item("text", report.to_string())?;

    let images = PyList::empty(py);
    for image in build.images {
        let entry = PyDict::new(py);
        entry.set_item("family", image.family)?;
        entry.set_item("archs", image.archs)?;
        entry.set_item("bytes", image.bytes.len())?;
        images.append(entry)?;
    }
    let kernels = PyDict::new(py);
    kernels.set_item("compiler", build.toolchain.map(|toolchain| toolchain.compiler))?;
    kernels.set_item("source_hash", build.toolchain.map(|toolchain| toolchain.source_hash))?;
    kernels.set_item("images", images)?;
    out.set_item("kernels", kernels)?;

    let list = PyList::empty(py);
    for device in devices {
        let entry = device_dict(py, &device.device)?;
        let fits = PyDict::new(py);
        for ImageFit { family, coverage } in &device.images {
            let target = match coverage {
                Coverage::Native(target) | Coverage::Translated(target) => Some(*target),
                Coverage::None => None,
            };
            fits.set_item(*family, target)?;
        }
        entry.set_item("runs", fits)?;
        list.append(entry)?;
    }
    out.set_item("devices", list)?;
    Ok(out)
}

/// Run the embedded probe kernel on one GPU and compare every element of its result exactly.
///
/// Parameters
/// ----------
/// device : int
///     The driver's index, from 0.
///
/// Returns
/// -------
/// dict
///     ``arch``, ``arch_family``, ``num_sms_seen``, ``clock_mhz``, ``num_elements``, ``num_launches``,
///     ``cooperative``, ``kernel_us``, ``bytes_moved``, ``gbytes_per_s``, ``registers``, ``local_bytes``, ``device``.
///
/// Raises
/// ------
/// NoGpuError
///     No driver, no GPU, no kernels in this build, or a wrong result; the message says which.
#[pyfunction]
#[pyo3(signature = (device = 0))]
pub(crate) fn run_gpu_probe(py: Python<'_>, device: usize) -> PyResult<Bound<'_, PyDict>> {
    let report = py.detach(|| kilotok_gpu::run_probe(device)).map_err(|e| failed(&e))?;
    let out = PyDict::new(py);
    out.set_item("arch", report.arch)?;
    out.set_item("arch_family", report.arch_family)?;
    out.set_item("num_sms_seen", report.num_sms_seen)?;
    out.set_item("clock_mhz", report.clock_mhz)?;
    out.set_item("num_elements", report.num_elements)?;
    out.set_item("num_launches", report.num_launches)?;
    out.set_item("cooperative", report.is_cooperative_checked)?;
    out.set_item("kernel_us", report.kernel_us)?;
    out.set_item("bytes_moved", report.bytes_moved)?;
    out.set_item("gbytes_per_s", report.gbytes_per_s)?;
    out.set_item("registers", report.kernel.num_registers)?;
    out.set_item("local_bytes", report.kernel.local_bytes)?;
    out.set_item("device", device_dict(py, &report.device)?)?;
    Ok(out)
}

/// How much memory of one GPU is free, and how much of it an engine may take.
///
/// Parameters
/// ----------
/// device : int
///     The driver's index, from 0.
/// fraction : float
///     The share of free memory that may be taken; more than 0, at most 1.
///
/// Returns
/// -------
/// dict
///     ``free``, ``total`` and ``budget`` in bytes, and ``fraction``.
///
/// Raises
/// ------
/// ValueError
///     A fraction out of range.
/// NoGpuError
///     No driver or no such GPU.
#[pyfunction]
#[pyo3(signature = (device = 0, fraction = pool::DEFAULT_FRACTION))]
pub(crate) fn gpu_memory(
    py: Python<'_>,
    device: usize,
    fraction: f64,
) -> PyResult<Bound<'_, PyDict>> {
    pool::budget(0, fraction).map_err(|e| invalid("fraction", &e.to_string()))?;
    let (free, total, budget) = py
        .detach(|| {
            let (free, total) = Context::new(device)?.memory()?;
            Ok((free, total, pool::budget(free, fraction)?))
        })
        .map_err(|e| failed(&e))?;
    let out = PyDict::new(py);
    out.set_item("free", free)?;
    out.set_item("total", total)?;
    out.set_item("budget", budget)?;
    out.set_item("fraction", fraction)?;
    Ok(out)
}

fn device_dict<'py>(py: Python<'py>, device: &DeviceInfo) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    out.set_item("index", device.index)?;
    out.set_item("name", &device.name)?;
    out.set_item("capability", device.capability)?;
    out.set_item("num_sms", device.num_sms)?;
    out.set_item("memory_bytes", device.memory_bytes)?;
    out.set_item("l2_bytes", device.l2_bytes)?;
    Ok(out)
}

fn failed(error: &GpuError) -> PyErr {
    raised(Error::NoGpu { reason: error.to_string() })
}
