//! Ops of a model as single launches: what graph mode captures, and what parity tests run.

mod check;
mod moe;

pub use check::OpCheck;
pub use moe::{MoeBatch, MoeLayer, MoeShape};
