//! Time to the first token of a long prompt that is known, and of one that is not, on the demo
//! checkpoint.
//!
//! `cargo bench -p kilotok --bench prefix_cache`, options after `--`: `tokens=1024`, `repeats=9`,
//! `threads=1`. The prompts share all tokens but the last 16, and what one finds another has left:
//! the first of each pair has a salt that nobody had. Prints one JSON object.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark reports and may fail")]

use kilotok::SamplingParams;
use kilotok::engine::{Engine, Receipt, Request};
use kilotok::testing::Rng;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/kilotok/demo/checkpoint");

fn option(name: &str, default: usize) -> usize {
    let prefix = format!("{name}=");
    let given = std::env::args().find_map(|a| a.strip_prefix(&prefix)?.parse().ok());
    given.unwrap_or(default)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let (tokens, repeats) = (option("tokens", 1024), option("repeats", 9));
    let threads = option("threads", 1);
    let engine = Engine::builder(DEMO).threads(threads).build().unwrap();
    let vocab = engine.info().vocab;
    let mut rng = Rng(5);
    let common: Vec<u32> = (0..tokens - 16).map(|_| 3 + rng.below(vocab - 3) as u32).collect();
    let mut ask = |salt: usize| -> Receipt {
        let own = (0..16).map(|_| 3 + rng.below(vocab - 3) as u32);
        let prompt: Vec<u32> = common.iter().copied().chain(own).collect();
        let params = SamplingParams { max_tokens: 2, ignore_eos: true, ..Default::default() };
        let request = Request::new(prompt).params(params).cache_salt(salt.to_string());
        engine.submit(request).unwrap().wait().unwrap().1.receipt
    };
    let (mut unknown, mut known, mut found) = (Vec::new(), Vec::new(), 0);
    for repeat in 0..=repeats {
        let first = ask(repeat);
        // The second finds the point where the two part, the third begins there.
        ask(repeat);
        let third = ask(repeat);
        if repeat > 0 {
            unknown.push(first.ttft_ms);
            known.push(third.ttft_ms);
            found = third.cached_tokens;
        }
        assert_eq!(first.cached_tokens, 0);
    }
    let (unknown, known) = (median(unknown), median(known));
    let limits = engine.limits();
    let memory = &engine.backend().memory;
    let bytes = memory.iter().find(|(name, _)| *name == "prefix snapshots").unwrap().1;
    println!(
        "{{\"prompt_tokens\": {tokens}, \"cached_tokens\": {found}, \"threads\": {threads}, \
         \"repeats\": {repeats}, \"ttft_ms_unknown\": {unknown:.3}, \"ttft_ms_known\": {known:.3}, \
         \"snapshots\": {}, \"snapshot_bytes\": {}}}",
        limits.snapshots,
        bytes / limits.snapshots.max(1)
    );
}
