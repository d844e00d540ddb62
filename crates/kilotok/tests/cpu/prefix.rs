//! Laws 1 and 2 through the prefix cache, on models with windows and a drafter.

use std::sync::Arc;

use kilotok::backend::cpu::{CpuConfig, CpuExecutor, Simd};
use kilotok::backend::{DraftBlock, Executor, Limits, Rounds, Row};
use kilotok::engine::{Engine, EngineConfig, ModelInfo, Request, Speculation};
use kilotok::testing::{Formats, Rng};
use kilotok::{Model, SamplingParams};

use super::models::{LIMITS, biased, executor_with, formats, model};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Feeds tokens from `start` on in random pieces; logits and taps of every row.
fn feed(
    executor: &mut CpuExecutor,
    slot: u32,
    (tokens, start): (&[u32], usize),
    rng: &mut Rng,
) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut outcome = Vec::new();
    let mut position = start;
    while position < tokens.len() {
        let len = (1 + rng.below(LIMITS.max_rows)).min(tokens.len() - position);
        let row = |p: usize| Row { slot, position: p as u32, token: tokens[p], needs_logits: true };
        executor.verify(&(position..position + len).map(row).collect::<Vec<_>>());
        executor.commit(0..len);
        let rows = 0..len;
        outcome.extend(rows.map(|i| (bits(executor.logits(i)), bits(executor.taps(i)))));
        position += len;
    }
    outcome
}

fn draft(executor: &mut CpuExecutor, slot: u32, start: usize) -> Vec<Vec<u32>> {
    let mut out = Vec::new();
    executor.draft(&[DraftBlock { slot, start: start as u32, anchor: 7, drafts: 5 }], &mut out);
    (0..5).map(|i| bits(executor.draft_logits(i))).collect()
}

type Make = fn(u64, Formats, (usize, usize)) -> Arc<Model>;

/// Windows shorter than a page, shorter than the prefix, longer than it, and longer than all.
const WINDOWS: [(usize, usize); 4] = [(3, 5), (14, 20), (40, 33), (500, 500)];

/// Law 1: rows behind a restored prefix have the bits they have without one, and so has what the
/// drafter makes of its context.
#[test]
fn law_1_bits_behind_a_restored_prefix_are_the_same() {
    let limits = Limits { snapshots: 3, ..LIMITS };
    let page = limits.page_size;
    let mut rng = Rng(77);
    for (number, formats) in formats().into_iter().enumerate() {
        for (make, windows) in
            [model as Make, biased].iter().flat_map(|m| WINDOWS.iter().map(move |w| (m, *w)))
        {
            let model = make(200 + number as u64, formats, windows);
            let simd = Simd::available()[rng.below(Simd::available().len())];
            let mut executor = executor_with(&model, simd, 2, limits);
            let tokens: Vec<u32> = (0..65).map(|_| rng.below(101) as u32).collect();
            let prefix = page * (1 + rng.below(6));
            // A snapshot is taken up to a page and a round behind the newest row.
            let newest = prefix + rng.below(page);
            feed(&mut executor, 0, (&tokens[..newest], 0), &mut rng);
            executor.save_state(0, prefix, 2);
            // Other states and sequences come and go in between.
            executor.save_state(0, prefix, 1);
            feed(&mut executor, 0, (&tokens, newest), &mut rng);
            let other: Vec<u32> = (0..30).map(|_| rng.below(101) as u32).collect();
            feed(&mut executor, 3, (&other, 0), &mut rng);
            // Pages of slot 0 up to the prefix, then pages of slot 3, as `executor_with` gave them.
            let per_slot = limits.pages / limits.slots;
            let table = |slot: usize| {
                (0..per_slot).map(move |i| (slot + (i * 3 + 1) % per_slot * limits.slots) as u32)
            };
            let pages: Vec<u32> =
                table(0).take(prefix / page).chain(table(3)).take(per_slot).collect();
            executor.set_pages(3, &pages);
            executor.restore_state(3, prefix, 2);
            let label = format!("{formats:?} {windows:?} {simd} {prefix}");
            assert_eq!(
                (prefix..=prefix).map(|at| draft(&mut executor, 3, at)).collect::<Vec<_>>(),
                {
                    let mut fresh = executor_with(&model, simd, 1, LIMITS);
                    feed(&mut fresh, 1, (&tokens[..prefix], 0), &mut rng);
                    vec![draft(&mut fresh, 1, prefix)]
                },
                "{label}: drafts at the prefix's end"
            );
            let found = feed(&mut executor, 3, (&tokens, prefix), &mut rng);
            let drafted = draft(&mut executor, 3, tokens.len());
            let mut fresh = executor_with(&model, simd, 1, LIMITS);
            let expected = feed(&mut fresh, 1, (&tokens, 0), &mut rng);
            for (p, (found, expected)) in found.iter().zip(&expected[prefix..]).enumerate() {
                assert_eq!(found, expected, "{label}: position {}", prefix + p);
            }
            assert_eq!(drafted, draft(&mut fresh, 1, tokens.len()), "{label}: drafts");
        }
    }
}

