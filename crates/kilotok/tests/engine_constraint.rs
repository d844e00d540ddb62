//! Constrained output over a simulated model: what a constraint rules out never comes, and it
//! comes out the same with speculation on and off.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test is a panic")]

use std::sync::Arc;
use std::time::Duration;

use kilotok::backend::sim::{SimConfig, SimExecutor};
use kilotok::backend::{Limits, Rounds};
use kilotok::engine::{Engine, EngineConfig, Event, FinishReason, ModelInfo, Request, Speculation};
use kilotok::sample::{Constraint, Grammar, TokenMask};
use kilotok::{Error, Result, SamplingParams};
use proptest::prelude::*;

const VOCAB: usize = 96;
const EOS: u32 = 0;

fn engine(hit_percent: u64, slots: usize) -> Engine {
    slow_engine(hit_percent, slots, Duration::ZERO)
}

fn slow_engine(hit_percent: u64, slots: usize, verify_time: Duration) -> Engine {
    let sim = SimConfig {
        limits: Limits {
            max_rows: 64,
            slots,
            pages: 256,
            page_size: 16,
            max_positions: 512,
            snapshots: 0,
        },
        vocab: VOCAB,
        max_drafts: 7,
        hit_percent,
        verify_time,
        draft_time: Duration::ZERO,
    };
    let info = ModelInfo { vocab: VOCAB, eos_token_ids: vec![EOS], max_drafts: 7 };
    let backend = Box::new(Rounds::new(SimExecutor::new(sim)));
    Engine::start(backend, info, EngineConfig::default()).unwrap()
}

/// Tokens depend on all before them; every `stride`-th is forced; after `length` comes the end.
#[derive(Clone, Debug)]
struct Rule {
    modulus: u32,
    kept: u32,
    stride: usize,
    length: usize,
    dead_end: bool,
}

impl Rule {
    fn hash(said: &[u32]) -> u32 {
        said.iter().fold(7, |h, t| h.wrapping_mul(31).wrapping_add(*t) % 1009)
    }

    fn fits(&self, said: &[u32], token: u32) -> bool {
        if said.len() == self.length {
            return token == EOS && !self.dead_end;
        }
        match self.forced(said) {
            Some(forced) => token == forced,
            None => token != EOS && (token + Self::hash(said)) % self.modulus < self.kept,
        }
    }

    fn forced(&self, said: &[u32]) -> Option<u32> {
        let every = said.len() % self.stride == self.stride - 1;
        (every && said.len() < self.length).then(|| 1 + Self::hash(said) % 90)
    }
}

impl Grammar for Rule {
    fn start(&self) -> Result<Box<dyn Constraint>> {
        Ok(Box::new(Follower { rule: self.clone(), said: Vec::new() }))
    }
}

#[derive(Debug)]
struct Follower {
    rule: Rule,
    said: Vec<u32>,
}

impl Constraint for Follower {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<()> {
        mask.clear();
        (0..VOCAB as u32).filter(|t| self.rule.fits(&self.said, *t)).for_each(|t| mask.allow(t));
        match mask.first() {
            Some(_) => Ok(()),
            None => Err(Error::Constraint { reason: "nothing may come".into() }),
        }
    }

    fn allows(&mut self, token: u32) -> Result<bool> {
        Ok(self.rule.fits(&self.said, token))
    }

    fn forced(&mut self) -> Result<Option<u32>> {
        Ok(self.rule.forced(&self.said))
    }

    fn advance(&mut self, token: u32) -> Result<()> {
        assert!(self.rule.fits(&self.said, token), "{token} after {:?}", self.said);
        self.said.push(token);
        Ok(())
    }

