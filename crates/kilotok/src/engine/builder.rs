//! From a checkpoint directory to a running engine.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Engine, EngineConfig, ModelInfo, Speculation};
use crate::backend::cpu::{CpuConfig, CpuExecutor, Simd};
use crate::backend::gpu::{self, GpuConfig, GpuExecutor};
use crate::backend::{Backend, Limits, Rounds};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::weights::{self, DrafterChoice, LoadOptions, Progress};

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Device {
    /// The best device that can run the model.
    #[default]
    Auto,
    /// The CPU backend.
    Cpu,
    /// A GPU.
    Cuda,
}

/// How a GPU runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ExecutionMode {
    /// The one that is validated for the device.
    #[default]
    Auto,
    /// One launch per op, recorded as CUDA graphs.
    Graph,
    /// One kernel that stays on the device.
    Persistent,
}

impl ExecutionMode {
    /// What `Auto` stands for: a kernel that stays only where that is known to go well.
    fn resolve(self, is_tested: bool) -> gpu::Mode {
        match self {
            Self::Auto if !is_tested => gpu::Mode::Graph,
            Self::Graph => gpu::Mode::Graph,
            Self::Auto | Self::Persistent => gpu::Mode::Persistent,
        }
    }
}

/// Where a model runs and what that holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendInfo {
    /// `cpu` or `cuda`.
    pub device: &'static str,
    /// Name of the GPU and mode of its program; empty on the CPU.
    pub gpu: String,
    /// Why this device was chosen, where nobody asked for it.
    pub choice: String,
    /// Instruction set of the CPU backend.
    pub simd: String,
    /// Threads that compute.
    pub threads: usize,
    /// Bytes held by purpose, weights aside.
    pub memory: Vec<(&'static str, usize)>,
}

/// Rows of one CPU round: enough for a block of 8 from 8 sequences.
const MAX_ROWS: usize = 64;

/// Positions of one page of the full-attention cache.
const PAGE_SIZE: usize = 16;

/// Positions of one sequence where the caller does not say; checkpoints claim up to a million.
const DEFAULT_POSITIONS: usize = 8192;

/// The GPU that models run on: the driver's first.
const GPU: usize = 0;

/// Bytes of saved states of the prefix cache where the caller does not say.
const DEFAULT_PREFIX_CACHE: usize = 256 << 20;

/// Saved states at most, per sequence at once: more would not be found again before they are old.
const SNAPSHOTS_PER_SLOT: usize = 8;

enum Source {
    Directory(PathBuf),
    Loaded(Arc<Model>),
}

/// Describes an engine; every setting has a default but the model. A setting that is given as
/// `None` stays as it is, so that options pass through as they are.
#[must_use]
pub struct EngineBuilder {
    source: Source,
    drafter: DrafterChoice,
    device: Device,
    mode: ExecutionMode,
    threads: Option<usize>,
    simd: Option<Simd>,
    max_batch: usize,
    max_positions: Option<usize>,
    kv_positions: Option<usize>,
    prefix_cache: usize,
    config: EngineConfig,
}

impl Engine {
    /// An engine over a checkpoint directory.
    pub fn builder(directory: impl Into<PathBuf>) -> EngineBuilder {
        EngineBuilder::new(Source::Directory(directory.into()))
    }

    /// An engine over a model that is in memory already.
    pub fn from_model(model: Arc<Model>) -> EngineBuilder {
        EngineBuilder::new(Source::Loaded(model))
    }
}

impl EngineBuilder {
    fn new(source: Source) -> Self {
        Self {
            source,
            drafter: DrafterChoice::Auto,
            device: Device::Auto,
            mode: ExecutionMode::Auto,
            threads: None,
            simd: None,
            max_batch: 16,
            max_positions: None,
            kv_positions: None,
            prefix_cache: DEFAULT_PREFIX_CACHE,
            config: EngineConfig::default(),
        }
    }

    /// Where to run.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// How a GPU runs the model; without effect on the CPU.
    pub fn mode(mut self, mode: ExecutionMode) -> Self {
        self.mode = mode;
        self
    }

    /// Which drafter to load: the checkpoint's own, none, or another directory.
    pub fn drafter(mut self, drafter: impl Into<Option<DrafterChoice>>) -> Self {
        set(&mut self.drafter, drafter);
        self
    }

    /// Speculation of requests that do not say.
    pub fn speculation(mut self, speculation: impl Into<Option<Speculation>>) -> Self {
        set(&mut self.config.speculation, speculation);
        self
    }