fn engine(model: &Arc<Model>, pages: usize, snapshots: usize, chunk: usize) -> Engine {
    let limits =
        Limits { max_rows: 24, slots: 4, pages, page_size: 8, max_positions: 160, snapshots };
    let config = CpuConfig { threads: Some(2), simd: None, limits };
    let backend = Box::new(Rounds::new(CpuExecutor::new(Arc::clone(model), config).unwrap()));
    let max_drafts = model.spec.drafter.as_ref().map_or(0, |d| d.block_size - 1);
    let info = ModelInfo { vocab: model.spec.vocab, eos_token_ids: vec![0], max_drafts };
    let config = EngineConfig { prefill_chunk: chunk, ..EngineConfig::default() };
    Engine::start(backend, info, config).unwrap()
}

/// Law 2: the same tokens with and without the cache, for every kind of speculation, greedy and
/// sampled, under page budgets that make it evict, and with log-probabilities equal bit by bit.
#[test]
fn law_2_same_tokens_with_and_without_a_hit() {
    let mut rng = Rng(31);
    let mut hits = 0;
    for (number, make) in [model as Make, biased].into_iter().enumerate() {
        for windows in WINDOWS {
            for with_drafter in [true, false] {
                let seed = 300 + number as u64;
                let mut model = make(seed, formats()[rng.below(5)], windows);
                if !with_drafter {
                    let mut plain = (*model).clone();
                    (plain.drafter, plain.spec.drafter) = (None, None);
                    model = Arc::new(plain);
                }
                let without = engine(&model, 80, 0, 0);
                let (pages, snapshots) = (20 + rng.below(40), 1 + rng.below(9));
                let with = engine(&model, pages, snapshots, rng.below(20));
                let common: Vec<u32> = (0..90).map(|_| 1 + rng.below(100) as u32).collect();
                for _ in 0..8 {
                    let requests: Vec<Request> = (0..=rng.below(3))
                        .map(|_| any_request(&common, with_drafter, &mut rng))
                        .collect();
                    let streams: Vec<_> =
                        requests.iter().map(|r| with.submit(r.clone()).unwrap()).collect();
                    for (request, stream) in requests.into_iter().zip(streams) {
                        let label = format!("{windows:?} {with_drafter} {request:?}");
                        let (found, end) = stream.wait().unwrap();
                        hits += usize::from(end.receipt.cached_tokens > 0);
                        let (expected, _) = without.submit(request).unwrap().wait().unwrap();
                        assert_eq!(found, expected, "{label}");
                    }
                }
            }
        }
    }
    assert!(hits > 50, "only {hits} requests found a prefix");
}

fn any_request(common: &[u32], with_drafter: bool, rng: &mut Rng) -> Request {
    let shared = rng.below(common.len());
    let own = 1 + rng.below(20);
    let prompt: Vec<u32> = common[..shared]
        .iter()
        .copied()
        .chain((0..own).map(|_| 1 + rng.below(100) as u32))
        .collect();
    let params = SamplingParams {
        max_tokens: 1 + rng.below(25) as u32,
        temperature: [0.0, 0.8][rng.below(2)],
        repetition_penalty: [1.0, 1.2][rng.below(2)],
        seed: Some(rng.bits()),
        logprobs: Some(2),
        ..SamplingParams::default()
    };
    let kinds = [Speculation::Off, Speculation::Auto, Speculation::Auto, Speculation::Block(6)];
    let request = Request::new(prompt).params(params);
    if with_drafter { request.speculation(kinds[rng.below(4)]) } else { request }
}
