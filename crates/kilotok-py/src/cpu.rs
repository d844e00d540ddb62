//! What the CPU backend could use here, as a Python dictionary.

use kilotok::backend::cpu::Simd;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Describe the processor as the CPU backend sees it.
///
/// Returns
/// -------
/// dict
///     ``arch``; ``cores`` usable by this process; ``features``: name to bool; ``simd``: paths that run here,
///     slowest first; ``best``: the one used by default.
#[pyfunction]
pub(crate) fn cpu_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let features = PyDict::new(py);
    for (name, is_present) in features_here() {
        features.set_item(name, is_present)?;
    }
    let paths: Vec<String> = Simd::available().iter().map(Simd::to_string).collect();
    let out = PyDict::new(py);
    out.set_item("arch", std::env::consts::ARCH)?;
    out.set_item("cores", std::thread::available_parallelism().map_or(1, usize::from))?;
    out.set_item("features", features)?;
    out.set_item("simd", paths)?;
    out.set_item("best", Simd::detect().to_string())?;
    Ok(out)
}

#[cfg(target_arch = "x86_64")]
fn features_here() -> Vec<(&'static str, bool)> {
    vec![
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ]
}

#[cfg(target_arch = "aarch64")]
fn features_here() -> Vec<(&'static str, bool)> {
    vec![
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
    ]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features_here() -> Vec<(&'static str, bool)> {
    Vec::new()
}
