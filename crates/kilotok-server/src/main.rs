//! The program `kilotok`: serves, generates, inspects and examines, without Python.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    kilotok_server::cli::run(std::env::args_os(), None).into()
}
