//! Speed of a published model on this card without its weights.
//!
//! The model is lowered as a loaded one; its matrices are filled with random valid bytes. What is
//! timed is [`kilotok_gpu::machine::Machine::run`], from the command to the answer.

mod fill;
mod rank;
#[cfg(test)]
mod tests;
mod timing;
mod traffic;

use kilotok_gpu::machine::{Machine, Mode};
use kilotok_gpu::pool::DEFAULT_FRACTION;
use kilotok_gpu::{Context, copy_rate};
use kilotok_kernels::abi::program as abi;

use super::executor::GpuConfig;
use super::load::{PURPOSES, load_with};
use super::trace::{OpList, Trace};
use super::{arena, errors, lower};
use crate::backend::Limits;
use crate::config::presets;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::testing::{Formats, hollow_model};
pub(super) use rank::share;
use timing::Bench;

const PAGE_SIZE: usize = 16;
/// Rounds of one command where whole rounds are timed.
const ROUNDS: u32 = 16;

/// What to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Synthetic {
    /// A name among [`presets::ALL`].
    pub preset: String,
    /// How many GPUs share the model; one of them is measured.
    pub rank_of: usize,
    /// How ops are run.
    pub mode: Mode,
    /// Rows of the verify passes, 1 to 8 each.
    pub rows: Vec<usize>,
    /// Positions in the cache.
    pub context: usize,
    /// Rows of a drafter block, 2 to 8.
    pub block: usize,
    /// Mean tokens per round to compute round times for, each from 1 to `block`.
    pub accept: Vec<f64>,
    /// The driver's index of the GPU.
    pub device: usize,
    /// Whether to trace passes of the last number of `rows`, after everything was measured.
    pub is_traced: bool,
}

/// One verify pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pass {
    /// Rows of the pass.
    pub rows: usize,
    /// Median, host's command to device's answer.
    pub ms: f64,
    /// How many were timed.
    pub repeats: usize,
    /// Weights of dense layers and of the experts touched, keys and values.
    pub bytes: u64,
    /// Distinct experts that the rows were routed to, mean over routed layers; read back.
    pub experts: f64,
}

/// A round of which a given number of tokens is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ForcedRound {
    /// Mean tokens per round.
    pub accept: f64,
    /// Drafting, verifying and committing `ceil(accept)` rows, timed one by one and added up.
    pub ms: f64,
}

/// DFlash rounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounds {
    /// Rows of a block.
    pub block: usize,
    /// Drafting one block.
    pub draft_ms: f64,
    /// Verifying one block.
    pub verify_ms: f64,
    /// Whole rounds made by the device, choosing and accepting included, with whatever it accepts.
    pub device_ms: f64,
    /// Tokens per round that it accepted; random weights accept little.
    pub device_accept: f64,
    /// What drafting and committing read.
    pub draft_bytes: u64,
    /// Rounds with given numbers of tokens.
    pub forced: Vec<ForcedRound>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The GPU.
    pub device: String,
    /// Bytes per second of device-to-device copies, read and written; measured just before.
    pub copy_rate: f64,
    /// Bytes held, by purpose.
    pub memory: Vec<(&'static str, u64)>,
    /// Verify passes.
    pub passes: Vec<Pass>,
    /// Where the preset has a drafter.
    pub rounds: Option<Rounds>,
    /// Where one was asked for.
    pub trace: Option<Trace>,
}

