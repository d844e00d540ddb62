//! Weights of a running engine: replaced as a whole or not at all, in the formats they had.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use kilotok::backend::sim::{SimConfig, SimExecutor};
use kilotok::backend::{Limits, Rounds};
use kilotok::engine::{Engine, EngineConfig, ModelInfo, Request};
use kilotok::numeric::{bf16, fp8, mxfp4};
use kilotok::weights::{Dtype, TensorData, load, updated};
use kilotok::{Bytes, Error, Format, Matrix, MlpWeights, Model, QkvWeights, SamplingParams};
use support::tiny::{HIDDEN, INTER, PRO_FP4, Tiny};

fn floats(shape: &[usize], seed: u64) -> Vec<f32> {
    let mut rng = kilotok::testing::Rng(seed);
    (0..shape.iter().product()).map(|_| rng.normal()).collect()
}

fn tensor(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> TensorData {
    TensorData { dtype, shape: shape.to_vec(), bytes: Bytes::from_vec(bytes) }
}

fn f32_tensor(shape: &[usize], values: &[f32]) -> TensorData {
    tensor(Dtype::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn down(model: &Model) -> &Matrix {
    match &model.layers[2].mlp {
        MlpWeights::Moe { experts, .. } => &experts[1].down,
        MlpWeights::Dense(_) => panic!("dense"),
    }
}

const DOWN: &str = "model.layers.2.mlp.experts.1.down_proj.weight";

#[test]
fn experts_are_rounded_to_the_bits_of_the_codec() {
    let model = load(Tiny::new(1, PRO_FP4).write().path(), None).unwrap();
    let values = floats(&[HIDDEN, INTER], 2);
    let narrow: Vec<f32> = values.iter().map(|v| bf16::decode(bf16::encode(*v))).collect();
    let given = [
        (f32_tensor(&[HIDDEN, INTER], &values), &values),
        (tensor(Dtype::Bf16, &[HIDDEN, INTER], bf16::encode_row(&values)), &narrow),
    ];
    for (tensor, values) in given {
        let new = updated(&model, [(DOWN.to_owned(), tensor)]).unwrap();
        let (nibbles, scales) = mxfp4::encode_row(values);
        assert_eq!(down(&new).data.as_slice(), nibbles);
        let Format::Mxfp4 { scales: found } = &down(&new).format else { panic!("format") };
        assert_eq!(found.as_slice(), scales);
        // Everything else is shared, not copied.
        assert_eq!(new.embed.data.as_slice().as_ptr(), model.embed.data.as_slice().as_ptr());
    }
}

#[test]
fn fp8_matrices_stay_fp8_and_take_what_a_power_of_two_expresses_without_loss() {
    let model = load(Tiny::new(3, PRO_FP4).write().path(), None).unwrap();
    let QkvWeights::Fused(qkv) = &model.layers[1].attention.qkv else { panic!("split") };
    let Format::Fp8 { rows_per_chunk, .. } = qkv.format else { panic!("format") };
    let (rows, cols) = (qkv.rows, qkv.cols);
    // Every chunk at its own magnitude.
    let values: Vec<f32> = (0..rows * cols)
        .map(|i| {
            let code = (i * 37 % 256) as u8;
            let code = if code & 0x7f == 0x7f { 0 } else { code };
            fp8::decode(code) * 2f32.powi(-3 - (i / cols / rows_per_chunk) as i32)
        })
        .collect();
    let name = "model.layers.1.self_attn.qkv_proj.weight".to_owned();
    let new = updated(&model, [(name, f32_tensor(&[rows, cols], &values))]).unwrap();
    let QkvWeights::Fused(qkv) = &new.layers[1].attention.qkv else { panic!("split") };
    let Format::Fp8 { scales, rows_per_chunk } = &qkv.format else { panic!("format") };
    for (i, value) in values.iter().enumerate() {
        let scale = scales[fp8::scale_index(i / cols, i % cols, cols, *rows_per_chunk)];
        assert_eq!(fp8::decode(qkv.data.as_slice()[i]) * scale, *value);
    }
}

#[test]
fn wrong_tensors_are_named() {
    let model = load(Tiny::new(4, PRO_FP4).write().path(), None).unwrap();
    let refuse = |name: &str, tensor: TensorData| {
        updated(&model, [(name.to_owned(), tensor)]).unwrap_err().to_string()
    };
    let values = floats(&[HIDDEN, INTER], 5);
    let text = refuse("model.layers.2.mlp.experts.99.down_proj.weight", f32_tensor(&[1], &[0.0]));
    assert!(text.contains("experts.99") && text.contains("unexpected"), "{text}");
    let text = refuse(DOWN, f32_tensor(&[INTER, HIDDEN], &values));
    assert!(text.contains(DOWN) && text.contains("shape"), "{text}");
    for wrong in [f32::NAN, f32::INFINITY] {
        let mut values = values.clone();
        values[77] = wrong;
        let text = refuse(DOWN, f32_tensor(&[HIDDEN, INTER], &values));
        assert!(text.contains("element 77") && text.contains("finite"), "{text}");
    }
    let text = refuse(DOWN, tensor(Dtype::U8, &[HIDDEN, INTER / 2], vec![0; HIDDEN * INTER / 2]));
    assert!(text.contains("weight_scale") && text.contains("missing"), "{text}");
    let text = refuse("model.embed_tokens.weight", f32_tensor(&[3], &[0.0; 3]));
    assert!(text.contains("embed_tokens") && text.contains("shape"), "{text}");
}

fn ids(engine: &Engine, prompt: &[u32], max_tokens: u32) -> Vec<u32> {
    let params = SamplingParams { max_tokens, ignore_eos: true, ..SamplingParams::default() };
    let request = Request::new(prompt.to_vec()).params(params);
    engine.submit(request).unwrap().wait().unwrap().0.iter().map(|t| t.id).collect()
}

/// Head rows in another order: every greedy choice changes to a known one.
fn rolled_head(model: &Model) -> Vec<(String, TensorData)> {
    let head = &model.lm_head;
    let row = head.data.len() / head.rows;
    let mut bytes = head.data.as_slice().to_vec();
    bytes.rotate_right(row);
    vec![("lm_head.weight".to_owned(), tensor(Dtype::Bf16, &[head.rows, head.cols], bytes))]
}

#[test]
fn a_request_in_flight_goes_on_as_if_it_had_started_with_its_text_so_far() {
    let model = Arc::new(load(Tiny::new(6, PRO_FP4).write().path(), None).unwrap());
    let new = Arc::new(updated(&model, rolled_head(&model)).unwrap());
    let fresh = Engine::from_model(new).threads(1).build().unwrap();
    let old = Engine::from_model(Arc::clone(&model)).threads(1).build().unwrap();
    let prompt = [1, 5, 9, 2];
    let tokens = 900;
    let plain = ids(&old, &prompt, tokens);
    let params =
        SamplingParams { max_tokens: tokens, ignore_eos: true, ..SamplingParams::default() };
    let running = Engine::from_model(Arc::clone(&model)).threads(1).build().unwrap();
    let mut stream = running.submit(Request::new(prompt.to_vec()).params(params)).unwrap();
    let first = stream.next().unwrap().unwrap();
    drop(first);
    running.update_weights(rolled_head(&model), false).unwrap();
    let rest: Vec<u32> = stream.wait().unwrap().0.iter().map(|t| t.id).collect();
    let got: Vec<u32> = plain[..1].iter().copied().chain(rest).collect();
    assert_eq!(got.len(), tokens as usize);
    // The last token that the old model chose is one of the last that it would have chosen.
    let same = got.iter().zip(&plain).take_while(|(a, b)| a == b).count();
    assert!(same < got.len(), "the request ended before the update");
    let switched = (1..=same).rev().any(|at| {
        let text: Vec<u32> = prompt.iter().chain(&got[..at]).copied().collect();
        ids(&fresh, &text, tokens - at as u32) == got[at..]
    });
    assert!(switched, "{got:?} is neither the old model nor the new one after a switch");
    assert_eq!(ids(&running, &prompt, 20), ids(&fresh, &prompt, 20));
}

/// Embedding rows in another order: every key and value changes.
fn rolled_embedding(model: &Model) -> Vec<(String, TensorData)> {
    let row = model.embed.data.len() / model.embed.rows;
    let mut bytes = model.embed.data.as_slice().to_vec();
    bytes.rotate_right(row);
    let shape = [model.embed.rows, model.embed.cols];
    vec![("model.embed_tokens.weight".to_owned(), tensor(Dtype::Bf16, &shape, bytes))]
}

#[test]
fn prefixes_of_the_old_weights_are_not_found_again() {
    let model = Arc::new(load(Tiny::new(8, PRO_FP4).write().path(), None).unwrap());
    let new = Arc::new(updated(&model, rolled_embedding(&model)).unwrap());
    let fresh = Engine::from_model(new).threads(1).prefix_cache(0).build().unwrap();
    let prompt: Vec<u32> = (0..100).map(|i| i * 7 % 39).collect();
    for keep_kv in [true, false] {
        let engine = Engine::from_model(Arc::clone(&model)).threads(1).build().unwrap();
        let ask = |max_tokens| {
            let params = SamplingParams { max_tokens, ignore_eos: true, ..Default::default() };
            engine.submit(Request::new(prompt.clone()).params(params)).unwrap()
        };
        let found = |stream: kilotok::engine::TokenStream| {
            let (tokens, end) = stream.wait().unwrap();
            let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
            (ids, end.receipt.cached_tokens)
        };
        ask(1).wait().unwrap();
        // Two that share pages cross the update together.
        let mut streams = [ask(400), ask(400)];
        let mut texts = streams.each_mut().map(|stream| match stream.next() {
            Some(Ok(kilotok::engine::Event::Token(token))) => vec![token.id],
            other => panic!("{other:?}"),
        });
        engine.update_weights(rolled_embedding(&model), keep_kv).unwrap();
        let expected = ids(&fresh, &prompt, 20);
        assert_eq!(found(ask(20)), (expected.clone(), 0), "keep_kv {keep_kv}");
        assert_eq!(found(ask(20)), (expected, 96), "keep_kv {keep_kv}");
        for (stream, text) in streams.into_iter().zip(&mut texts) {
            let (rest, cached) = found(stream);
            assert_eq!(cached, 96);
            text.extend(rest);
        }
        if !keep_kv {
            for got in &texts {
                let is_switched = (1..got.len()).any(|at| {
                    let text = [&prompt, &got[..at]].concat();
                    ids(&fresh, &text, (got.len() - at) as u32) == got[at..]
                });
                assert!(is_switched, "{got:?}");
            }
        }
    }
}

#[test]
fn every_prompt_token_is_scored_once_whenever_the_weights_change() {
    let model = Arc::new(load(Tiny::new(7, PRO_FP4).write().path(), None).unwrap());
    let prompt: Vec<u32> = (0..400).map(|i| i % 39).collect();
    for updates in [0, 1, 5] {
        let engine = Engine::from_model(Arc::clone(&model)).threads(1).prefill_chunk(4);
        let engine = engine.build().unwrap();
        let params = SamplingParams {
            max_tokens: 40,
            ignore_eos: true,
            prompt_logprobs: Some(1),
            ..SamplingParams::default()
        };
        let stream = engine.submit(Request::new(prompt.clone()).params(params)).unwrap();
        for _ in 0..updates {
            engine.update_weights(rolled_head(&model), false).unwrap();
        }
        let (tokens, finished) = stream.wait().unwrap();
        assert_eq!((tokens.len(), finished.prompt_logprobs.len()), (40, prompt.len() - 1));
    }
}

#[test]
fn a_backend_that_cannot_says_so() {
    let limits =
        Limits { max_rows: 8, slots: 2, pages: 8, page_size: 16, max_positions: 64, snapshots: 0 };
    let sim = SimConfig {
        limits,
        vocab: 16,
        max_drafts: 0,
        hit_percent: 0,
        verify_time: Duration::ZERO,
        draft_time: Duration::ZERO,
    };
    let info = ModelInfo { vocab: 16, eos_token_ids: vec![0], max_drafts: 0 };
    let backend = Box::new(Rounds::new(SimExecutor::new(sim)));
    let engine = Engine::start(backend, info, EngineConfig::default()).unwrap();
    let error = engine.update_weights(Vec::new(), false).unwrap_err();
    assert!(matches!(error, Error::Unsupported { what: "update_weights", .. }), "{error}");
    engine.close();
    let error = engine.update_weights(Vec::new(), false).unwrap_err();
    assert!(matches!(error, Error::EngineDead { .. }), "{error}");
}
