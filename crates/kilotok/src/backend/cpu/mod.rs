//! The CPU backend: the oracle for every kernel, and the engine where there is no GPU.
//!
//! [`CpuExecutor`] interprets the three lines of a [`crate::Program`]; every op is a file of its
//! name, written over the shared kernels of `linear`, `attention` and `rms_norm`, which are
//! compiled once per SIMD path.

pub(crate) mod accept;
mod attend;
mod attention;
mod attention_full;
mod attention_swa;
mod cache;
pub(in crate::backend) mod check;
pub(crate) mod choose;
mod deferred;
mod dense_down;
mod dense_up;
mod draft_attention;
mod draft_choose;
mod draft_context;
mod draft_embed;
mod draft_fc;
mod draft_qkv;
mod embed;
mod executor;
mod kv_append;
mod linear;
mod lm_head;
mod moe_down;
mod moe_up;
mod o_proj;
mod pages;
mod qkv;
mod rms_norm;
mod rope;
mod router;
mod saved;
mod scratch;
mod simd;
mod swiglu;
mod tap;
mod value_scale;
mod workers;

pub(in crate::backend) use attention_swa::ring_len;
pub use executor::{CpuConfig, CpuExecutor};
pub use simd::Simd;
