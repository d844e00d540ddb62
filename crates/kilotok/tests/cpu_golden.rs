//! The CPU executor against the golden checkpoints: oracles it shares no code with.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::PathBuf;
use std::sync::Arc;

use kilotok::Model;
use kilotok::backend::cpu::{CpuConfig, CpuExecutor, Simd};
use kilotok::backend::{DraftBlock, Executor, Limits, Row};
use safetensors::SafeTensors;
use serde_json::Value;

const LIMITS: Limits =
    Limits { max_rows: 16, slots: 2, pages: 64, page_size: 16, max_positions: 512, snapshots: 0 };

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

struct Golden {
    model: Arc<Model>,
    json: Value,
    tensors: Vec<u8>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let dir = golden(name);
        let text = std::fs::read_to_string(dir.join("golden.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let mut model = kilotok::weights::load(&dir.join("model"), None).unwrap();
        // The oracle says how it counts the window (mimo_spec 2.4).
        let window = json["window_keys_including_self"].as_u64().unwrap() as usize;
        for layer in &mut model.spec.layers {
            layer.attention.window = layer.attention.window.map(|_| window);
        }
        let tensors = std::fs::read(dir.join("golden.safetensors")).unwrap();
        Self { model: Arc::new(model), json, tensors }
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.tensors).unwrap();
        let view = file.tensor(name).unwrap();
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn executor(&self, simd: Simd, threads: usize) -> CpuExecutor {
        let config = CpuConfig { threads: Some(threads), simd: Some(simd), limits: LIMITS };
        let mut executor = CpuExecutor::new(Arc::clone(&self.model), config).unwrap();
        // Pages out of order: nothing may depend on where a position is stored.
        let pages: Vec<u32> = (0..32).map(|i| (i * 7 + 3) % 64).collect();
        executor.set_pages(1, &pages);
        executor
    }
}

fn tokens(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect()
}

fn argmax(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
    best.unwrap() as u32
}

/// Largest difference relative to the largest magnitude expected.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |a, v| a.max(v.abs()));
    found.iter().zip(expected).fold(0f32, |a, (f, e)| a.max((f - e).abs())) / largest
}

/// Feeds tokens from `start` in chunks; returns logits and taps of all rows.
fn feed(executor: &mut CpuExecutor, start: usize, tokens: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let (mut logits, mut taps) = (Vec::new(), Vec::new());
    for (c, chunk) in tokens.chunks(5).enumerate() {
        let rows: Vec<Row> = (start + c * 5..)
            .zip(chunk)
            .map(|(p, t)| Row { slot: 1, position: p as u32, token: *t, needs_logits: true })
            .collect();
        executor.verify(&rows);
        executor.commit(0..rows.len());
        for row in 0..rows.len() {
            logits.extend_from_slice(executor.logits(row));
            taps.extend_from_slice(executor.taps(row));
        }
    }
    (logits, taps)
}

fn check(name: &str) {
    let golden = Golden::read(name);
    for simd in Simd::available() {
        for case in golden.json["cases"].as_array().unwrap() {
            let label = format!("{name} {} {simd}", case["name"].as_str().unwrap());
            let key = |part: &str| format!("{}.{part}", case["name"].as_str().unwrap());
            let prompt = tokens(&case["prompt"]);
            let greedy = tokens(&case["greedy"]);
            let mut executor = golden.executor(simd, 2);

            let (logits, taps) = feed(&mut executor, 0, &prompt);
            let error = relative_error(&logits, &golden.tensor(&key("logits")));
            assert!(error < 2e-3, "{label}: logits differ by {error}");
            let error = relative_error(&taps, &golden.tensor(&key("taps")));
            assert!(error < 2e-3, "{label}: taps differ by {error}");
            let vocab = executor.vocab();
            assert_eq!(argmax(&logits[logits.len() - vocab..]), greedy[0], "{label}");

            // The first block's logits, then every round of the speculative run.
            let expected = golden.tensor(&key("draft_logits"));
            for (number, round) in
                case["speculative"]["rounds"].as_array().unwrap().iter().enumerate()
            {
                let start = round["start"].as_u64().unwrap() as u32;
                let anchor = round["anchor"].as_u64().unwrap() as u32;
                let drafts = tokens(&round["drafts"]);
                // Always a whole block; where fewer tokens are left, its first drafts count.
                let whole = executor.max_drafts() as u32;
                let block = DraftBlock { slot: 1, start, anchor, drafts: whole };
                let mut found = Vec::new();
                executor.draft(&[block], &mut found);
                if number == 0 {
                    let logits: Vec<f32> =
                        (0..found.len()).flat_map(|i| executor.draft_logits(i).to_vec()).collect();
                    let error = relative_error(&logits, &expected);
                    assert!(error < 2e-3, "{label}: draft logits differ by {error}");
                }
                assert_eq!(found[..drafts.len()], drafts, "{label}: drafts of round {number}");
                let rows: Vec<Row> = (start..)
                    .zip(std::iter::once(anchor).chain(drafts))
                    .map(|(position, token)| Row { slot: 1, position, token, needs_logits: true })
                    .collect();
                executor.verify(&rows);
                let choices: Vec<u32> =
                    (0..rows.len()).map(|row| argmax(executor.logits(row))).collect();
                assert_eq!(choices, tokens(&round["choices"]), "{label}: round {number}");
                let accepted = round["accepted"].as_u64().unwrap() as usize;
                executor.commit(0..accepted + 1);
            }

            // The same tokens one by one.
            let mut executor = golden.executor(simd, 1);
            let (logits, _) = feed(&mut executor, 0, &prompt);
            let mut next = argmax(&logits[logits.len() - vocab..]);
            for (i, token) in greedy.iter().enumerate() {
                assert_eq!(next, *token, "{label}: greedy token {i}");
                let (logits, _) = feed(&mut executor, prompt.len() + i, &[next]);
                next = argmax(&logits);
            }
        }
    }
}

#[test]
fn flash_agrees_with_transformers() {
    check("flash");
}

#[test]
fn pro_agrees_with_the_reference() {
    check("pro");
}

#[test]
fn v25_agrees_with_the_reference() {
    check("v25");
}

#[test]
fn gptoss_agrees_with_transformers() {
    check("gptoss");
}
