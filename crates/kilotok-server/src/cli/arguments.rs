//! Values that several commands take.

use std::path::PathBuf;

use clap::Args;
use kilotok::engine::{Device, Engine, EngineBuilder, ExecutionMode, Speculation};
use kilotok::weights::DrafterChoice;
use serde::Deserialize;

/// How a model is loaded and run. The same names in the configuration file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", default)]
pub(crate) struct EngineArguments {
    /// Where to run: auto, cpu or cuda (default: auto)
    #[arg(long, env = "KILOTOK_DEVICE")]
    pub(crate) device: Option<String>,
    /// How a GPU runs the model: auto, graph or persistent (default: auto)
    #[arg(long, env = "KILOTOK_MODE")]
    pub(crate) mode: Option<String>,
    /// Threads that compute (default: all cores)
    #[arg(long, env = "KILOTOK_THREADS")]
    pub(crate) threads: Option<usize>,
    /// Sequences at once (default: 16)
    #[arg(long, env = "KILOTOK_MAX_BATCH")]
    pub(crate) max_batch: Option<usize>,
    /// Positions of one sequence, prompt and output together
    #[arg(long, env = "KILOTOK_MAX_POSITIONS")]
    pub(crate) max_positions: Option<usize>,
    /// Positions of all sequences together (default: four of full length)
    #[arg(long, env = "KILOTOK_KV_POSITIONS")]
    pub(crate) kv_positions: Option<usize>,
    /// MiB for states that the prefix cache saves, 0 to turn it off (default: 256)
    #[arg(long, env = "KILOTOK_PREFIX_CACHE_MIB")]
    pub(crate) prefix_cache_mib: Option<usize>,
    /// Speculation of requests that do not say: auto, off, or a block length
    #[arg(long, env = "KILOTOK_SPECULATION")]
    pub(crate) speculation: Option<String>,
    /// Directory of another drafter, or `none`
    #[arg(long, env = "KILOTOK_DRAFTER")]
    pub(crate) drafter: Option<String>,
}

impl EngineArguments {
    /// These, and where they say nothing, `below`.
    pub(crate) fn or(self, below: Self) -> Self {
        Self {
            device: self.device.or(below.device),
            mode: self.mode.or(below.mode),
            threads: self.threads.or(below.threads),
            max_batch: self.max_batch.or(below.max_batch),
            max_positions: self.max_positions.or(below.max_positions),
            kv_positions: self.kv_positions.or(below.kv_positions),
            prefix_cache_mib: self.prefix_cache_mib.or(below.prefix_cache_mib),
            speculation: self.speculation.or(below.speculation),
            drafter: self.drafter.or(below.drafter),
        }
    }

    /// The engine's builder with these settings.
    pub(crate) fn builder(&self, directory: PathBuf) -> super::Outcome<EngineBuilder> {
        let drafter = self.drafter.as_deref().map(|drafter| match drafter {
            "none" => DrafterChoice::None,
            path => DrafterChoice::Dir(path.into()),
        });
        Ok(Engine::builder(directory)
            .device(device(self.device.as_deref().unwrap_or("auto"))?)
            .mode(mode(self.mode.as_deref().unwrap_or("auto"))?)
            .threads(self.threads)
            .max_batch(self.max_batch)
            .max_positions(self.max_positions)
            .kv_positions(self.kv_positions)
            .prefix_cache(self.prefix_cache_mib.map(|mib| mib.saturating_mul(1 << 20)))
            .speculation(self.speculation.as_deref().map(speculation).transpose()?)
            .drafter(drafter))
    }
}

fn device(text: &str) -> Result<Device, String> {
    match text {
        "auto" => Ok(Device::Auto),
        "cpu" => Ok(Device::Cpu),
        "cuda" => Ok(Device::Cuda),
        other => Err(format!("device: `{other}` is neither auto, cpu nor cuda")),
    }
}

fn mode(text: &str) -> Result<ExecutionMode, String> {
    match text {
        "auto" => Ok(ExecutionMode::Auto),
        "graph" => Ok(ExecutionMode::Graph),
        "persistent" => Ok(ExecutionMode::Persistent),
        other => Err(format!("mode: `{other}` is neither auto, graph nor persistent")),
    }
}

/// `auto`, `off` or a block length.
pub(crate) fn speculation(text: &str) -> Result<Speculation, String> {
    match text {
        "auto" => Ok(Speculation::Auto),
        "off" => Ok(Speculation::Off),
        length => length
            .parse()
            .map(Speculation::Block)
            .map_err(|_| format!("speculation: `{text}` is neither auto, off nor a block length")),
    }
}
