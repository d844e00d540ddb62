//! The engine's promises, over a simulated model whose right answers are known.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test is a panic")]

use std::time::Duration;

use kilotok::backend::sim::{SimConfig, SimExecutor};
use kilotok::backend::{Limits, Rounds};
use kilotok::engine::{
    Engine, EngineConfig, Event, FinishReason, ModelInfo, Request, Speculation, TokenStream,
};
use kilotok::{Error, SamplingParams};
use proptest::prelude::*;

const LIMITS: Limits =
    Limits { max_rows: 64, slots: 8, pages: 64, page_size: 16, max_positions: 512, snapshots: 0 };

fn engine_with(hit_percent: u64, max_drafts: usize, config: EngineConfig) -> Engine {
    engine_on(false, hit_percent, max_drafts, config)
}

/// `device`: one that makes rounds by itself.
fn engine_on(device: bool, hit_percent: u64, max_drafts: usize, config: EngineConfig) -> Engine {
    let sim = SimConfig {
        limits: LIMITS,
        vocab: 96,
        max_drafts,
        hit_percent,
        verify_time: Duration::ZERO,
        draft_time: Duration::ZERO,
    };
    let info = ModelInfo { vocab: 96, eos_token_ids: vec![0], max_drafts };
    let executor = SimExecutor::new(sim);
    let executor = if device { executor.with_own_rounds() } else { executor };
    Engine::start(Box::new(Rounds::new(executor)), info, config).unwrap()
}

fn engine(hit_percent: u64) -> Engine {
    engine_with(hit_percent, 7, EngineConfig::default())
}

fn ids(stream: TokenStream) -> Vec<u32> {
    stream.wait().unwrap().0.iter().map(|t| t.id).collect()
}

