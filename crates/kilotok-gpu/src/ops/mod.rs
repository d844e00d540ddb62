//! Ops of a model as single launches: what graph mode captures, and what parity tests run.

mod moe;

pub use moe::{MoeBatch, MoeLayer, MoeShape};
