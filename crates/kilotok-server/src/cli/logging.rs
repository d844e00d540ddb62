//! What the program says about itself.

use std::io::{IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde::Deserialize;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use super::tracing_export::Exporter;

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

/// Logs to stderr, and sends spans to `exporter`. `filter` is a level or a list such as
/// `info,kilotok=debug`.
pub(crate) fn start(
    format: LogFormat,
    filter: &str,
    exporter: Option<&Exporter>,
) -> super::Outcome<()> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| format!("--log: `{filter}` is no log filter: {error}"))?;
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().with_current_span(true).with_span_list(false).boxed(),
    };
    let spans = exporter.map(Exporter::layer);
    tracing_subscriber::registry().with(spans).with(lines.with_filter(filter)).try_init()?;
    Ok(())
}

/// An error on stderr; there is nowhere to report that it could not be written.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "kilotok: {message}");
}

/// Lines on stdout; false when nobody reads them any more.
pub(crate) fn say(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}
