//! The program `kilotok`, run inside this process.

use std::ffi::OsString;
use std::path::PathBuf;

use pyo3::prelude::*;

/// Run the program with `arguments`, the first of which is its name, and return its exit status.
///
/// Blocks without the GIL. Python's handlers do not run meanwhile; the server installs its own.
#[pyfunction]
pub(crate) fn run_program(py: Python<'_>, arguments: Vec<OsString>, demo: Option<PathBuf>) -> u8 {
    py.detach(|| kilotok_server::cli::run(arguments, demo.as_deref()))
}
