//! Ops of a model as single launches: what graph mode captures, and what parity tests run.

mod check;

pub use check::OpCheck;
