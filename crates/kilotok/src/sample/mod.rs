//! From logits to tokens: parameters, filters and position-keyed noise.

mod choose;
mod history;
mod noise;
mod params;

pub use choose::{Chooser, argmax};
pub use history::History;
pub use noise::Noise;
pub use params::SamplingParams;
