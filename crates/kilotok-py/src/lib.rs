//! The Python extension module `kilotok._core`: thin, no logic of its own.
#![allow(
    clippy::needless_pass_by_value,
    reason = "PyO3 hands extracted arguments over by value, and so does `map_err` errors"
)]

mod buffers;
mod codec;
mod cpu;
mod debug;
mod engine;
mod errors;
mod gpu;
mod gpu_check;
mod info;
mod inspection;
mod load;
mod notifier;
mod options;
mod planning;
mod process;
mod program;
mod replay;
mod stream;
mod synthetic;
mod taps;

/// The native core of kilotok.
#[pyo3::pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::codec::{fp8_decode, mxfp4_decode, mxfp4_encode, mxfp4_encode_matrix};
    #[pymodule_export]
    use super::cpu::cpu_info;
    #[pymodule_export]
    use super::debug::{debug_draft, debug_forward};
    #[pymodule_export]
    use super::engine::Engine;
    #[pymodule_export]
    use super::gpu::{gpu_memory, gpu_report, run_gpu_probe};
    #[pymodule_export]
    use super::gpu_check::gpu_op;
    #[pymodule_export]
    use super::inspection::inspect;
    #[pymodule_export]
    use super::load::{engine_from_tensors, open_engine};
    #[pymodule_export]
    use super::planning::{plan, plan_bench};
    #[pymodule_export]
    use super::program::run_program;
    #[pymodule_export]
    use super::replay::{GpuProgram, gpu_program};
    #[pymodule_export]
    use super::stream::{Event, TokenStream};
    #[pymodule_export]
    use super::synthetic::bench_synthetic;
    #[pymodule_export]
    use super::taps::{TapReader, open_taps};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