    fn rollback(&mut self, tokens: usize) -> Result<()> {
        self.said.truncate(self.said.len() - tokens);
        Ok(())
    }
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    (
        prop_oneof![Just(0.0f32), Just(1.0)],
        prop_oneof![Just(0u32), Just(3)],
        prop_oneof![Just(1.0f32), Just(0.8)],
        prop_oneof![Just(1.0f32), Just(1.3)],
        any::<u64>(),
    )
        .prop_map(|(temperature, top_k, top_p, repetition_penalty, seed)| SamplingParams {
            temperature,
            top_k,
            top_p,
            repetition_penalty,
            seed: Some(seed),
            max_tokens: 60,
            ..SamplingParams::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Laws 1 and 2: every token follows the rule, whatever is drafted, and beside any others.
    #[test]
    fn constrained_output_is_lossless(
        params in any_params(),
        prompt in prop::collection::vec(0u32..96, 1..50),
        (modulus, kept, stride) in (2u32..60, 1u32..4, 1usize..9),
        length in 1usize..50,
        hit_percent in 0u64..=100,
    ) {
        let rule = Rule { modulus, kept, stride, length, dead_end: false };
        let engine = engine(hit_percent, 8);
        let streams: Vec<_> = [Speculation::Off, Speculation::Auto, Speculation::Block(3), Speculation::Block(8)]
            .into_iter()
            .map(|speculation| {
                let request = Request::new(prompt.clone())
                    .params(params.clone())
                    .speculation(speculation)
                    .grammar(Arc::new(rule.clone()));
                engine.submit(request).unwrap()
            })
            .collect();
        // One without a constraint beside them.
        let plain = engine.submit(Request::new(prompt).params(params)).unwrap();
        let mut outputs = Vec::new();
        for stream in streams {
            let (tokens, finished) = stream.wait().unwrap();
            prop_assert_eq!(finished.reason, FinishReason::Stop);
            outputs.push(tokens.iter().map(|t| t.id).collect::<Vec<_>>());
        }
        plain.wait().unwrap();
        for output in &outputs {
            prop_assert_eq!(output, &outputs[0]);
        }
        prop_assert_eq!(outputs[0].len(), length + 1);
        for (at, token) in outputs[0].iter().enumerate() {
            prop_assert!(rule.fits(&outputs[0][..at], *token));
        }
    }
}

#[test]
fn a_dead_end_ends_the_request_alone_and_names_its_reason() {
    let engine = engine(90, 8);
    let rule = Rule { modulus: 5, kept: 2, stride: 4, length: 20, dead_end: true };
    let params = SamplingParams { max_tokens: 60, ..SamplingParams::default() };
    for speculation in [Speculation::Off, Speculation::Block(8)] {
        let request = Request::new([5, 6]).params(params.clone()).speculation(speculation);
        let events: Vec<_> =
            engine.submit(request.grammar(Arc::new(rule.clone()))).unwrap().collect();
        let (last, tokens) = events.split_last().unwrap();
        assert_eq!(tokens.len(), 20);
        assert!(tokens.iter().all(|e| matches!(e, Ok(Event::Token(_)))));
        match last {
            Err(Error::Constraint { reason }) => assert_eq!(reason, "nothing may come"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(engine.stats().running + engine.stats().pages_used, 0);
    engine.submit(Request::new([5]).params(params)).unwrap().wait().unwrap();
}

#[test]
fn forced_tokens_fill_the_draft() {
    let engine = engine(0, 8);
    let rule = Rule { modulus: 90, kept: 1, stride: 1, length: 56, dead_end: false };
    let params = SamplingParams { max_tokens: 60, ..SamplingParams::default() };
    let request = Request::new([5]).params(params).speculation(Speculation::Block(8));
    let (tokens, finished) =
        engine.submit(request.grammar(Arc::new(rule))).unwrap().wait().unwrap();
    assert_eq!(tokens.len(), 57);
    // The prefill's token, seven whole blocks less a token, and the plain steps of measurement.
    assert!(finished.receipt.rounds <= 10, "{:?}", finished.receipt);
    assert!(finished.receipt.tau > 6.0, "{:?}", finished.receipt);
}

#[test]
fn a_rule_outranks_ignore_eos() {
    let engine = engine(90, 8);
    let rule = Rule { modulus: 5, kept: 2, stride: 4, length: 9, dead_end: false };
    let params = SamplingParams { max_tokens: 60, ignore_eos: true, ..SamplingParams::default() };
    let request = Request::new([5]).params(params).grammar(Arc::new(rule));
    let (tokens, finished) = engine.submit(request).unwrap().wait().unwrap();
    assert_eq!((tokens.len(), finished.reason), (10, FinishReason::Stop));
}

/// One slot: what waits is taken in by priority, then by arrival.
#[test]
fn lower_priorities_go_first() {
    let engine = slow_engine(90, 1, Duration::from_millis(2));
    let long = SamplingParams { max_tokens: 400, ignore_eos: true, ..SamplingParams::default() };
    let running = engine.submit(Request::new([5]).params(long)).unwrap();
    while engine.stats().running == 0 {
        std::thread::yield_now();
    }
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let short = SamplingParams { max_tokens: 4, ignore_eos: true, ..SamplingParams::default() };
    let waiting: Vec<_> = [(0, 3), (1, 0), (2, -5), (3, 0), (4, 3), (5, -5)]
        .into_iter()
        .map(|(name, priority)| {
            let request = Request::new([5]).params(short.clone()).priority(priority);
            let stream = engine.submit(request).unwrap();
            let order = Arc::clone(&order);
            stream.set_waker(move || {
                let mut order = order.lock().unwrap();
                if !order.contains(&name) {
                    order.push(name);
                }
            });
            stream
        })
        .collect();
    running.cancel();
    for stream in waiting {
        stream.wait().unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [2, 5, 1, 3, 0, 4]);
}