    /// CPU threads; the default is all cores.
    pub fn threads(mut self, threads: impl Into<Option<usize>>) -> Self {
        self.threads = threads.into().or(self.threads);
        self
    }

    /// SIMD path of the CPU backend; the default is the widest that the machine has.
    pub fn simd(mut self, simd: impl Into<Option<Simd>>) -> Self {
        self.simd = simd.into().or(self.simd);
        self
    }

    /// Sequences at once, 1 to 64.
    pub fn max_batch(mut self, sequences: impl Into<Option<usize>>) -> Self {
        set(&mut self.max_batch, sequences);
        self
    }

    /// Positions of one sequence, prompt and output together.
    pub fn max_positions(mut self, positions: impl Into<Option<usize>>) -> Self {
        self.max_positions = positions.into().or(self.max_positions);
        self
    }

    /// Positions of all sequences together: the page budget of the full-attention cache. The
    /// default is four sequences of full length.
    pub fn kv_positions(mut self, positions: impl Into<Option<usize>>) -> Self {
        self.kv_positions = positions.into().or(self.kv_positions);
        self
    }

    /// Bytes for the prefix cache, 256 MiB by default; 0 turns it off.
    ///
    /// Prefixes stay in pages that no request needs ([`EngineBuilder::kv_positions`]); the bytes
    /// are for what pages do not hold: the newest positions of sliding-window layers and of the
    /// drafter, saved at points where later requests can begin. Changes no token.
    pub fn prefix_cache(mut self, bytes: impl Into<Option<usize>>) -> Self {
        set(&mut self.prefix_cache, bytes);
        self
    }

    /// Requests that may wait.
    pub fn queue_capacity(mut self, requests: impl Into<Option<usize>>) -> Self {
        set(&mut self.config.queue_capacity, requests);
        self
    }

    /// Prompt positions fed in one round at most; 0 (the default) uses every free row.
    pub fn prefill_chunk(mut self, positions: impl Into<Option<usize>>) -> Self {
        set(&mut self.config.prefill_chunk, positions);
        self
    }

    /// Checks the settings and loads the weights now instead of in `build`, for callers that want
    /// to look at the model first.
    ///
    /// # Errors
    /// As [`EngineBuilder::build`].
    pub fn load(&mut self, progress: Option<&mut dyn FnMut(Progress)>) -> Result<Arc<Model>> {
        self.check()?;
        let model = match &self.source {
            Source::Directory(directory) => {
                let options = LoadOptions { drafter: self.drafter.clone() };
                Arc::new(weights::load_with(directory, &options, progress)?)
            }
            Source::Loaded(model) => Arc::clone(model),
        };
        self.source = Source::Loaded(Arc::clone(&model));
        Ok(model)
    }

    /// What can be said before any weight is read.
    fn check(&self) -> Result<()> {
        if self.device == Device::Cuda {
            gpu::probe(GPU)?;
        }
        within("max_batch", self.max_batch, MAX_ROWS)?;
        if let Some(threads) = self.threads {
            within("threads", threads, 1024)?;
        }
        Ok(())
    }

    /// States that the prefix cache may save, of `bytes` each.
    fn snapshots(&self, bytes: usize, limits: Limits) -> usize {
        if self.prefix_cache == 0 {
            return 0;
        }
        // Where pages hold everything a sequence can begin behind any of them.
        let Some(fit) = self.prefix_cache.checked_div(bytes) else { return limits.pages };
        if fit == 0 {
            let budget = self.prefix_cache;
            tracing::warn!(bytes, budget, "the prefix cache is off: not one saved state fits");
        }
        fit.min(SNAPSHOTS_PER_SLOT * limits.slots).min(limits.pages)
    }

    /// Loads and starts.
    ///
    /// # Errors
    /// Whatever keeps the checkpoint from being read or the engine from fitting.
    pub fn build(self) -> Result<Engine> {
        self.build_with(None)
    }

