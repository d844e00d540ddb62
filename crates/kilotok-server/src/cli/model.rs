//! From a model's place to a running text engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::SamplingDefaults;
use kilotok::backend::sim::{SimConfig, SimExecutor};
use kilotok::backend::{Limits, Rounds};
use kilotok::engine::{Engine, EngineConfig, ModelInfo};
use kilotok::weights::Progress;
use kilotok_text::TextEngine;
use serde_json::Value;

use super::arguments::EngineArguments;
use super::{Outcome, demo};

/// The model's directory, and whether it is the demo checkpoint.
pub(crate) fn locate(model: Option<&Path>, demo: Option<&Path>) -> Outcome<(PathBuf, bool)> {
    let Some(model) = model else {
        let directory = demo.map_or_else(demo::unpack, |given| Ok(given.to_owned()))?;
        return Ok((directory, true));
    };
    if model.is_dir() {
        return Ok((model.to_owned(), false));
    }
    Err(format!(
        "{} is not a directory; download the model first and name its directory",
        model.display()
    )
    .into())
}

/// Loads the model.
pub(crate) fn load(
    directory: &Path,
    arguments: &EngineArguments,
    progress: &mut dyn FnMut(Progress),
) -> Outcome<TextEngine> {
    let engine = arguments.builder(directory.to_owned())?.build_with(Some(progress))?;
    Ok(TextEngine::from_dir(Arc::new(engine), directory)?)
}

/// An engine with the model's tokenizer whose tokens are made up, one a round.
pub(crate) fn simulate(
    directory: &Path,
    arguments: &EngineArguments,
    tokens_per_s: f64,
) -> Outcome<TextEngine> {
    const SLOTS: usize = 16;
    const PAGE: usize = 16;
    let step = Duration::try_from_secs_f64(1.0 / tokens_per_s)
        .map_err(|_| format!("--simulate: {tokens_per_s} is no rate"))?;
    let slots = arguments.max_batch.unwrap_or(SLOTS).clamp(1, 64);
    let max_positions = arguments.max_positions.unwrap_or(8192).max(1);
    let kv_positions = arguments.kv_positions.unwrap_or(max_positions.saturating_mul(slots));
    // Without a vocabulary of its own the model takes any id that fits.
    let text = std::fs::read_to_string(directory.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    let vocab = config["vocab_size"].as_u64().unwrap_or(4096).clamp(1, 1 << 20) as usize;
    let limits = Limits {
        max_rows: 64,
        slots,
        pages: kv_positions.div_ceil(PAGE),
        page_size: PAGE,
        max_positions,
        snapshots: if arguments.prefix_cache_mib == Some(0) { 0 } else { 8 * slots },
    };
    let sim = SimConfig {
        limits,
        vocab,
        max_drafts: 0,
        hit_percent: 0,
        verify_time: step,
        draft_time: Duration::ZERO,
    };
    let info = ModelInfo { vocab, eos_token_ids: Vec::new(), max_drafts: 0 };
    let backend = Box::new(Rounds::new(SimExecutor::new(sim)));
    let engine = Engine::start(backend, info, EngineConfig::default())?;
    Ok(TextEngine::from_dir(Arc::new(engine), directory)?)
}

/// What the checkpoint suggests for requests that do not say.
pub(crate) fn sampling_defaults(directory: &Path) -> Outcome<SamplingDefaults> {
    let mut defaults = SamplingDefaults::default();
    let path = directory.join("generation_config.json");
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(defaults) };
    let json: Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let number = |name: &str, low: f64, high: f64| match &json[name] {
        Value::Null => Ok(None),
        value => match value.as_f64().filter(|value| (low..=high).contains(value)) {
            Some(value) => Ok(Some(value)),
            None => Err(format!("{}: {name} is {value}, expected {low} to {high}", path.display())),
        },
    };
    if let Some(temperature) = number("temperature", 0.0, 100.0)? {
        defaults.temperature = temperature as f32;
    }
    if let Some(top_p) = number("top_p", 0.0, 1.0)? {
        defaults.top_p = (top_p as f32).max(f32::MIN_POSITIVE);
    }
    if let Some(top_k) = number("top_k", 0.0, f64::from(u32::MAX))? {
        defaults.top_k = top_k as u32;
    }
    Ok(defaults)
}
