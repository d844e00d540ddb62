//! The command line: the program `kilotok`, also behind the `kilotok` of the Python package.

mod arguments;
mod bench_serve;
mod demo;
mod doctor;
mod generate;
mod inspect;
mod logging;
mod model;
mod plan;
mod serve;
mod settings;
mod tracing_export;

use std::error::Error;
use std::ffi::OsString;
use std::path::Path;

use clap::{Parser, Subcommand};

/// Exit status of a command that did what it was asked.
const DONE: u8 = 0;
/// Exit status of a command that failed.
const FAILED: u8 = 1;
/// Exit status of a server that ended requests in flight.
const CUT_OFF: u8 = 2;

/// An exit status, or whatever went wrong, to be printed and no more.
type Outcome<T = u8> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
#[command(
    name = "kilotok",
    bin_name = "kilotok",
    version,
    about = "Runs MXFP4 mixture-of-experts models with DFlash"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a model over HTTP, with OpenAI's and Anthropic's APIs.
    Serve(Box<serve::Serve>),
    /// Send load to a running server and report what its clients see.
    BenchServe(Box<bench_serve::BenchServe>),
    /// Continue a prompt, or answer it with --chat.
    Generate(Box<generate::Generate>),
    /// Describe a checkpoint without loading it.
    Inspect(inspect::Inspect),
    /// Say what a model would cost on a GPU, from its configuration alone; 3 where it does not fit.
    Plan(Box<plan::Plan>),
    /// Describe this machine and what would run on it.
    Doctor(doctor::Doctor),
}

/// Runs the program with `arguments`, the first of which is its name, and returns its exit status.
///
/// Without a model, commands use the checkpoint in the directory `demo`; without that, the one
/// inside this build. Blocks until the command ends; `serve` takes over SIGTERM and SIGINT.
pub fn run(arguments: impl IntoIterator<Item = OsString>, demo: Option<&Path>) -> u8 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        // Help and version come this way too, with status 0.
        Err(error) => {
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(FAILED);
        }
    };
    let outcome = match arguments.command {
        Command::Serve(serve) => serve.run(demo),
        Command::BenchServe(bench) => bench.run(),
        Command::Generate(generate) => generate.run(demo),
        Command::Inspect(inspect) => inspect.run(demo),
        Command::Plan(plan) => plan.run(demo),
        Command::Doctor(doctor) => Ok(doctor.run()),
    };
    outcome.unwrap_or_else(|error| {
        logging::complain(&error.to_string());
        FAILED
    })
}
