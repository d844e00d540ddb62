//! `kilotok plan`.

use std::path::Path;

use clap::Args;
use kilotok::plan::{PlanRequest, plan};

use super::{DONE, Outcome, logging, model};

/// Exit status where the model does not fit.
const DOES_NOT_FIT: u8 = 3;

/// The command.
#[derive(Args)]
pub(crate) struct Plan {
    /// A config.json, a directory with one, or a preset's name (default: the demo checkpoint)
    config: Option<String>,
    /// Directory of the drafter, or auto or none
    #[arg(long, default_value = "auto")]
    drafter: String,
    /// As if experts were stored as mxfp4, fp8 or bf16
    #[arg(long)]
    experts: Option<String>,
    /// Card
    #[arg(long, default_value = "h200")]
    gpu: String,
    /// GPUs that share the model
    #[arg(long, default_value_t = 1)]
    tp: usize,
    /// Cached positions of each sequence (default: 8192, or what the model takes)
    #[arg(long)]
    context: Option<usize>,
    /// Rows of a drafter block (default: the drafter's)
    #[arg(long)]
    block: Option<usize>,
    /// Tokens per round, the bonus token included
    #[arg(long)]
    tau: Option<f64>,
    /// Dollars per GPU and hour
    #[arg(long)]
    price: Option<f64>,
    /// Microseconds of one sum over all GPUs
    #[arg(long)]
    allreduce_us: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Plan {
    /// Prints what the model would cost.
    pub(crate) fn run(self, demo: Option<&Path>) -> Outcome {
        let config = match self.config {
            Some(config) => config,
            None => model::locate(None, demo)?.0.display().to_string(),
        };
        let plan = plan(&PlanRequest {
            config,
            drafter: self.drafter.as_str().into(),
            experts: self.experts,
            gpu: self.gpu,
            tp: self.tp,
            context: self.context,
            block: self.block,
            tau: self.tau,
            price: self.price,
            allreduce_us: self.allreduce_us,
        })?;
        let text = if self.json { serde_json::to_string_pretty(&plan)? } else { plan.to_string() };
        logging::say(&format!("{}\n", text.trim_end()));
        Ok(if plan.fits { DONE } else { DOES_NOT_FIT })
    }
}
