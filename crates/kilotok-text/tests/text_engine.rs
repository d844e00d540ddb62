//! The text engine over a simulated model whose tokens are known.
#![allow(clippy::unwrap_used, reason = "in tests a panic is a failure")]

mod tiny;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use kilotok::backend::sim::{SimConfig, SimExecutor};
use kilotok::backend::{Limits, Rounds};
use kilotok::engine::{Engine, EngineConfig, FinishReason, ModelInfo, Request, Speculation};
use kilotok::{Error, SamplingParams};
use kilotok_text::{
    ChatTemplate, Completion, Detokenizer, Prompt, StoppedBy, TemplateInput, TextEngine, TextError,
    TextParams, Tokenizer,
};
use proptest::prelude::*;
use serde_json::json;
use tiny::{IM_END, IM_START, TempDir, byte_level_json};

/// A few ids more than the tokenizer has, like a padded checkpoint.
const VOCAB: usize = 272;
const LIMITS: Limits =
    Limits { max_rows: 64, slots: 8, pages: 256, page_size: 16, max_positions: 2048, snapshots: 0 };

fn engine_with(verify_time: Duration) -> Arc<Engine> {
    let sim = SimConfig {
        limits: LIMITS,
        vocab: VOCAB,
        max_drafts: 7,
        hit_percent: 70,
        verify_time,
        draft_time: Duration::ZERO,
    };
    let info = ModelInfo { vocab: VOCAB, eos_token_ids: vec![], max_drafts: 7 };
    let backend = Box::new(Rounds::new(SimExecutor::new(sim)));
    Arc::new(Engine::start(backend, info, EngineConfig::default()).unwrap())
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(byte_level_json().to_string().as_bytes()).unwrap()
}

fn text_engine() -> TextEngine {
    TextEngine::new(engine_with(Duration::ZERO), Some(tokenizer()), None)
}

fn sampled(max_tokens: u32, seed: u64) -> TextParams {
    let sampling = SamplingParams {
        temperature: 1.0,
        seed: Some(seed),
        max_tokens,
        ..SamplingParams::default()
    };
    TextParams { sampling, ..TextParams::default() }
}

fn one(engine: &TextEngine, prompt: impl Into<Prompt>, params: &TextParams) -> Completion {
    let mut all = engine.generate(prompt, params).unwrap();
    assert_eq!(all.len(), 1);
    all.pop().unwrap()
}

/// The engine's own tokens, without any text around them.
fn raw_tokens(engine: &Engine, prompt: &[u32], params: &TextParams) -> Vec<u32> {
    let request = Request::new(prompt).params(params.sampling.clone());
    engine.submit(request).unwrap().wait().unwrap().0.iter().map(|token| token.id).collect()
}

