//! What is asked of a plan.

use crate::backend::Limits;
use crate::config::DrafterChoice;
use crate::error::{Error, Result};
use crate::spec::ModelSpec;

/// Positions of a page of the cache.
const PAGE_SIZE: usize = 16;
/// Positions where nothing else is told.
const DEFAULT_CONTEXT: usize = 8192;
/// Rows that a sequence may run ahead of its context.
const AHEAD: usize = 16;

/// What to plan for.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanRequest {
    /// A `config.json`, a directory with one, or the name of a preset.
    pub config: String,
    /// Which drafter to plan with.
    pub drafter: DrafterChoice,
    /// Format of the experts, if not as stored: `mxfp4`, `fp8` or `bf16`.
    pub experts: Option<String>,
    /// A name among [`super::CARDS`].
    pub gpu: String,
    /// GPUs that share the model by tensor parallelism.
    pub tp: usize,
    /// Positions in the cache of each sequence; `None`: 8192, or what the model takes if that is less.
    pub context: Option<usize>,
    /// Rows of a drafter block; `None`: as many as drafter and engine have.
    pub block: Option<usize>,
    /// Tokens per round.
    pub tau: Option<f64>,
    /// Dollars per GPU and hour.
    pub price: Option<f64>,
    /// Microseconds of one sum over all GPUs.
    pub allreduce_us: Option<f64>,
}

impl PlanRequest {
    /// A plan for one H200.
    pub fn new(config: impl Into<String>) -> Self {
        Self {
            config: config.into(),
            drafter: DrafterChoice::Auto,
            experts: None,
            gpu: "h200".into(),
            tp: 1,
            context: None,
            block: None,
            tau: None,
            price: None,
            allreduce_us: None,
        }
    }

    /// With a context that suits `spec` where none was told.
    pub(super) fn for_spec(&self, spec: &ModelSpec) -> Self {
        let context = self.context.unwrap_or(DEFAULT_CONTEXT.min(spec.max_positions));
        Self { context: Some(context), ..self.clone() }
    }

    /// Positions in the cache of each sequence.
    pub(super) fn context(&self) -> usize {
        self.context.unwrap_or(DEFAULT_CONTEXT)
    }

    /// What needs no lowering to be checked.
    pub(super) fn check(&self, spec: &ModelSpec) -> Result<()> {
        let context = self.context();
        if context == 0 || context > spec.max_positions {
            let (family, most) = (&spec.family, spec.max_positions);
            let reason = format!("{context} positions, {family} takes 1 to {most}");
            return Err(Error::invalid("context", reason));
        }
        let positive = |name: &str, value: Option<f64>| match value {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(Error::invalid(name, format!("{value}, expected a positive number")))
            }
            _ => Ok(()),
        };
        positive("price", self.price)?;
        positive("allreduce_us", self.allreduce_us)?;
        if spec.drafter.is_none() {
            for (name, is_given) in [("tau", self.tau.is_some()), ("block", self.block.is_some())] {
                if is_given {
                    let reason = "there is no drafter in this configuration";
                    return Err(Error::invalid(name, reason));
                }
            }
        }
        Ok(())
    }

    /// Checks the rows of a block, and tau against them.
    pub(super) fn check_block(&self, block: usize, most: usize) -> Result<()> {
        if !(2..=most).contains(&block) {
            return Err(Error::invalid("block", format!("{block} rows, expected 2 to {most}")));
        }
        match self.tau {
            Some(tau) if !(1.0..=block as f64).contains(&tau) => {
                Err(Error::invalid("tau", format!("{tau} tokens per round, expected 1 to {block}")))
            }
            _ => Ok(()),
        }
    }

    /// What an engine of `sequences` sequences is built to hold.
    pub(super) fn limits(&self, sequences: usize) -> Limits {
        let each = (self.context() + AHEAD).div_ceil(PAGE_SIZE);
        Limits {
            max_rows: kilotok_kernels::abi::program::ROWS,
            slots: sequences,
            pages: each * sequences,
            page_size: PAGE_SIZE,
            max_positions: each * PAGE_SIZE,
            snapshots: 0,
        }
    }
}
