//! `kilotok bench-serve`: load for a running server, and what its clients see.

mod client;
mod load;
mod prompts;
mod report;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

use axum::http::Uri;
use clap::Args;
use serde_json::{Value, json};

use self::client::Target;
use self::load::{Arrivals, Load};
use super::arguments::speculation;
use super::settings::KEYS;
use super::{DONE, FAILED, Outcome, logging};

/// The command.
#[derive(Args)]
pub(crate) struct BenchServe {
    /// Address of the server, such as http://127.0.0.1:8000 or https://box:8000
    url: Uri,
    /// Clients that each send a request when the one before is answered (closed loop)
    #[arg(long, default_value_t = 1, conflicts_with = "rate")]
    concurrency: usize,
    /// Requests per second at random moments, whether or not others are answered (open loop)
    #[arg(long)]
    rate: Option<f64>,
    /// Requests in all
    #[arg(long, default_value_t = 32)]
    requests: usize,
    /// Stop sending after this many seconds
    #[arg(long)]
    duration_s: Option<f64>,
    /// Requests before these that are not counted
    #[arg(long, default_value_t = 1)]
    warm_up: usize,
    /// File of prompts, one a line: text, or a JSON object with `prompt` or `messages`
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Name of the model (default: the first that the server names)
    #[arg(long)]
    model: Option<String>,
    /// Tokens of a reply at most
    #[arg(long, default_value_t = 128)]
    max_tokens: u32,
    /// Let the model end its replies; by default each has `--max-tokens` tokens
    #[arg(long)]
    until_eos: bool,
    /// 0 takes the likeliest token each time
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Speculation: auto, off, or a block length (default: the server's)
    #[arg(long)]
    speculation: Option<String>,
    /// Seed of the moments of `--rate`
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// File whose first line is the key; otherwise the environment's KILOTOK_API_KEY
    #[arg(long)]
    api_key_file: Option<PathBuf>,
    /// PEM file of certificates to trust for https (default: SSL_CERT_FILE, or the system's)
    #[arg(long)]
    ca_cert: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl BenchServe {
    /// Sends the load and prints what came of it; fails if any request did.
    pub(crate) fn run(self) -> Outcome {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let json = self.json;
        let report = runtime.block_on(self.measure())?;
        if json {
            logging::say(&format!("{:#}\n", report.json()));
        } else {
            logging::say(&report.table());
        }
        Ok(if report.failed() { FAILED } else { DONE })
    }

    async fn measure(self) -> Outcome<report::Report> {
        let arrivals = match self.rate {
            Some(rate) if rate.is_finite() && rate > 0.0 => {
                Arrivals::Open { rate, seed: self.seed }
            }
            Some(rate) => return Err(format!("--rate: {rate} is no rate").into()),
            None => Arrivals::Closed { clients: self.concurrency.clamp(1, 4096) },
        };
        let duration = match self.duration_s {
            Some(seconds) => Some(
                Duration::try_from_secs_f64(seconds)
                    .map_err(|_| format!("--duration-s: {seconds} is no duration"))?,
            ),
            None => None,
        };
        let target = Target::new(&self.url, self.key()?, self.ca_cert.as_deref())?;
        let model = match &self.model {
            Some(model) => model.clone(),
            None => target.first_model().await?,
        };
        let prompts = match &self.prompts {
            Some(path) => prompts::from_file(path)?,
            None => prompts::built_in(),
        };
        let load = Load {
            requests: self.requests.max(1),
            warm_up: self.warm_up,
            arrivals,
            duration,
            prompts,
            options: self.options(&model)?,
        };
        let settings = json!({
            "url": self.url.to_string(),
            "model": model,
            "concurrency": self.rate.is_none().then_some(self.concurrency),
            "rate": self.rate,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "speculation": self.speculation,
        });
        let (outcomes, took) = load.run(target).await;
        Ok(report::Report::new(settings, &outcomes, took))
    }

    fn key(&self) -> Outcome<Option<String>> {
        let text = match &self.api_key_file {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| format!("--api-key-file {}: {error}", path.display()))?,
            None => std::env::var(KEYS).unwrap_or_default(),
        };
        let mut keys = text.split(['\n', ',']).map(str::trim);
        Ok(keys.find(|key| !key.is_empty() && !key.starts_with('#')).map(str::to_owned))
    }

    /// What every request says beside its prompt.
    fn options(&self, model: &str) -> Outcome<Value> {
        let mut options = json!({
            "model": model,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "ignore_eos": !self.until_eos,
            "stream": true,
            "stream_options": { "include_usage": true, "continuous_usage_stats": true },
        });
        if let Some(text) = &self.speculation {
            speculation(text)?;
            let length = text.parse::<u32>().map(Value::from);
            options["speculation"] = length.unwrap_or_else(|_| text.as_str().into());
        }
        Ok(options)
    }
}
