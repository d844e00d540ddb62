//! Shares, bytes and patterns, and the whole measurement on the host's stand-in.

use super::fill::{Pattern, pieces};
use super::timing::Bench;
use super::*;
use crate::backend::gpu::load;
use crate::backend::gpu::lower::{Content, Lowered, Upload};
use crate::backend::gpu::validate::validate;
use crate::backend::gpu::vm::Vm;
use crate::spec::MlpSpec;
use crate::spec::ModelSpec;
use crate::testing::random_model;
use crate::weights::repack::StepFormat;

fn asked(preset: &str, rank_of: usize) -> Synthetic {
    Synthetic {
        preset: preset.into(),
        rank_of,
        mode: Mode::Persistent,
        rows: vec![1, 8],
        context: 1024,
        block: 8,
        accept: vec![6.3, 4.3],
        device: 0,
        is_traced: false,
    }
}

#[test]
fn ranks_together_are_the_model() {
    for (preset, ranks) in [
        ("mimo-v2.5-pro-fp4-dflash", 8),
        ("mimo-v2.5", 4),
        ("mimo-v2-flash", 4),
        ("gpt-oss-20b", 2),
    ] {
        let bytes = |ranks: usize| {
            let model = asked(preset, ranks).model().unwrap();
            let lowered =
                lower::lower(&model, asked(preset, ranks).limits(), 132, arena::IMAGINED).unwrap();
            validate(&lowered).unwrap();
            let of = |part: &str| -> u64 {
                let named = lowered.regions.iter().filter(|r| r.name.contains(part));
                named.map(|r| r.bytes).sum()
            };
            (of("experts.gate_up") + of("experts.down"), of("qkv"), of("router"))
        };
        let (whole, share) = (bytes(1), bytes(ranks));
        let near = |a: u64, b: u64| (a as f64 / b as f64 - 1.0).abs() < 0.02;
        assert!(near(share.0 * ranks as u64, whole.0), "{preset}: {share:?} of {whole:?}");
        assert!(near(share.1 * ranks as u64, whole.1), "{preset}: {share:?} of {whole:?}");
        assert_eq!(share.2, whole.2, "{preset}");
    }
}

#[test]
fn a_rank_of_the_largest_model_is_71_gigabytes() {
    let memory = asked("mimo-v2.5-pro", 8).memory(132).unwrap();
    let weights = memory[0].1 as f64 / 1e9;
    assert!((66.0..76.0).contains(&weights), "{weights} GB");
}

#[test]
fn what_cannot_be_measured_is_refused_by_name() {
    let refusal = |asked: Synthetic| asked.model().unwrap_err().to_string();
    assert!(refusal(asked("mimo-v3", 1)).contains("preset"));
    for ranks in [0, 3, 64] {
        assert!(refusal(asked("mimo-v2.5-pro", ranks)).contains("rank_of"), "{ranks}");
    }
    let gpt = || asked("gpt-oss-20b", 1);
    for rows in [vec![], vec![0], vec![1, 9]] {
        assert!(refusal(Synthetic { rows, ..gpt() }).contains("rows"));
    }
    for block in [1, 9] {
        assert!(refusal(Synthetic { block, accept: vec![], ..gpt() }).contains("block"));
    }
    for accept in [0.5, 8.5, f64::NAN] {
        assert!(refusal(Synthetic { accept: vec![accept], ..gpt() }).contains("accept"));
    }
    assert!(refusal(Synthetic { context: 0, ..gpt() }).contains("context"));
    let traced = Synthetic { mode: Mode::Graph, is_traced: true, ..gpt() };
    assert!(refusal(traced).contains("graph mode has none"));
}

