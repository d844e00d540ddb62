//! The Python extension module `kilotok._core`: thin, no logic of its own.

mod gpu;

/// The native core of kilotok.
#[pyo3::pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::gpu::{gpu_report, run_gpu_probe};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
