//! The program `kilotok`: serves, generates, inspects and examines, without Python.
#![forbid(unsafe_code)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