#[test]
fn patterns_are_whole_steps_of_small_finite_values() {
    for pattern in Pattern::ALL {
        let bytes = pattern.bytes().unwrap();
        let values: Vec<f32> = match pattern {
            Pattern::Steps(format) => {
                assert_eq!(bytes.len() % format.bytes(), 0);
                let tiles = bytes.len() / format.bytes();
                let shape = crate::weights::repack::StepShape::new(format, tiles, format.cols());
                crate::weights::repack::unpack::unpack(&shape, &bytes).concat()
            }
            Pattern::Bf16Rows => {
                let mut out = vec![0.0; bytes.len() / 2];
                crate::numeric::bf16::decode_row(&bytes, &mut out);
                out
            }
            Pattern::F32Rows => {
                let whole = bytes.chunks_exact(4);
                whole.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
        };
        let squares: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
        let deviation = (squares / values.len() as f64).sqrt();
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
        assert!((0.01..0.1).contains(&deviation), "{pattern:?}: {deviation}");
        assert!(mean.abs() < 0.001, "{pattern:?}: {mean}");
    }
    assert_eq!(Pattern::Steps(StepFormat::Fp8).bytes().unwrap().len() % 32, 0);
}

#[test]
fn the_whole_measurement_runs_on_the_host() {
    let mut spec = presets::find("gpt-oss-20b").unwrap().spec().unwrap();
    (spec.hidden, spec.vocab) = (128, 96);
    spec.layers.truncate(3);
    for layer in &mut spec.layers {
        (layer.attention.heads, layer.attention.kv_heads) = (4, 2);
        let MlpSpec::Moe(moe) = &mut layer.mlp else { panic!("dense") };
        (moe.experts, moe.inter) = (16, 64);
    }
    let drafter = spec.drafter.as_mut().unwrap();
    (drafter.hidden, drafter.heads, drafter.kv_heads, drafter.inter) = (128, 4, 2, 64);
    (drafter.taps, drafter.layers, drafter.mask_token_id) = (vec![0, 1], 1, 95);
    drafter.windows.truncate(1);
    drafter.causal.truncate(1);
    let model = random_model(spec, Formats::gpt_oss(), 3);
    let asked = Synthetic { context: 40, rows: vec![1, 8], ..asked("gpt-oss-20b", 1) };
    let lowered = lower::lower(&model, asked.limits(), 2, arena::IMAGINED).unwrap();
    let mut bench = Bench::new(Vm::new(&lowered), &lowered, 96, 40);
    let (passes, rounds) = bench.measure(&asked).unwrap();
    // One row has its top 4; eight rows of 4 among 16 have more, and never more than all.
    assert!((passes[0].experts - 4.0).abs() < 1e-9, "{passes:?}");
    assert!(passes[1].experts > 4.0 && passes[1].experts <= 16.0, "{passes:?}");
    assert!(passes[1].bytes > passes[0].bytes && passes[1].ms > 0.0);
    let rounds = rounds.unwrap();
    assert_eq!((rounds.block, rounds.forced.len()), (8, 2));
    assert!((1.0..=8.0).contains(&rounds.device_accept), "{rounds:?}");
    assert!(rounds.forced.iter().all(|round| round.ms > rounds.draft_ms + rounds.verify_ms));
}

/// A preset, narrow: what is as wide as the residual stays so.
fn narrow(preset: &str) -> ModelSpec {
    const WIDTH: usize = 320;
    let mut spec = rank::share(presets::find(preset).unwrap().spec().unwrap(), 4).unwrap();
    let whole = presets::find(preset).unwrap().spec().unwrap().hidden;
    let narrower = |width: usize| if width * 4 == whole { WIDTH } else { 192 };
    (spec.hidden, spec.vocab) = (WIDTH, 1000);
    spec.layers.truncate(24);
    for layer in &mut spec.layers {
        match &mut layer.mlp {
            MlpSpec::Dense { inter } => *inter = narrower(*inter),
            MlpSpec::Moe(moe) => (moe.experts, moe.inter) = (16, narrower(moe.inter)),
        }
    }
    if let Some(drafter) = &mut spec.drafter {
        (drafter.hidden, drafter.inter, drafter.mask_token_id) = (WIDTH, 192, 999);
        drafter.taps = (0..drafter.taps.len()).collect();
    }
    spec
}

/// The stand-in with what [`super::fill::fill`] brings to a card.
fn filled(lowered: &Lowered<'_>, patterns: &[(Pattern, Vec<u8>)]) -> Vm {
    let mut vm = Vm::empty(lowered);
    for (pattern, bytes) in patterns {
        for Upload { address, content } in &lowered.uploads {
            if Pattern::of(content) == Some(*pattern) {
                for range in pieces(content.bytes(), bytes.len()) {
                    let len = (range.end - range.start) as usize;
                    vm.load(address + range.start, &bytes[..len]);
                }
            }
        }
    }
    for Upload { address, content } in &lowered.uploads {
        if matches!(content, Content::Floats(_) | Content::Doubles(_)) {
            let mut values = vec![0; content.bytes() as usize];
            load::fill(content, 0, &mut values, 1).unwrap();
            vm.load(*address, &values);
        }
    }
    vm
}

/// Random weights give logits that are numbers and differ, whatever the depth of the model.
#[test]
fn random_weights_of_every_preset_have_logits() {
    let patterns = Pattern::ALL.map(|pattern| (pattern, pattern.bytes().unwrap()));
    for preset in presets::ALL {
        let spec = narrow(preset.name);
        let vocab = spec.vocab;
        let model = hollow_model(spec, Synthetic::formats(preset.name));
        let asked = Synthetic { context: 3, ..asked(preset.name, 1) };
        let lowered = lower::lower(&model, asked.limits(), 3, arena::IMAGINED).unwrap();
        validate(&lowered).unwrap();
        let mut bench = Bench::new(filled(&lowered, &patterns), &lowered, vocab, 3);
        bench.pass(2).unwrap_or_else(|error| panic!("{}: {error}", preset.name));
    }
}