    /// Like [`EngineBuilder::build`], reporting bytes as they are loaded.
    ///
    /// # Errors
    /// As [`EngineBuilder::build`].
    pub fn build_with(mut self, mut progress: Option<&mut dyn FnMut(Progress)>) -> Result<Engine> {
        let model = match &mut progress {
            Some(report) => self.load(Some(&mut |progress| report(progress)))?,
            None => self.load(None)?,
        };
        let spec = &model.spec;
        let max_positions =
            self.max_positions.unwrap_or_else(|| spec.max_positions.min(DEFAULT_POSITIONS));
        within("max_positions", max_positions, spec.max_positions)?;
        let kv_positions = self.kv_positions.unwrap_or(max_positions.saturating_mul(4));
        if kv_positions == 0 {
            return Err(Error::invalid("kv_positions", "0 is not at least 1"));
        }
        let limits = Limits {
            max_rows: MAX_ROWS,
            slots: self.max_batch,
            pages: kv_positions.div_ceil(PAGE_SIZE),
            page_size: PAGE_SIZE,
            max_positions,
            snapshots: 0,
        };
        let info = ModelInfo {
            vocab: spec.vocab,
            eos_token_ids: spec.eos_token_ids.clone(),
            max_drafts: spec.drafter.as_ref().map_or(0, |d| d.block_size - 1),
        };
        let (backend, description) = self.start_backend(&model, limits, progress)?;
        let info = ModelInfo { max_drafts: info.max_drafts.min(backend.max_drafts()), ..info };
        let mut engine = Engine::start(backend, info, self.config)?;
        // Kept for updates; of what a GPU has a copy of, that is a map of files.
        engine.model = Some(model).into();
        engine.backend = description;
        Ok(engine)
    }

    /// The backend for the device that was asked for, or for the best one that can run the model.
    fn start_backend(
        &self,
        model: &Arc<Model>,
        limits: Limits,
        progress: Option<&mut dyn FnMut(Progress)>,
    ) -> Result<(Box<dyn Backend>, BackendInfo)> {
        match self.device {
            Device::Cpu => self.start_cpu(model, limits, String::new()),
            Device::Cuda => self.start_gpu(model, limits, progress),
            Device::Auto => {
                if let Err(error) = gpu::probe(GPU) {
                    return self.start_cpu(model, limits, error.to_string());
                }
                if let Some(reason) = gpu::untested(GPU)? {
                    return self.start_cpu(model, limits, reason);
                }
                match self.start_gpu(model, limits, progress) {
                    Ok((backend, info)) => {
                        let choice = "a GPU is there and the model fits".to_owned();
                        Ok((backend, BackendInfo { choice, ..info }))
                    }
                    Err(error) => {
                        tracing::warn!("the model runs on the CPU: {error}");
                        self.start_cpu(model, limits, error.to_string())
                    }
                }
            }
        }
    }

    fn start_cpu(
        &self,
        model: &Arc<Model>,
        limits: Limits,
        choice: String,
    ) -> Result<(Box<dyn Backend>, BackendInfo)> {
        let bytes = CpuExecutor::snapshot_bytes(&model.spec, limits);
        let limits = Limits { snapshots: self.snapshots(bytes, limits), ..limits };
        let config = CpuConfig { threads: self.threads, simd: self.simd, limits };
        let executor = CpuExecutor::new(Arc::clone(model), config)?;
        let info = BackendInfo {
            device: "cpu",
            gpu: String::new(),
            choice,
            simd: executor.simd().to_string(),
            threads: executor.threads(),
            memory: executor.memory(),
        };
        Ok((Box::new(Rounds::new(executor)), info))
    }

    fn start_gpu(
        &self,
        model: &Arc<Model>,
        limits: Limits,
        progress: Option<&mut dyn FnMut(Progress)>,
    ) -> Result<(Box<dyn Backend>, BackendInfo)> {
        let bytes = gpu::snapshot_bytes(model, limits)?;
        let limits = Limits { snapshots: self.snapshots(bytes, limits), ..limits };
        let mode = self.mode.resolve(gpu::untested(GPU)?.is_none());
        let config = GpuConfig { device: GPU, ..GpuConfig::new(mode, limits) };
        let executor = GpuExecutor::new(model, &config, progress)?;
        let info = BackendInfo {
            device: "cuda",
            gpu: format!("{}, {} mode", executor.device_name(), executor.mode()),
            memory: executor.memory(),
            ..BackendInfo::default()
        };
        Ok((Box::new(Rounds::new(executor)), info))
    }
}

fn set<T>(place: &mut T, value: impl Into<Option<T>>) {
    if let Some(value) = value.into() {
        *place = value;
    }
}

fn within(name: &str, value: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&value) {
        Ok(())
    } else {
        Err(Error::invalid(name, format!("{value} is not within [1, {most}]")))
    }
}
