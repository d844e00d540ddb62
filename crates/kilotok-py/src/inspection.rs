//! A checkpoint described from its headers.

use std::path::PathBuf;

use kilotok::Error;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{guard, raised};

/// Describe a checkpoint directory without reading tensor data.
///
/// Returns
/// -------
/// dict
///     ``json``: the report as JSON text; ``text``: lines for a terminal.
#[pyfunction]
pub(crate) fn inspect(py: Python<'_>, directory: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    guard(|| {
        let (json, text) = py.detach(|| {
            let report = kilotok::inspect::inspect(&directory).map_err(raised)?;
            let json = serde_json::to_string(&report).map_err(|error| {
                raised(Error::model_format(directory.display().to_string(), error.to_string()))
            })?;
            PyResult::Ok((json, report.to_string()))
        })?;
        let out = PyDict::new(py);
        out.set_item("json", json)?;
        out.set_item("text", text)?;
        Ok(out)
    })
}