impl Synthetic {
    fn check(&self) -> Result<()> {
        if self.rows.is_empty() {
            return Err(Error::invalid("rows", "there are none"));
        }
        if let Some(rows) = self.rows.iter().find(|rows| !(1..=abi::ROWS).contains(*rows)) {
            let reason = format!("{rows} rows, a pass has 1 to {}", abi::ROWS);
            return Err(Error::invalid("rows", reason));
        }
        if !(2..=abi::ROWS).contains(&self.block) {
            let reason = format!("{}, expected 2 to {}", self.block, abi::ROWS);
            return Err(Error::invalid("block", reason));
        }
        let most = self.block as f64;
        if let Some(accept) = self.accept.iter().find(|accept| !(1.0..=most).contains(*accept)) {
            let reason = format!("{accept} tokens per round, expected 1 to {}", self.block);
            return Err(Error::invalid("accept", reason));
        }
        if self.is_traced && self.mode == Mode::Graph {
            return Err(Error::invalid("trace", "graph mode has none; use persistent mode"));
        }
        if self.context == 0 || self.context > 1 << 20 {
            let reason = format!("{} positions, expected 1 to {}", self.context, 1 << 20);
            return Err(Error::invalid("context", reason));
        }
        Ok(())
    }

    /// Checks the request and describes one rank's model; matrices have no bytes.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] naming the parameter.
    pub fn model(&self) -> Result<Model> {
        self.check()?;
        let preset = presets::find(&self.preset).ok_or_else(|| {
            let names: Vec<&str> = presets::ALL.iter().map(|preset| preset.name).collect();
            Error::invalid("preset", format!("{:?}, expected one of {names:?}", self.preset))
        })?;
        let spec = share(preset.spec()?, self.rank_of)?;
        Ok(hollow_model(spec, Self::formats(&self.preset)))
    }

    pub(super) fn formats(preset: &str) -> Formats {
        if preset.starts_with("gpt-oss") { Formats::gpt_oss() } else { Formats::mimo_fp4() }
    }

    pub(crate) fn limits(&self) -> Limits {
        let positions = self.context + (ROUNDS as usize + 2) * abi::ROWS;
        let pages = positions.div_ceil(PAGE_SIZE);
        Limits {
            max_rows: abi::ROWS,
            slots: 1,
            pages,
            page_size: PAGE_SIZE,
            max_positions: pages * PAGE_SIZE,
            snapshots: 0,
        }
    }

    /// Bytes that the measurement needs on a card of `blocks` SMs, by purpose.
    ///
    /// # Errors
    /// As [`Synthetic::model`]; [`Error::ModelFormat`] where the device cannot run the model.
    pub fn memory(&self, blocks: u32) -> Result<Vec<(&'static str, u64)>> {
        let model = self.model()?;
        let lowered = lower::lower(&model, self.limits(), blocks, arena::IMAGINED)?;
        Ok(PURPOSES.into_iter().zip(lowered.sizes).collect())
    }

    /// Fills the card and measures.
    ///
    /// # Errors
    /// As [`Synthetic::model`]; [`Error::NoGpu`]; [`Error::OutOfMemory`] with what is needed and
    /// available; [`Error::EngineDead`] where the device failed or computed what is no number.
    pub fn run(&self) -> Result<Report> {
        let model = self.model()?;
        let context = Context::new(self.device).map_err(|error| errors::no_gpu(&error))?;
        let device = context.device().name.clone();
        let copy_rate = copy_rate(&context).map_err(errors::loading)?;
        let config = GpuConfig {
            device: self.device,
            mode: self.mode,
            limits: self.limits(),
            memory_fraction: DEFAULT_FRACTION,
        };
        let (lowered, machine): (_, Machine) = load_with(&model, &config, fill::fill)?;
        let memory = PURPOSES.into_iter().zip(lowered.sizes).collect();
        let vocab = model.spec.vocab;
        let mut bench = Bench::new(machine, &lowered, vocab, self.context);
        let (passes, rounds) = bench.measure(self).map_err(|error| errors::running(&error))?;
        let trace = match self.rows.last() {
            Some(rows) if self.is_traced => {
                let records = bench.trace(*rows).map_err(|error| errors::tracing(&error))?;
                let ops = OpList::new(&lowered);
                Some(ops.assemble(&records, device.clone(), Some(copy_rate)))
            }
            _ => None,
        };
        Ok(Report { device, copy_rate, memory, passes, rounds, trace })
    }
}
