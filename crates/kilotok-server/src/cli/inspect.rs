//! `kilotok inspect`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{DONE, Outcome, logging, model};

/// The command.
#[derive(Args)]
pub(crate) struct Inspect {
    /// Model directory (default: the demo checkpoint)
    #[arg(env = "KILOTOK_MODEL")]
    model: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    /// Prints what the checkpoint is and costs.
    pub(crate) fn run(self, demo: Option<&Path>) -> Outcome {
        let (directory, _) = model::locate(self.model.as_deref(), demo)?;
        let inspection = kilotok::inspect::inspect(&directory)?;
        let text = if self.json {
            serde_json::to_string_pretty(&inspection)?
        } else {
            inspection.to_string()
        };
        logging::say(&format!("{}\n", text.trim_end()));
        Ok(DONE)
    }
}
