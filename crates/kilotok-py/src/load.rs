//! Models from a directory or from tensors in memory, as running engines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kilotok::backend::cpu::Simd;
use kilotok::engine::{self, Device, EngineBuilder};
use kilotok::weights::{self, DrafterChoice, DrafterTensors, Dtype, Progress, TensorData};
use pyo3::prelude::*;

use crate::buffers::bytes_of;
use crate::engine::{Engine, Loaded};
use crate::errors::{guard, invalid, raised};
use crate::info::Info;
use crate::options;
use crate::process;

/// The name of a drafter's embedding of masked rows among its tensors.
const MASK_EMBEDDING: &str = "mask_embedding";

/// What `kilotok.engine` passes for every way of making an engine.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct EngineOptions {
    device: String,
    mode: String,
    speculation: Py<PyAny>,
    threads: Option<usize>,
    max_batch: Option<usize>,
    max_positions: Option<usize>,
    kv_tokens: Option<usize>,
    prefill_chunk: Option<usize>,
    prefix_cache_mib: Option<usize>,
    simd: Option<String>,
    progress: Option<Py<PyAny>>,
}

impl EngineOptions {
    fn apply(&self, py: Python<'_>, builder: EngineBuilder) -> PyResult<EngineBuilder> {
        let device = match self.device.as_str() {
            "auto" => Device::Auto,
            "cpu" => Device::Cpu,
            "cuda" => Device::Cuda,
            other => {
                return Err(invalid(
                    "device",
                    &format!("'{other}' is not 'auto', 'cpu' or 'cuda'"),
                ));
            }
        };
        let simd = self.simd.as_deref().map(str::parse::<Simd>).transpose().map_err(raised)?;
        Ok(builder
            .speculation(options::speculation(self.speculation.bind(py))?)
            .device(device)
            .mode(options::mode(&self.mode)?)
            .simd(simd)
            .threads(self.threads)
            .max_batch(self.max_batch)
            .max_positions(self.max_positions)
            .kv_positions(self.kv_tokens)
            .prefill_chunk(self.prefill_chunk)
            .prefix_cache(self.prefix_cache_mib.map(|mib| mib.saturating_mul(1 << 20))))
    }

    /// Loads and starts, without the GIL; the text layer is that of `text_dir`.
    fn start(
        &self,
        py: Python<'_>,
        builder: EngineBuilder,
        text_dir: Option<&Path>,
    ) -> PyResult<Engine> {
        let mut builder = self.apply(py, builder)?;
        let mut reporter = Reporter { callback: self.progress.as_ref(), error: None };
        let loaded = py.detach(|| {
            let model = builder
                .load(Some(&mut |progress: Progress| reporter.report(&progress)))
                .map_err(raised)?;
            if let Some(error) = reporter.error.take() {
                return Err(error);
            }
            let info = Info::of(&model);
            // On a GPU the weights are brought there now; on the CPU nothing is reported.
            let engine = builder
                .build_with(Some(&mut |progress: Progress| reporter.report(&progress)))
                .map_err(raised)?;
            if let Some(error) = reporter.error.take() {
                return Err(error);
            }
            Loaded::new(engine, info, text_dir)
        })?;
        Ok(Engine::new(loaded))
    }
}

/// Calls back into Python while weights are read.
struct Reporter<'a> {
    callback: Option<&'a Py<PyAny>>,
    /// What the callback raised, or Ctrl-C; raised when loading is over.
    error: Option<PyErr>,
}

impl Reporter<'_> {
    fn report(&mut self, progress: &Progress) {
        if self.error.is_some() {
            return;
        }
        self.error = Python::attach(|py| {
            py.check_signals()?;
            let Some(callback) = self.callback else { return Ok(()) };
            callback.call1(py, (progress.bytes_done, progress.bytes_total)).map(drop)
        })
        .err();
    }
}

/// Open a checkpoint directory. `drafter` is ``"auto"``, None or a directory.
#[pyfunction]
#[pyo3(signature = (directory, options, drafter))]
pub(crate) fn open_engine(
    py: Python<'_>,
    directory: PathBuf,
    options: EngineOptions,
    drafter: Option<String>,
) -> PyResult<Engine> {
    let drafter = match drafter.as_deref() {
        None => DrafterChoice::None,
        Some("auto") => DrafterChoice::Auto,
        Some(dir) => DrafterChoice::Dir(dir.into()),
    };
    process::check()?;
    guard(|| {
        let builder = engine::Engine::builder(&directory).drafter(drafter);
        options.start(py, builder, Some(&directory))
    })
}

/// One tensor: safetensors name of the type, shape, and a buffer of its bytes.
pub(crate) type RawTensor<'py> = (String, Vec<usize>, Bound<'py, PyAny>);

/// Make an engine from a config and tensors in memory; `drafter` is the same for a drafter.
#[pyfunction]
#[pyo3(signature = (config, tensors, options, drafter, tokenizer))]
pub(crate) fn engine_from_tensors(
    py: Python<'_>,
    config: &str,
    tensors: BTreeMap<String, RawTensor<'_>>,
    options: EngineOptions,
    drafter: Option<(String, BTreeMap<String, RawTensor<'_>>)>,
    tokenizer: Option<PathBuf>,
) -> PyResult<Engine> {
    process::check()?;
    guard(|| {
        let tensors = tensor_data(tensors)?;
        let drafter = drafter
            .map(|(config_json, mut tensors)| {
                let mask = tensors.remove(MASK_EMBEDDING);
                let mask = mask.map(|mask| one_tensor(MASK_EMBEDDING, mask)).transpose()?;
                let tensors = tensor_data(tensors)?;
                PyResult::Ok(DrafterTensors { config_json, tensors, mask_embedding: mask })
            })
            .transpose()?;
        let model =
            py.detach(|| weights::from_tensors(config, tensors, drafter)).map_err(raised)?;
        options.start(py, engine::Engine::from_model(Arc::new(model)), tokenizer.as_deref())
    })
}

/// Tensors by name; their buffers are read in place.
pub(crate) fn tensor_data(
    tensors: BTreeMap<String, RawTensor<'_>>,
) -> PyResult<Vec<(String, TensorData)>> {
    tensors
        .into_iter()
        .map(|(name, tensor)| one_tensor(&name, tensor).map(|data| (name, data)))
        .collect()
}

fn one_tensor(name: &str, (dtype, shape, buffer): RawTensor<'_>) -> PyResult<TensorData> {
    let bytes = bytes_of(name, &buffer)?;
    Ok(TensorData { dtype: Dtype::from_name(&dtype), shape, bytes })
}
