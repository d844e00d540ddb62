//! Law 1: the bits of a row depend on its tokens and cache alone.

use std::sync::Arc;

use kilotok::Model;
use kilotok::backend::cpu::{CpuExecutor, Simd};
use kilotok::backend::{DraftBlock, Executor, Row};
use kilotok::testing::{Formats, Rng};

use super::models::{LIMITS, biased, executor, formats, model};

/// What a sequence's rows came out as: logits and taps by position, then a draft's logits.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    rows: Vec<(Vec<u32>, Vec<u32>)>,
    drafts: Vec<u32>,
    draft_logits: Vec<Vec<u32>>,
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

struct Sequence {
    slot: u32,
    tokens: Vec<u32>,
    drafts: u32,
    fed: usize,
}

/// Feeds every sequence in random pieces, several sequences at a time, then drafts.
fn run(executor: &mut CpuExecutor, sequences: &mut [Sequence], rng: &mut Rng) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = sequences.iter().map(|_| Outcome::default()).collect();
    while sequences.iter().any(|s| s.fed < s.tokens.len()) {
        let (mut rows, mut owners) = (Vec::new(), Vec::new());
        let first = rng.below(sequences.len());
        for i in 0..sequences.len() {
            let number = (first + i) % sequences.len();
            let s = &mut sequences[number];
            let room = (LIMITS.max_rows - rows.len()).min(s.tokens.len() - s.fed);
            let len = if room == 0 { 0 } else { rng.below(room + 1) };
            // Sometimes rows that will be rejected come along, as in a verified block.
            let rejected = if len > 0 && rng.below(2) == 0 { rng.below(3) } else { 0 };
            let rejected = rejected.min(LIMITS.max_rows - rows.len() - len);
            for j in 0..len + rejected {
                let token = if j < len { s.tokens[s.fed + j] } else { rng.below(101) as u32 };
                let position = (s.fed + j) as u32;
                rows.push(Row { slot: s.slot, position, token, needs_logits: true });
                owners.push((j < len).then_some(number));
            }
            s.fed += len;
        }
        executor.verify(&rows);
        for (row, owner) in owners.iter().enumerate() {
            if let Some(number) = owner {
                if rng.below(2) == 0 {
                    executor.commit_later(row..row + 1);
                } else {
                    executor.commit(row..row + 1);
                }
                let (logits, taps) = (bits(executor.logits(row)), bits(executor.taps(row)));
                outcomes[*number].rows.push((logits, taps));
            }
        }
    }
    let blocks: Vec<DraftBlock> = sequences
        .iter()
        .map(|s| DraftBlock {
            slot: s.slot,
            start: s.tokens.len() as u32,
            anchor: 7,
            drafts: s.drafts,
        })
        .collect();
    let mut drafts = Vec::new();
    executor.draft(&blocks, &mut drafts);
    let mut at = 0;
    for (outcome, block) in outcomes.iter_mut().zip(&blocks) {
        let range = at..at + block.drafts as usize;
        outcome.drafts = drafts[range.clone()].to_vec();
        outcome.draft_logits = range.map(|i| bits(executor.draft_logits(i))).collect();
        at += block.drafts as usize;
    }
    outcomes
}

fn sequences(count: usize, rng: &mut Rng) -> Vec<Sequence> {
    (0..count)
        .map(|i| Sequence {
            slot: i as u32,
            tokens: (0..=rng.below(70)).map(|_| rng.below(101) as u32).collect(),
            drafts: 1 + rng.below(4) as u32,
            fed: 0,
        })
        .collect()
}

/// A sequence alone on one thread, fed row by row.
fn alone(model: &Arc<Model>, simd: Simd, s: &Sequence, slot: u32) -> Outcome {
    let mut executor = executor(model, simd, 1);
    let mut outcome = Outcome::default();
    for (p, token) in s.tokens.iter().enumerate() {
        let row = Row { slot, position: p as u32, token: *token, needs_logits: true };
        executor.verify(&[row]);
        executor.commit(0..1);
        outcome.rows.push((bits(executor.logits(0)), bits(executor.taps(0))));
    }
    let start = s.tokens.len() as u32;
    executor.draft(&[DraftBlock { slot, start, anchor: 7, drafts: s.drafts }], &mut outcome.drafts);
    outcome.draft_logits = (0..s.drafts as usize).map(|i| bits(executor.draft_logits(i))).collect();
    outcome
}

/// A maker of models from seed, formats and windows.
type Make = fn(u64, Formats, (usize, usize)) -> Arc<Model>;

#[test]
fn law_1_bits_do_not_depend_on_batch_chunks_or_threads() {
    check_law_1(model);
}

#[test]
fn law_1_holds_with_everything_optional_switched_on() {
    check_law_1(biased);
}

fn check_law_1(make: Make) {
    let mut rng = Rng(4242);
    for (number, formats) in formats().into_iter().enumerate() {
        let windows = (1 + rng.below(12), 2 + rng.below(20));
        let model = make(100 + number as u64, formats, windows);
        for simd in Simd::available() {
            for round in 0..6 {
                let mut batch = sequences(1 + round % 4, &mut rng);
                let mut executor = executor(&model, simd, 1 + rng.below(4));
                let together = run(&mut executor, &mut batch, &mut rng);
                for (s, outcome) in batch.iter().zip(&together) {
                    let expected = alone(&model, simd, s, 3 - s.slot);
                    for (p, (found, expected)) in
                        outcome.rows.iter().zip(&expected.rows).enumerate()
                    {
                        assert_eq!(found, expected, "{formats:?} {simd} position {p}");
                    }
                    assert_eq!(*outcome, expected, "{formats:?} {simd}");
                }
            }
        }
    }
}

#[test]
fn a_slot_remembers_nothing_of_its_last_sequence() {
    let mut rng = Rng(7);
    let model = model(5, formats()[3], (9, 9));
    for simd in Simd::available() {
        let mut used = executor(&model, simd, 2);
        run(&mut used, &mut sequences(4, &mut rng), &mut rng);
        let fresh = sequences(1, &mut rng);
        let pages: Vec<u32> = (0..10).rev().collect();
        used.set_pages(0, &pages);
        let mut again: Vec<Sequence> =
            fresh.iter().map(|s| Sequence { tokens: s.tokens.clone(), ..*s }).collect();
        let outcome = run(&mut used, &mut again, &mut rng);
        assert_eq!(outcome[0], alone(&model, simd, &fresh[0], 0), "{simd}");
    }
}
