//! From logits to tokens: parameters, filters and position-keyed noise.

mod constraint;
mod history;
mod noise;
mod params;

pub use crate::backend::cpu::choose::{Chooser, argmax};
pub use constraint::{Constraint, Grammar, TokenMask};
pub use history::History;
pub use noise::Noise;
pub use params::SamplingParams;