fn idle(engine: &Engine) {
    for _ in 0..2000 {
        let stats = engine.stats();
        if stats.running == 0 && stats.waiting == 0 && stats.pages_used == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("slots or pages leaked: {:?}", engine.stats());
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    (
        prop_oneof![Just(0.0f32), Just(0.8), Just(1.5)],
        prop_oneof![Just(0u32), Just(5), Just(40)],
        prop_oneof![Just(1.0f32), Just(0.9)],
        prop_oneof![Just(0.0f32), Just(0.05)],
        prop_oneof![Just(1.0f32), Just(1.3)],
        any::<u64>(),
        1u32..60,
    )
        .prop_map(
            |(temperature, top_k, top_p, min_p, repetition_penalty, seed, max_tokens)| {
                SamplingParams {
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                    repetition_penalty,
                    frequency_penalty: if repetition_penalty > 1.0 { 0.2 } else { 0.0 },
                    seed: Some(seed),
                    max_tokens,
                    ..SamplingParams::default()
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Law 2: the tokens are those of plain decoding alone, for any drafter, block length, batch
    /// and chunking.
    #[test]
    fn law_2_lossless(
        hit in 0u64..101,
        chunk in 0usize..20,
        device in any::<bool>(),
        requests in prop::collection::vec(
            (prop::collection::vec(1u32..96, 1..90), any_params(), 0usize..5), 1..12),
    ) {
        let plain = engine_with(0, 0, EngineConfig::default());
        let config = EngineConfig { prefill_chunk: chunk, ..EngineConfig::default() };
        let subject = engine_on(device, hit, 7, config);
        let kinds = [Speculation::Off, Speculation::Auto, Speculation::Block(2), Speculation::Block(4), Speculation::Block(8)];
        let streams: Vec<_> = requests.iter().map(|(prompt, params, kind)| {
            let request = Request::new(prompt.clone()).params(params.clone()).speculation(kinds[*kind]);
            subject.submit(request).unwrap()
        }).collect();
        for ((prompt, params, _), stream) in requests.into_iter().zip(streams) {
            let expected = ids(plain.submit(Request::new(prompt).params(params)).unwrap());
            prop_assert_eq!(expected, ids(stream));
        }
        idle(&subject);
    }
}

#[test]
fn a_perfect_drafter_gives_whole_blocks_and_a_useless_one_none() {
    let request = |tokens| {
        Request::new([5, 6, 7])
            .params(SamplingParams { max_tokens: tokens, ignore_eos: true, ..Default::default() })
            .speculation(Speculation::Block(8))
    };
    let (tokens, end) = engine(100).submit(request(161)).unwrap().wait().unwrap();
    assert_eq!((tokens.len(), end.reason), (161, FinishReason::Length));
    // Two plain rounds (the measured steps) and 19.75 whole blocks follow the first token.
    assert_eq!(end.receipt.rounds, 22);
    assert!(end.receipt.accepted_histogram[7] >= 19, "{:?}", end.receipt);
    assert_eq!(end.receipt.tau, 158.0 / 20.0);
    let (_, end) = engine(0).submit(request(100)).unwrap().wait().unwrap();
    assert_eq!((end.receipt.rounds, end.receipt.tau), (99, 1.0));
    assert!(end.receipt.warning.is_some(), "law 8: a drafter that never hits is reported");
}

/// dflash_spec invariant 27: first token + tokens of rounds = emitted tokens.
#[test]
fn the_receipt_adds_up() {
    let params = SamplingParams { max_tokens: 200, ignore_eos: true, ..Default::default() };
    let request = Request::new([9, 8]).params(params).speculation(Speculation::Block(4));
    let (tokens, end) = engine(60).submit(request).unwrap().wait().unwrap();
    let r = end.receipt;
    let speculative = (r.tau * r.speculative_rounds as f64).round() as usize;
    assert_eq!(1 + speculative + (r.rounds - r.speculative_rounds), tokens.len());
    assert_eq!(r.accepted_histogram.iter().sum::<usize>(), r.speculative_rounds);
    assert!(r.plain_step_ms > 0.0 && r.tokens_per_s > 0.0 && r.speedup > 0.0, "{r:?}");
}

#[test]
fn stop_tokens_end_a_sequence_inside_a_block() {
    let plain = engine_with(0, 0, EngineConfig::default());
    let free = SamplingParams { max_tokens: 100, ignore_eos: true, ..Default::default() };
    let all = ids(plain.submit(Request::new([3]).params(free.clone())).unwrap());
    let stop = all[37];
    let first = all.iter().position(|t| *t == stop).unwrap();
    let params = SamplingParams { stop_token_ids: vec![stop], ..free };
    let (tokens, end) =
        engine(100).submit(Request::new([3]).params(params)).unwrap().wait().unwrap();
    assert_eq!(end.reason, FinishReason::Stop);
    assert_eq!(tokens.iter().map(|t| t.id).collect::<Vec<_>>(), all[..=first]);
}

/// A device that makes rounds by itself leaves sequences, receipts and counters as the host's own
/// rounds do.
#[test]
fn rounds_on_a_device_are_accounted_for_like_those_of_the_host() {
    let params = SamplingParams { max_tokens: 161, ignore_eos: true, ..Default::default() };
    for (hit, speculation) in
        [(100, Speculation::Block(8)), (60, Speculation::Block(4)), (0, Speculation::Off)]
    {
        let [host, device] = [false, true].map(|device| {
            let engine = engine_on(device, hit, 7, EngineConfig::default());
            let request = Request::new([5, 6, 7]).params(params.clone()).speculation(speculation);
            let (tokens, end) = engine.submit(request).unwrap().wait().unwrap();
            let ids: Vec<u32> = tokens.iter().map(|t| t.id).collect();
            assert_eq!(engine.stats().tokens, 161);
            (ids, end.reason, end.receipt)
        });
        assert_eq!((host.0, host.1), (device.0, device.1));
        let r = device.2;
        assert_eq!(r.accepted_histogram.iter().sum::<usize>(), r.speculative_rounds);
        let speculative = (r.tau * r.speculative_rounds as f64).round() as usize;
        assert_eq!(1 + speculative + (r.rounds - r.speculative_rounds), 161);
        assert!((r.tau - host.2.tau).abs() < 0.4, "{} {}", r.tau, host.2.tau);
    }
}

#[test]
fn bad_requests_name_the_parameter() {
    let engine = engine(50);
    let refused = |request: Request| engine.submit(request).err().expect("must be refused");
    let with = |params| Request::new([1]).params(params);
    let base = SamplingParams::default;
    let cases = [
        (Request::new([]), "prompt"),
        (Request::new([96]), "prompt"),
        (with(SamplingParams { temperature: f32::NAN, ..base() }), "temperature"),
        (with(SamplingParams { temperature: -1.0, ..base() }), "temperature"),
        (with(SamplingParams { top_p: 0.0, ..base() }), "top_p"),
        (with(SamplingParams { min_p: 1.5, ..base() }), "min_p"),
        (with(SamplingParams { max_tokens: 0, ..base() }), "max_tokens"),
        (with(SamplingParams { logit_bias: vec![(200, 1.0)], ..base() }), "logit_bias"),
        (with(SamplingParams { stop_token_ids: vec![96], ..base() }), "stop_token_ids"),
        (with(SamplingParams { logprobs: Some(97), ..base() }), "logprobs"),
        (Request::new([1]).speculation(Speculation::Block(9)), "speculation"),
        (Request::new([1]).speculation(Speculation::Block(0)), "speculation"),
    ];
    for (request, name) in cases {
        match refused(request) {
            Error::InvalidRequest { parameter, .. } => assert_eq!(parameter, name),
            other => panic!("{name}: {other}"),
        }
    }
    let huge = with(SamplingParams { max_tokens: u32::MAX, ..base() });
    assert!(matches!(refused(huge), Error::OutOfMemory { unit: "positions", .. }));
    idle(&engine);
}

/// 1,000 requests submitted and cancelled at random moments leave nothing behind.
#[test]
fn cancelled_requests_leak_nothing() {
    let engine = engine(70);
    let mut state = 12345u64;
    let mut random = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % n
    };
    let mut streams: Vec<TokenStream> = Vec::new();
    for _ in 0..1000 {
        let params = SamplingParams {
            max_tokens: 1 + random(200) as u32,
            ignore_eos: true,
            ..SamplingParams::default()
        };
        let prompt = vec![1 + random(90) as u32; 1 + random(100) as usize];
        streams.push(engine.submit(Request::new(prompt).params(params)).unwrap());
        match random(4) {
            0 => drop(streams.swap_remove(random(streams.len() as u64) as usize)),
            1 => streams[random(streams.len() as u64) as usize].cancel(),
            2 => {
                let last = streams.len() - 1;
                let _ = streams[last].next_timeout(Duration::from_micros(random(300)));
            }
            _ => {}
        }
    }
    for stream in streams {
        match stream.wait() {
            Ok((tokens, _)) => assert!(!tokens.is_empty()),
            Err(Error::Cancelled) => {}
            Err(other) => panic!("{other}"),
        }
    }
    idle(&engine);
}

#[test]
fn a_full_queue_and_a_closed_engine_say_so() {
    let config = EngineConfig { queue_capacity: 4, ..EngineConfig::default() };
    let engine = engine_with(50, 7, config);
    let long = || {
        let params = SamplingParams { max_tokens: 500, ignore_eos: true, ..Default::default() };
        Request::new([1]).params(params)
    };
    let mut streams = Vec::new();
    let refused = loop {
        match engine.submit(long()) {
            Ok(stream) => streams.push(stream),
            Err(error) => break error,
        }
        assert!(streams.len() < 5000, "the queue never filled");
    };
    assert!(matches!(refused, Error::OutOfMemory { unit: "requests", .. }), "{refused}");
    engine.close();
    for stream in streams {
        match stream.wait() {
            Ok(_) | Err(Error::EngineDead { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!(matches!(engine.submit(long()), Err(Error::EngineDead { .. })));
}

/// A backend that breaks takes its requests down with a typed error, and nothing hangs.
#[test]
fn a_panicking_backend_is_a_dead_engine() {
    struct Broken;
    impl kilotok::backend::Backend for Broken {
        fn limits(&self) -> Limits {
            LIMITS
        }
        fn open(&mut self, _: u32, _: kilotok::backend::SequenceInit) -> kilotok::Result<()> {
            Ok(())
        }
        fn close(&mut self, _: u32) {}
        fn run(
            &mut self,
            _: &[kilotok::backend::Work],
            _: u32,
            _: &mut kilotok::backend::Report,
        ) -> kilotok::Result<()> {
            panic!("injected")
        }
    }
    let info = ModelInfo { vocab: 96, eos_token_ids: vec![], max_drafts: 0 };
    let engine = Engine::start(Box::new(Broken), info, EngineConfig::default()).unwrap();
    let stream = engine.submit(Request::new([1])).unwrap();
    match stream.wait() {
        Err(Error::EngineDead { reason }) => assert!(reason.contains("injected"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(engine.submit(Request::new([1])), Err(Error::EngineDead { .. })));
}

#[test]
fn wakers_and_polling_see_every_event() {
    let engine = engine(80);
    let params = SamplingParams { max_tokens: 50, ignore_eos: true, ..Default::default() };
    let mut stream = engine.submit(Request::new([4]).params(params)).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    stream.set_waker(move || {
        let _ = sender.send(());
    });
    let mut tokens = 0;
    while !stream.is_done() {
        receiver.recv_timeout(Duration::from_secs(10)).expect("a waker call is missing");
        while let Some(event) = stream.poll() {
            tokens += usize::from(matches!(event.unwrap(), Event::Token(_)));
        }
    }
    assert_eq!(tokens, 50);
}

#[test]
fn a_stopped_request_ends_with_its_receipt() {
    let sim = SimConfig {
        limits: LIMITS,
        vocab: 96,
        max_drafts: 7,
        hit_percent: 60,
        verify_time: Duration::from_millis(1),
        draft_time: Duration::ZERO,
    };
    let info = ModelInfo { vocab: 96, eos_token_ids: vec![0], max_drafts: 7 };
    let backend = Box::new(Rounds::new(SimExecutor::new(sim)));
    let engine = Engine::start(backend, info, EngineConfig::default()).unwrap();
    let params = SamplingParams { max_tokens: 500, ignore_eos: true, ..SamplingParams::default() };
    let mut stream = engine.submit(Request::new(vec![1, 2, 3]).params(params)).unwrap();
    let mut tokens = 0;
    while let Some(event) = stream.next() {
        match event.unwrap() {
            Event::Token(_) => {
                tokens += 1;
                if tokens == 5 {
                    stream.stop();
                }
            }
            Event::Finished(finished) => {
                assert_eq!(finished.reason, FinishReason::Stop);
                assert_eq!(finished.receipt.tokens, tokens);
                assert!(tokens < 400, "it went on to {tokens} tokens");
            }
        }
    }
    idle(&engine);
}
