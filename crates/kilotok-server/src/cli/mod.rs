//! The command line.

mod arguments;
mod demo;
mod doctor;
mod generate;
mod inspect;
mod logging;
mod model;
mod serve;
mod settings;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Whatever went wrong, to be printed and no more.
type Outcome<T = ExitCode> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
#[command(name = "kilotok", version, about = "Runs MXFP4 mixture-of-experts models with DFlash")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a model over HTTP, with OpenAI's and Anthropic's APIs.
    Serve(Box<serve::Serve>),
    /// Continue a prompt, or answer it with --chat.
    Generate(generate::Generate),
    /// Describe a checkpoint without loading it.
    Inspect(inspect::Inspect),
    /// Describe this machine and what would run on it.
    Doctor(doctor::Doctor),
}

/// Runs the program.
pub(crate) fn run() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Generate(generate) => generate.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Doctor(doctor) => Ok(doctor.run()),
    };
    outcome.unwrap_or_else(|error| {
        logging::complain(&error.to_string());
        ExitCode::FAILURE
    })
}
