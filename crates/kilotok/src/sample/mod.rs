//! From logits to tokens: parameters, filters and position-keyed noise.

mod params;

pub use params::SamplingParams;
