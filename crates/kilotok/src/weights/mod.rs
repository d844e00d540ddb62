//! Checkpoint files -> [`Model`](crate::Model): weights are mapped, checked and left as stored.

mod build;
pub(crate) mod catalog;
mod header;
mod index;
mod layout;
mod loader;
mod mask_embedding;
pub(crate) mod names;
mod plan;
mod progress;
mod reader;
pub mod repack;
pub(crate) mod resolve;
pub(crate) mod table;
mod tensor;
mod update;

pub(crate) use loader::open_drafter;
pub use loader::{DrafterTensors, LoadOptions, from_tensors, load, load_with};
pub use plan::{Slice, StoredScales, StoredSlice, TensorPlan, WeightPlan};
pub use progress::Progress;
pub use tensor::{Dtype, TensorData};
pub use update::updated;

pub use crate::config::DrafterChoice;
