//! DFlash: verification of drafted blocks, adaptive block length, confidence, acceptance accounting.

mod adaptive;
mod confidence;
mod watch;

pub use crate::backend::cpu::accept::{Walk, accept};
pub(crate) use adaptive::{Acceptance, CostModel, RoundMean, choose_drafts};
pub(crate) use confidence::{Confidence, KINDS, kind};
pub(crate) use watch::Watch;
