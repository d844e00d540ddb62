//! The GPU backend: the program of a model as records that the device runs.
//!
//! `lower` turns a model into records and into a list of what lies where; `validate` proves of the
//! records that they stay inside that memory and read only what was written before; `load` brings
//! the weights there; the executor runs passes of at most eight rows, and whole rounds on the device.

mod arena;
mod device;
mod errors;
mod executor;
mod load;
mod lower;
pub mod outline;
pub mod replay;
pub mod synthetic;
pub mod trace;
mod validate;
mod vm;

#[cfg(test)]
mod tests;

pub use device::Device;
pub use executor::{GpuConfig, GpuExecutor};
pub use kilotok_gpu::machine::Mode;

use kilotok_gpu::pool::DEFAULT_FRACTION;
use kilotok_gpu::{Context, Library, machine};

use crate::backend::Limits;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::model::Model;

/// Whether this machine has a GPU that this build has kernels for; its name.
///
/// # Errors
/// [`Error::NoGpu`] with what is missing.
pub fn probe(device: usize) -> Result<String> {
    let context = Context::new(device).map_err(|error| errors::no_gpu(&error))?;
    Library::embedded(&context, machine::FAMILY).map_err(|error| errors::no_gpu(&error))?;
    let info = context.device();
    Ok(format!("{} ({} SMs)", info.name, info.num_sms))
}

/// Compute capability of the GPUs that the engine has run on; for others its kernels are only compiled.
const TESTED: (u32, u32) = (9, 0);

/// Why nobody should be given this GPU who has not asked for it; `None` for one like those that the engine was tested
/// on.
///
/// # Errors
/// [`Error::NoGpu`] without such a GPU.
pub fn untested(device: usize) -> Result<Option<String>> {
    let context = Context::new(device).map_err(|error| errors::no_gpu(&error))?;
    let info = context.device();
    Ok(untested_reason(&info.name, info.capability))
}

fn untested_reason(name: &str, capability: (u32, u32)) -> Option<String> {
    let (major, minor) = capability;
    (capability != TESTED).then(|| {
        format!(
            "the kernels are compiled for {name} (compute capability {major}.{minor}) and have never run on one; \
             `device=\"cuda\"` uses it, and `kilotok verify` checks it"
        )
    })
}

/// Bytes that `model` needs on the device, by purpose, for a grid of `blocks` blocks.
///
/// # Errors
/// [`Error::ModelFormat`] where the device cannot run the model.
pub fn memory_needed(
    model: &Model,
    limits: Limits,
    blocks: u32,
) -> Result<Vec<(&'static str, u64)>> {
    let lowered = lower::lower(model, limits, blocks, arena::IMAGINED)?;
    Ok(load::PURPOSES.into_iter().zip(lowered.sizes).collect())
}

/// Bytes of one saved state of a sequence ([`Limits::snapshots`]): its rings; 0 where pages hold
/// everything.
///
/// # Errors
/// [`Error::ModelFormat`] where the device cannot run the model.
pub fn snapshot_bytes(model: &Model, limits: Limits) -> Result<usize> {
    let limits = Limits { snapshots: 1, ..limits };
    // Blocks have no rings.
    let lowered = lower::lower(model, limits, 1, arena::IMAGINED)?;
    Ok(lowered.buffers.saved.iter().map(|ring| ring.bytes as usize).sum())
}

impl GpuConfig {
    /// The first GPU, with most of its free memory.
    pub fn new(mode: Mode, limits: Limits) -> Self {
        Self { device: 0, mode, limits, memory_fraction: DEFAULT_FRACTION }
    }
}
