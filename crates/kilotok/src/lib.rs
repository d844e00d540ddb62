//! kilotok runs mixture-of-experts models with MXFP4 weights and DFlash speculative decoding.
//!
//! The path of a model through this crate: a checkpoint directory is read into a [`ModelSpec`]
//! and a [`Model`] (weights still in their stored formats), lowered to a [`Program`] of named
//! ops, and a [`backend::Backend`] runs that program in rounds for the [`Engine`].

pub mod backend;
pub mod config;
pub mod dflash;
pub mod engine;
mod error;
pub mod inspect;
mod matrix;
mod model;
pub mod numeric;
pub mod plan;
mod program;
pub mod sample;
mod spec;
#[doc(hidden)]
pub mod testing;
pub mod weights;

pub use error::{Error, Result};
pub use matrix::{Bytes, Format, Matrix};
pub use model::{
    AttentionWeights, DraftLayerWeights, DrafterWeights, ExpertBias, ExpertWeights, LayerWeights,
    MlpWeights, Model, QkvWeights, Vector,
};
pub use program::{Buf, Op, OpKind, Program};
pub use sample::SamplingParams;
pub use spec::{
    Activation, AttentionSpec, DrafterSpec, HeadMap, LayerSpec, MlpSpec, ModelSpec, MoeSpec,
    QkvLayout, RopeSpec, RouterKind, YarnSpec,
};
