//! From logits to tokens: parameters, filters and position-keyed noise.

mod history;
mod noise;
mod params;

pub use crate::backend::cpu::choose::{Chooser, argmax};
pub use history::History;
pub use noise::Noise;
pub use params::SamplingParams;
