//! The prefix cache through the engine, over a simulated model whose text depends on every token
//! before it and turns wrong where a cache holds anything else.
#![allow(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::time::Duration;

use kilotok::SamplingParams;
use kilotok::backend::sim::{SimConfig, SimExecutor};
use kilotok::backend::{Limits, Rounds};
use kilotok::engine::{
    Engine, EngineConfig, ModelInfo, Receipt, Request, Speculation, Stats, TokenStream,
};
use proptest::prelude::*;

const LIMITS: Limits =
    Limits { max_rows: 64, slots: 4, pages: 64, page_size: 16, max_positions: 512, snapshots: 16 };

fn engine(limits: Limits, hit_percent: u64, max_drafts: usize) -> Engine {
    engine_over(sim(limits, hit_percent, max_drafts), max_drafts)
}

fn sim(limits: Limits, hit_percent: u64, max_drafts: usize) -> SimExecutor {
    let (verify_time, draft_time) = (Duration::ZERO, Duration::ZERO);
    let vocab = 96;
    let sim = SimConfig { limits, vocab, max_drafts, hit_percent, verify_time, draft_time };
    SimExecutor::new(sim)
}

fn engine_over(sim: SimExecutor, max_drafts: usize) -> Engine {
    let info = ModelInfo { vocab: 96, eos_token_ids: vec![0], max_drafts };
    Engine::start(Box::new(Rounds::new(sim)), info, EngineConfig::default()).unwrap()
}

fn long(max_tokens: u32) -> SamplingParams {
    SamplingParams { max_tokens, ignore_eos: true, ..SamplingParams::default() }
}

fn run(engine: &Engine, request: Request) -> (Vec<u32>, Receipt) {
    let (tokens, end) = engine.submit(request).unwrap().wait().unwrap();
    (tokens.iter().map(|token| token.id).collect(), end.receipt)
}

