//! Token ids in, token ids out: the whole of embedding the engine.
//!
//! `cargo run --release -p kilotok --example generate -- [DIR [ID ...]]`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line example")]

use std::process::ExitCode;

use kilotok::SamplingParams;
use kilotok::engine::{Engine, Event, Request};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("generate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let directory = args.next().unwrap_or_else(|| "python/kilotok/demo/checkpoint".into());
    let mut prompt: Vec<u32> = args.map(|id| id.parse()).collect::<Result<_, _>>()?;
    if prompt.is_empty() {
        prompt = vec![339, 280, 402];
    }
    let engine = Engine::builder(directory).build()?;
    let params = SamplingParams { max_tokens: 64, ..SamplingParams::default() };
    for event in engine.submit(Request::new(prompt).params(params))? {
        match event? {
            Event::Token(token) => print!("{} ", token.id),
            Event::Finished(end) => println!("\n{:?}: {:#?}", end.reason, end.receipt),
        }
    }
    Ok(())
}
