//! DFlash: verification of drafted blocks, adaptive block length, acceptance accounting.

mod adaptive;
mod watch;

pub use crate::backend::cpu::accept::{Walk, accept};
pub(crate) use adaptive::{Acceptance, CostModel, choose_drafts};
pub(crate) use watch::Watch;