/// Waits for the house to be empty: only the cache may hold pages then.
fn idle(engine: &Engine) -> Stats {
    for _ in 0..2000 {
        let stats = engine.stats();
        if stats.running == 0 && stats.waiting == 0 && stats.pages_used == 0 {
            assert!(stats.pages_cached <= stats.pages_total);
            return stats;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("slots or pages leaked: {:?}", engine.stats());
}

/// A prompt: how much of which common beginning, then its own tokens.
fn prompt((kind, shared, own): &(u32, usize, Vec<u32>)) -> Vec<u32> {
    let common = (0..*shared as u32).map(|i| 1 + (i * 7 + kind * 31) % 95);
    common.chain(own.iter().copied()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Law 2 through the cache: tokens are those of plain decoding without one, whatever was
    /// there before, for any drafter, block length, salt and page budget, with rounds made by the
    /// host and by the device.
    #[test]
    fn law_2_holds_through_the_cache(
        hit in 0u64..101,
        own_rounds in any::<bool>(),
        pages in 16usize..70,
        snapshots in 1usize..20,
        requests in prop::collection::vec(
            ((0u32..2, 0usize..150, prop::collection::vec(1u32..96, 1..40)),
             0usize..5, 1u32..50, any::<bool>(), 0usize..3, any::<bool>()), 1..30),
    ) {
        let plain = engine(Limits { snapshots: 0, ..LIMITS }, 0, 0);
        let subject = sim(Limits { pages, snapshots, ..LIMITS }, hit, 7);
        let subject = engine_over(if own_rounds { subject.with_own_rounds() } else { subject }, 7);
        let kinds = [
            Speculation::Off, Speculation::Auto, Speculation::Block(2), Speculation::Block(4),
            Speculation::Block(8),
        ];
        let mut in_flight: Vec<(Request, TokenStream)> = Vec::new();
        for (parts, kind, max_tokens, sampled, salt, together) in requests {
            let params = SamplingParams {
                max_tokens,
                temperature: if sampled { 0.9 } else { 0.0 },
                seed: Some(5),
                ..SamplingParams::default()
            };
            let mut request =
                Request::new(prompt(&parts)).params(params).speculation(kinds[kind]);
            if salt > 0 {
                request = request.cache_salt(["a", "b"][salt - 1]);
            }
            in_flight.push((request.clone(), subject.submit(request).unwrap()));
            // Some requests meet others that run, some what those left behind.
            if !together {
                for (request, stream) in in_flight.drain(..) {
                    let (tokens, _) = stream.wait().unwrap();
                    let tokens: Vec<u32> = tokens.iter().map(|token| token.id).collect();
                    let expected = run(&plain, Request { speculation: None, ..request });
                    prop_assert_eq!(expected.0, tokens);
                }
            }
        }
        for (request, stream) in in_flight {
            let (tokens, _) = stream.wait().unwrap();
            let tokens: Vec<u32> = tokens.iter().map(|token| token.id).collect();
            prop_assert_eq!(run(&plain, Request { speculation: None, ..request }).0, tokens);
        }
        idle(&subject);
    }
}

#[test]
fn the_receipt_counts_what_was_found() {
    let engine = engine(LIMITS, 100, 7);
    let prompt: Vec<u32> = (0..100).map(|i| 1 + i % 95).collect();
    let ask = |prompt: &[u32]| run(&engine, Request::new(prompt).params(long(30)));
    let (tokens, receipt) = ask(&prompt);
    assert_eq!((receipt.prompt_tokens, receipt.cached_tokens), (100, 0));
    // All whole pages of the prompt; the last token is always fed.
    let (again, receipt) = ask(&prompt);
    assert_eq!((receipt.prompt_tokens, receipt.cached_tokens), (100, 96));
    assert_eq!(tokens, again);
    let accepted: usize =
        receipt.accepted_histogram.iter().enumerate().map(|(drafts, rounds)| drafts * rounds).sum();
    assert_eq!(accepted, receipt.drafted, "the drafter's context came along: {receipt:?}");
    let (_, receipt) = ask(&prompt[..96]);
    assert_eq!(receipt.cached_tokens, 64, "the interval's snapshot: position 95 must be fed");
    // The next turn of a conversation finds the answer as well.
    let next = [prompt.clone(), tokens, vec![7; 20]].concat();
    let (_, receipt) = ask(&next);
    assert!(receipt.cached_tokens >= 112, "{receipt:?}");
    let stats = idle(&engine);
    assert_eq!(stats.prefix_queries, 100 + 100 + 96 + 150);
    assert_eq!(stats.prefix_hits, 96 + 64 + receipt.cached_tokens as u64);
}

#[test]
fn salts_and_speculation_keep_prefixes_apart() {
    let engine = engine(LIMITS, 50, 7);
    let prompt = vec![9; 60];
    let cached = |salt: Option<&str>, speculation| {
        let mut request = Request::new(prompt.clone()).params(long(2)).speculation(speculation);
        request.cache_salt = salt.map(Into::into);
        run(&engine, request).1.cached_tokens
    };
    let auto = Speculation::Auto;
    assert_eq!([cached(None, auto), cached(None, auto)], [0, 48]);
    assert_eq!([cached(Some("a"), auto), cached(Some("a"), auto)], [0, 48]);
    assert_eq!([cached(Some("b"), auto), cached(Some("b"), auto)], [0, 48]);
    // Pages of plain sequences hold no drafter context.
    assert_eq!([cached(None, Speculation::Off), cached(None, Speculation::Block(1))], [0, 48]);
    assert_eq!(cached(None, Speculation::Block(8)), 48);
}

#[test]
fn scores_of_a_prompt_are_never_skipped() {
    let engine = engine(LIMITS, 50, 7);
    let ask = |prompt_logprobs| {
        let params = SamplingParams { prompt_logprobs, ..long(3) };
        let request = Request::new(vec![4; 50]).params(params);
        engine.submit(request).unwrap().wait().unwrap().1
    };
    ask(None);
    let first = ask(Some(2));
    assert_eq!((first.receipt.cached_tokens, first.prompt_logprobs.len()), (0, 49));
    assert_eq!(ask(None).receipt.cached_tokens, 48);
    assert_eq!(ask(Some(2)).prompt_logprobs, first.prompt_logprobs);
}

/// 1,000 requests that share prefixes, cancelled at random moments: every page goes back to where
/// it can be had again, and the text stays right.
#[test]
fn cancelled_requests_leak_no_shared_page() {
    let engine = engine(LIMITS, 70, 7);
    let mut state = 4321u64;
    let mut random = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % n
    };
    let mut streams: Vec<TokenStream> = Vec::new();
    for _ in 0..1000 {
        let mut prompt = vec![1 + random(3) as u32; 1 + random(150) as usize];
        prompt.push(random(90) as u32);
        let request = Request::new(prompt).params(long(1 + random(200) as u32));
        streams.push(engine.submit(request).unwrap());
        if random(3) > 0 {
            let which = random(streams.len() as u64) as usize;
            streams.swap_remove(which);
        }
        if random(20) == 0 {
            std::thread::sleep(Duration::from_micros(random(500)));
        }
    }
    drop(streams);
    let stats = idle(&engine);
    assert!(stats.prefix_hits > 0, "{stats:?}");
    // The whole budget can be had by one request.
    let all = Request::new(vec![50; 400]).params(long(112));
    let (tokens, _) = run(&engine, all.clone());
    let plain = self::engine(Limits { snapshots: 0, ..LIMITS }, 0, 0);
    assert_eq!(tokens, run(&plain, all).0);
    idle(&engine);
}