fn idle(engine: &Engine) {
    let started = Instant::now();
    while engine.stats().running + engine.stats().waiting + engine.stats().pages_used > 0 {
        assert!(started.elapsed() < Duration::from_secs(10), "leaked: {:?}", engine.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Text after each token, and the whole with the truncated tail released.
fn texts(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> (Vec<String>, String) {
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), true);
    let mut text = String::new();
    let mut after = Vec::new();
    for &id in ids {
        text.push_str(&detokenizer.push(id).unwrap());
        after.push(text.clone());
    }
    text.push_str(&detokenizer.finish().unwrap());
    (after, text)
}

fn speculation() -> impl Strategy<Value = Speculation> {
    prop_oneof![
        Just(Speculation::Off),
        Just(Speculation::Auto),
        (2usize..=8).prop_map(Speculation::Block)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn pieces_join_to_the_completion_and_to_the_decoded_tokens(
        seed in any::<u64>(), max_tokens in 1u32..80, skip in any::<bool>(), speculation in speculation(),
    ) {
        let engine = text_engine();
        let mut params = sampled(max_tokens, seed);
        params.skip_special_tokens = skip;
        params.speculation = Some(speculation);
        let stream = engine.submit("hello world", &params).unwrap();
        let expected = raw_tokens(engine.engine(), stream.prompt_token_ids(), &params);
        let (mut text, mut ids, mut completion) = (String::new(), Vec::new(), None);
        for piece in stream {
            let piece = piece.unwrap();
            prop_assert!(completion.is_none(), "a piece after the last");
            text.push_str(&piece.text);
            ids.extend(piece.token_ids);
            completion = piece.completion;
        }
        let completion = completion.unwrap();
        prop_assert_eq!(&ids, &expected);
        prop_assert_eq!(&completion.token_ids, &expected);
        prop_assert_eq!(&completion.text, &text);
        prop_assert_eq!(text, tokenizer().decode(&ids, skip).unwrap());
        prop_assert_eq!(completion.finish_reason, FinishReason::Length);
        prop_assert_eq!(completion.stopped_by, None);
        prop_assert_eq!(completion.receipt.tokens, expected.len());
    }

    /// Stop strings cut from what the model says anyway; they end text and tokens at the same
    /// place whatever the block length.
    #[test]
    fn a_stop_string_ends_text_and_tokens(
        seed in any::<u64>(), at in 0usize..60, len in 1usize..6, second in "[a-z]", include in any::<bool>(),
        speculation in speculation(),
    ) {
        let engine = text_engine();
        let tokenizer = engine.tokenizer().unwrap();
        let mut params = sampled(80, seed);
        let full = one(&engine, "hello", &params);
        let chars: Vec<char> = full.text.chars().collect();
        prop_assume!(at + len <= chars.len());
        let stop: Vec<String> = vec![chars[at..at + len].iter().collect(), second];

        params.stop = stop.clone();
        params.include_stop = include;
        params.speculation = Some(speculation);
        let stopped = one(&engine, "hello", &params);

        let (after, whole) = texts(tokenizer, &full.token_ids);
        let end = (1..=whole.len())
            .filter(|&end| whole.is_char_boundary(end))
            .find(|&end| stop.iter().any(|s| whole[..end].ends_with(s.as_str())))
            .unwrap();
        let hit = stop.iter().filter(|s| whole[..end].ends_with(s.as_str())).max_by_key(|s| s.len());
        let hit = hit.unwrap();
        prop_assert_eq!(&stopped.text, &whole[..if include { end } else { end - hit.len() }]);
        let tokens = after.iter().position(|text| text.len() >= end).map_or(after.len(), |k| k + 1);
        prop_assert_eq!(&stopped.token_ids, &full.token_ids[..tokens]);
        prop_assert_eq!(stopped.finish_reason, FinishReason::Stop);
        prop_assert_eq!(stopped.stopped_by, Some(StoppedBy::Text(hit.clone())));
    }
}

#[test]
fn a_stop_string_frees_the_engine_at_once() {
    let engine = TextEngine::new(engine_with(Duration::from_millis(1)), Some(tokenizer()), None);
    let mut params = sampled(1900, 5);
    params.sampling.max_tokens = 40;
    let text = one(&engine, "hello", &params).text;
    params.sampling.max_tokens = 1900;
    params.stop = vec![text.chars().take(10).collect()];
    let stopped = one(&engine, "hello", &params);
    assert_eq!((stopped.text.as_str(), stopped.finish_reason), ("", FinishReason::Stop));
    assert!(stopped.receipt.tokens < 1000, "{:?}", stopped.receipt);
    idle(engine.engine());
}

#[test]
fn several_sequences_are_single_ones_with_derived_seeds() {
    let engine = text_engine();
    let mut params = sampled(30, u64::MAX - 1);
    params.n = 5;
    params.stop = vec!["e".to_owned()];
    let all = engine.generate("hello", &params).unwrap();
    params.n = 1;
    for (index, completion) in all.iter().enumerate() {
        assert_eq!(completion.index, index);
        params.sampling.seed = Some((u64::MAX - 1).wrapping_add(index as u64));
        let single = one(&engine, "hello", &params);
        assert_eq!((&completion.text, &completion.token_ids), (&single.text, &single.token_ids));
    }
    assert!(all.iter().any(|completion| completion.token_ids != all[0].token_ids));
}

#[test]
fn logprobs_carry_text_and_bytes() {
    let engine = text_engine();
    let mut params = sampled(20, 3);
    params.sampling.logprobs = Some(4);
    let completion = one(&engine, "hello", &params);
    assert_eq!(completion.logprobs.len(), completion.token_ids.len());
    for (position, &id) in completion.logprobs.iter().zip(&completion.token_ids) {
        assert_eq!((position.chosen.id, position.top.len()), (id, 4));
        assert!(position.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
        for token in position.top.iter().chain([&position.chosen]) {
            assert_eq!(token.bytes, engine.tokenizer().unwrap().token_bytes(token.id));
            let bytes = token.bytes.clone().unwrap_or_default();
            assert_eq!(token.text, String::from_utf8_lossy(&bytes));
        }
    }
    assert!(one(&engine, "hello", &sampled(20, 3)).logprobs.is_empty());
}

#[test]
fn a_stop_token_stays_in_the_ids_and_out_of_the_text() {
    let engine = text_engine();
    let mut params = sampled(60, 11);
    let full = one(&engine, "hello", &params);
    // A token with visible text, not at the very start.
    let tokenizer = engine.tokenizer().unwrap();
    let (k, &id) = full
        .token_ids
        .iter()
        .enumerate()
        .skip(5)
        .find(|(_, id)| tokenizer.token_text(**id).is_some_and(|t| t.is_ascii() && !t.is_empty()))
        .unwrap();
    let k = full.token_ids[..=k].iter().position(|&other| other == id).unwrap();
    params.sampling.stop_token_ids = vec![id];
    let hidden = one(&engine, "hello", &params);
    assert_eq!(hidden.token_ids, full.token_ids[..=k]);
    assert_eq!(hidden.text, tokenizer.decode(&full.token_ids[..k], true).unwrap());
    assert_eq!(hidden.stopped_by, Some(StoppedBy::Token(id)));
    assert_eq!(hidden.finish_reason, FinishReason::Stop);
    params.include_stop = true;
    let shown = one(&engine, "hello", &params);
    assert_eq!(shown.text, tokenizer.decode(&full.token_ids[..=k], true).unwrap());
}

#[test]
fn the_tokenizers_own_eos_ends_a_text() {
    let plain = text_engine();
    let params = sampled(60, 21);
    let full = one(&plain, "hello", &params);
    let id = full.token_ids[7];
    let k = full.token_ids.iter().position(|&other| other == id).unwrap();
    let dir = TempDir::new();
    dir.write("tokenizer.json", &byte_level_json())
        .write("generation_config.json", &json!({"eos_token_id": [id, 5_000_000]}));
    let engine = TextEngine::from_dir(engine_with(Duration::ZERO), dir.path()).unwrap();
    let ended = one(&engine, "hello", &params);
    assert_eq!(ended.token_ids, full.token_ids[..=k]);
    assert_eq!(ended.stopped_by, Some(StoppedBy::Token(id)));
    let mut ignoring = params.clone();
    ignoring.sampling.ignore_eos = true;
    assert_eq!(one(&engine, "hello", &ignoring).token_ids, full.token_ids);
}

#[test]
fn without_a_tokenizer_tokens_go_in_and_out() {
    let dir = TempDir::new();
    let engine = TextEngine::from_dir(engine_with(Duration::ZERO), dir.path()).unwrap();
    let mut params = sampled(20, 1);
    params.sampling.logprobs = Some(2);
    let completion = one(&engine, vec![1, 2, 3], &params);
    assert_eq!(completion.token_ids, raw_tokens(engine.engine(), &[1, 2, 3], &params));
    assert_eq!((completion.text.as_str(), completion.logprobs.len()), ("", 20));
    assert_eq!(completion.logprobs[0].chosen.bytes, None);
    let needs_text = |prompt: Prompt, params: &TextParams| {
        let error = engine.submit(prompt, params).err().unwrap();
        assert!(matches!(error, TextError::NoTokenizer { .. }), "{error}");
    };
    needs_text("text".into(), &params);
    needs_text(TemplateInput::default().into(), &params);
    needs_text(vec![1].into(), &TextParams { stop: vec!["x".to_owned()], ..params.clone() });
}

#[test]
fn a_conversation_becomes_tokens_through_the_template() {
    let source = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}";
    let template = ChatTemplate::from_source(source).unwrap();
    let engine = TextEngine::new(engine_with(Duration::ZERO), Some(tokenizer()), Some(template));
    let input = TemplateInput {
        messages: vec![json!({"role": "user", "content": "hello"})],
        ..TemplateInput::default()
    };
    let stream = engine.submit(input.clone(), &sampled(1, 0)).unwrap();
    let id = |token| engine.tokenizer().unwrap().token_to_id(token).unwrap();
    assert_eq!(stream.prompt_token_ids(), [id(IM_START), id("hello"), id(IM_END)]);
    let bare = TextEngine::new(Arc::clone(engine.engine()), Some(tokenizer()), None);
    assert!(matches!(bare.submit(input, &sampled(1, 0)), Err(TextError::NoTemplate { .. })));
}

#[test]
fn bad_requests_are_named_before_anything_runs() {
    let engine = text_engine();
    let refused = |prompt: Prompt, params: TextParams, name: &str| {
        let message = engine.submit(prompt, &params).err().unwrap().to_string();
        assert!(message.contains(name), "{message}");
    };
    let params = || sampled(5, 0);
    refused("x".into(), TextParams { n: 0, ..params() }, "n:");
    refused("x".into(), TextParams { n: 100_000, ..params() }, "n:");
    refused("x".into(), TextParams { stop: vec![String::new()], ..params() }, "stop");
    refused("".into(), params(), "prompt");
    refused(vec![VOCAB as u32].into(), params(), "prompt");
    let mut hot = params();
    hot.sampling.temperature = f32::NAN;
    refused("x".into(), hot, "temperature");
    idle(engine.engine());
}

#[test]
fn cancelling_and_dropping_free_the_slots() {
    let engine = TextEngine::new(engine_with(Duration::from_millis(1)), Some(tokenizer()), None);
    let long = || TextParams { n: 3, ..sampled(1500, 4) };
    let mut stream = engine.submit("hello", &long()).unwrap();
    assert!(stream.next().unwrap().is_ok());
    stream.canceller().cancel();
    let error = stream.find_map(Result::err).unwrap();
    assert!(matches!(error, TextError::Engine(Error::Cancelled)), "{error}");
    assert!(stream.is_done() && stream.next().is_none() && stream.poll().is_none());
    drop(engine.submit("hello", &long()).unwrap());
    idle(engine.engine());
}

#[test]
fn a_closed_engine_ends_streams_and_refuses_work() {
    let engine = TextEngine::new(engine_with(Duration::from_millis(1)), Some(tokenizer()), None);
    let stream = engine.submit("hello", &sampled(1500, 4)).unwrap();
    engine.engine().close();
    let dead = |error: TextError| matches!(error, TextError::Engine(Error::EngineDead { .. }));
    assert!(dead(stream.wait().unwrap_err()));
    assert!(dead(engine.submit("hello", &sampled(1, 0)).err().unwrap()));
}

#[test]
fn event_loops_are_woken() {
    let engine = TextEngine::new(engine_with(Duration::from_micros(200)), Some(tokenizer()), None);
    let params = TextParams { n: 3, ..sampled(40, 9) };
    let mut stream = engine.submit("hello", &params).unwrap();
    let (sender, receiver) = mpsc::channel();
    let woken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&woken);
    stream.set_waker(move || {
        count.fetch_add(1, Ordering::Relaxed);
        let _ = sender.send(());
    });
    let mut ids = vec![Vec::new(); 3];
    while !stream.is_done() {
        receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        while let Some(piece) = stream.poll() {
            let piece = piece.unwrap();
            ids[piece.index].extend(piece.token_ids);
        }
    }
    assert!(woken.load(Ordering::Relaxed) > 3);
    let expected: Vec<Vec<u32>> =
        engine.generate("hello", &params).unwrap().into_iter().map(|c| c.token_ids).collect();
    assert_eq!(ids, expected);
    let mut stream = engine.submit("hello", &sampled(1000, 9)).unwrap();
    while stream.next_timeout(Duration::ZERO).is_some() {}
    assert!(!stream.is_done(), "no wait, no end");
}
