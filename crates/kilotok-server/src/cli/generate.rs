//! `kilotok generate`.

use std::path::{Path, PathBuf};

use clap::Args;
use kilotok::SamplingParams;
use kilotok::engine::Receipt;
use kilotok_text::{Prompt, TemplateInput, TextParams};
use serde_json::json;

use super::arguments::EngineArguments;
use super::{DONE, Outcome, logging, model};

/// The command.
#[derive(Args)]
pub(crate) struct Generate {
    /// What to continue
    #[arg(default_value = "The river was")]
    prompt: String,
    /// Model directory (default: the demo checkpoint)
    #[arg(long, env = "KILOTOK_MODEL")]
    model: Option<PathBuf>,
    /// Take the prompt as a user's message and answer it
    #[arg(long)]
    chat: bool,
    /// Tokens to generate at most
    #[arg(long, default_value_t = 128)]
    max_tokens: u32,
    /// 0 takes the likeliest token each time
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Makes sampling repeatable
    #[arg(long)]
    seed: Option<u64>,
    /// String that ends the text
    #[arg(long)]
    stop: Vec<String>,
    #[command(flatten)]
    engine: EngineArguments,
}

impl Generate {
    /// Writes the text to stdout as it comes, and the receipt to stderr.
    pub(crate) fn run(self, demo: Option<&Path>) -> Outcome {
        let (directory, _) = model::locate(self.model.as_deref(), demo)?;
        let engine = model::load(&directory, &self.engine, &mut |_| {})?;
        let params = TextParams {
            sampling: SamplingParams {
                temperature: self.temperature,
                seed: self.seed,
                max_tokens: self.max_tokens,
                ..SamplingParams::default()
            },
            stop: self.stop,
            ..TextParams::default()
        };
        let prompt = if self.chat {
            Prompt::Chat(TemplateInput {
                messages: vec![json!({ "role": "user", "content": self.prompt })],
                add_generation_prompt: true,
                ..TemplateInput::default()
            })
        } else {
            Prompt::Text(self.prompt)
        };
        for piece in engine.submit(prompt, &params)? {
            let piece = piece?;
            // Nobody reads any more: dropping the stream ends the request.
            if !logging::say(&piece.text) {
                return Ok(DONE);
            }
            if let Some(completion) = piece.completion {
                logging::say("\n");
                logging::complain(&summary(&completion.receipt));
            }
        }
        Ok(DONE)
    }
}

fn summary(receipt: &Receipt) -> String {
    format!(
        "{} tokens, {:.1} tok/s, first after {:.1} ms, {} rounds, tau {:.2}, speed-up {:.2}",
        receipt.tokens,
        receipt.tokens_per_s,
        receipt.ttft_ms,
        receipt.rounds,
        receipt.tau,
        receipt.speedup
    )
}
