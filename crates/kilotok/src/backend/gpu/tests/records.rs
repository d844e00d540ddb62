//! What the records compute, run one by one on the host: the target, the drafter and whole rounds
//! against the CPU backend. Activations between ops are bfloat16 here, as on a device.

use std::sync::Arc;

use crate::backend::cpu::{CpuConfig, CpuExecutor, Simd};
use crate::backend::gpu::arena::IMAGINED;
use crate::backend::gpu::executor::GpuExecutor;
use crate::backend::gpu::lower::lower;
use crate::backend::gpu::vm::Vm;
use crate::backend::{
    Backend, DraftBlock, Executor, Limits, Report, Rounds, Row, SequenceInit, Slot, Work,
};
use crate::model::Model;
use crate::sample::{SamplingParams, argmax};

pub(super) const LIMITS: Limits =
    Limits { max_rows: 24, slots: 3, pages: 40, page_size: 16, max_positions: 160, snapshots: 0 };

/// Bytes per second that the memory is said to deliver; the host's are never as many.
const RATE: f64 = 1e15;

/// What a dozen layers of bfloat16 activations do to a row, relative to its largest value.
const LIMIT: f32 = 3e-2;

/// What another expert at the end of the list does: such a change is a matter of rounding where two
/// experts are as good as each other.
const OTHER_EXPERT: f32 = 0.25;

fn on_records(model: &Model) -> GpuExecutor<Vm> {
    with_limits(model, LIMITS)
}

pub(super) fn with_limits(model: &Model, limits: Limits) -> GpuExecutor<Vm> {
    let lowered = lower(model, limits, 5, IMAGINED).unwrap();
    let vm = Vm::new(&lowered);
    let mut executor = GpuExecutor::with_device(
        &Arc::new(model.clone()),
        limits,
        lowered,
        vm,
        Vec::new(),
        Some(RATE),
    )
    .unwrap();
    executor.keep_taps(true);
    executor
}

fn on_cpu(model: &Model) -> CpuExecutor {
    let config = CpuConfig { threads: Some(1), simd: Some(Simd::detect()), limits: LIMITS };
    CpuExecutor::new(Arc::new(model.clone()), config).unwrap()
}

/// Rows that were compared, and those among them that took another expert somewhere.
#[derive(Default)]
struct Comparison {
    rows: usize,
    rerouted: usize,
}

impl Comparison {
    fn row(&mut self, got: &[f32], want: &[f32], what: &str) {
        assert_eq!(got.len(), want.len(), "{what}");
        let top = want.iter().fold(0f32, |a, b| a.max(b.abs()));
        let error = got.iter().zip(want).fold(0f32, |a, (g, w)| a.max((g - w).abs())) / top;
        assert!(error <= OTHER_EXPERT, "{what}: error {error}");
        self.rows += 1;
        self.rerouted += usize::from(error > LIMIT);
    }

    fn finish(self) {
        let Self { rows, rerouted } = self;
        assert!(rerouted * 5 <= rows, "{rerouted} of {rows} rows are beyond rounding");
    }
}

/// Tokens of no meaning.
pub(super) fn tokens(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 37 + i * i * 11 + seed * 101) % 157).collect()
}

fn feed(executor: &mut dyn Executor, slot: Slot, tokens: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let mut logits = Vec::new();
    for start in (0..tokens.len()).step_by(chunk) {
        let rows: Vec<Row> = (start..tokens.len().min(start + chunk))
            .map(|i| Row { slot, position: i as u32, token: tokens[i], needs_logits: true })
            .collect();
        executor.verify(&rows);
        executor.check().unwrap();
        logits.extend((0..rows.len()).map(|row| executor.logits(row).to_vec()));
        executor.commit(0..rows.len());
    }
    logits
}

fn compare(model: &Model) {
    let (mut records, mut cpu) = (on_records(model), on_cpu(model));
    let pages: Vec<u32> = (0..10).rev().collect();
    let tokens = tokens(21, 1);
    for executor in [&mut records as &mut dyn Executor, &mut cpu] {
        executor.set_pages(1, &pages);
    }
    let (got, want) = (feed(&mut records, 1, &tokens, 24), feed(&mut cpu, 1, &tokens, 24));
    let mut comparison = Comparison::default();
    for (row, (got, want)) in got.iter().zip(&want).enumerate() {
        comparison.row(got, want, &format!("logits of row {row}"));
        comparison.row(records.taps(row), cpu.taps(row), &format!("taps of row {row}"));
    }
    comparison.finish();
    let drafts = records.max_drafts() as u32;
    if drafts == 0 {
        return;
    }
    let block = DraftBlock { slot: 1, start: 21, anchor: 5, drafts };
    let (mut got, mut want) = (Vec::new(), Vec::new());
    records.draft(&[block], &mut got);
    records.check().unwrap();
    cpu.draft(&[block], &mut want);
    let mut comparison = Comparison::default();
    for (index, token) in got.into_iter().enumerate() {
        let logits = records.draft_logits(index).unwrap();
        comparison.row(&logits, cpu.draft_logits(index), &format!("draft {index}"));
        assert_eq!(token, argmax(&logits));
    }
    comparison.finish();
}

#[test]
fn the_demo_is_computed_as_on_the_cpu() {
    compare(&super::demo());
}

/// One of each: windows, sinks, biases, softmax routing, clamped SwiGLU, interleaved experts.
#[test]
fn a_model_like_gpt_oss_is_computed_as_on_the_cpu() {
    use crate::config::presets;
    use crate::testing::{Formats, random_model};
    let mut spec = presets::find("gpt-oss-20b").unwrap().spec().unwrap();
    (spec.hidden, spec.vocab) = (96, 160);
    spec.layers.truncate(3);
    for layer in &mut spec.layers {
        let a = &mut layer.attention;
        (a.heads, a.kv_heads, a.qk_dim, a.v_dim) = (6, 2, 16, 16);
        a.rope.dims = 16;
        a.window = a.window.map(|_| 9);
        if let crate::MlpSpec::Moe(moe) = &mut layer.mlp {
            (moe.experts, moe.inter) = (7, 160);
        }
    }
    if let Some(drafter) = &mut spec.drafter {
        (drafter.hidden, drafter.heads, drafter.kv_heads) = (96, 4, 2);
        (drafter.head_dim, drafter.inter, drafter.layers) = (16, 72, 2);
        drafter.rope.dims = 16;
        drafter.taps = vec![0, 2];
        (drafter.windows, drafter.causal) = (vec![None, Some(11)], vec![false, true]);
    }
    compare(&random_model(spec, Formats::gpt_oss(), 4));
}

/// Tokens of one request, decoded in runs of `rounds` rounds with `drafts` drafts.
pub(super) fn decode(
    backend: &mut dyn Backend,
    (prompt, params): (&[u32], &SamplingParams),
    (drafts, rounds, chunk): (usize, u32, usize),
) -> (Vec<u32>, usize) {
    let init = SequenceInit {
        prompt: prompt.to_vec(),
        params: params.clone(),
        seed: 77,
        stop_tokens: params.stop_token_ids.clone(),
        pages: (3..13).collect(),
        speculative: drafts > 0,
        cached: None,
        constraint: None,
    };
    backend.open(2, init).unwrap();
    let mut report = Report::default();
    let (mut tokens, mut accepted) = (Vec::new(), 0);
    for start in (0..prompt.len()).step_by(chunk) {
        let len = chunk.min(prompt.len() - start);
        backend.run(&[Work::Prefill { slot: 2, start, len }], 1, &mut report).unwrap();
        tokens.extend_from_slice(&report.tokens);
    }
    while report.progress.iter().all(|p| p.end.is_none()) {
        backend
            .run(&[Work::Decode { slot: 2, drafts, min_chance: 0.0 }], rounds, &mut report)
            .unwrap();
        tokens.extend_from_slice(&report.tokens);
        accepted += report.progress.iter().map(|p| p.accepted).sum::<usize>();
    }
    backend.close(2);
    (tokens, accepted)
}

/// Law 2 over records: rounds on the device, rounds of the host and plain decoding, whatever the
/// chunks, give the same tokens; greedy, sampled, and up to a stop token.
#[test]
fn rounds_over_records_are_lossless() {
    let model = super::demo();
    let mut backend = Rounds::new(on_records(&model));
    let prompt = tokens(11, 3);
    let mut accepted_in_all = 0;
    for temperature in [0.0, 0.7] {
        let free = SamplingParams {
            temperature,
            max_tokens: 12,
            ignore_eos: true,
            ..SamplingParams::default()
        };
        let (want, _) = decode(&mut backend, (&prompt, &free), (0, 1, 24));
        assert_eq!(want.len(), 12);
        let reached = backend.ceiling_fraction().unwrap();
        assert!(reached > 0.0 && reached < 1.0, "{reached}");
        for how in [(0, 5, 3), (7, 1, 24), (3, 4, 8)] {
            let (tokens, accepted) = decode(&mut backend, (&prompt, &free), how);
            assert_eq!(tokens, want, "{how:?}");
            accepted_in_all += accepted;
        }
        // Log-probabilities keep the choice on the host.
        let by_host = SamplingParams { logprobs: Some(0), ..free.clone() };
        assert_eq!(decode(&mut backend, (&prompt, &by_host), (7, 1, 24)).0, want);
        let first = want.iter().position(|token| *token == want[7]).unwrap();
        let stops = SamplingParams { stop_token_ids: vec![want[7]], ..free };
        assert_eq!(decode(&mut backend, (&prompt, &stops), (7, 3, 24)).0, want[..=first]);
    }
    assert!(accepted_in_all > 0, "the law says nothing where no draft is ever accepted");
}

/// The same with everything that may decide about a token beyond temperature: penalties look at what
/// was drafted before them, and the device counts what it emits while the host chooses in between.
#[test]
fn rounds_over_records_apply_rules_as_the_host_does() {
    let model = super::demo();
    let mut backend = Rounds::new(on_records(&model));
    let prompt = tokens(11, 3);
    let base = SamplingParams { max_tokens: 16, ignore_eos: true, ..SamplingParams::default() };
    let penalised = SamplingParams {
        repetition_penalty: 1.2,
        presence_penalty: 0.3,
        frequency_penalty: 0.4,
        ..base.clone()
    };
    let cases = [
        SamplingParams { temperature: 0.9, top_k: 4, ..base.clone() },
        SamplingParams { temperature: 1.1, top_p: 0.8, ..base.clone() },
        SamplingParams { temperature: 1.5, min_p: 0.2, ..base.clone() },
        SamplingParams { logit_bias: vec![(7, 9.0), (101, -4.0)], ..base },
        SamplingParams { top_k: 3, ..penalised.clone() },
        SamplingParams {
            temperature: 0.8,
            top_k: 30,
            top_p: 0.9,
            min_p: 0.02,
            logit_bias: vec![(7, 3.0)],
            ..penalised
        },
    ];
    for params in cases {
        // Log-probabilities keep the choice on the host.
        let by_host = SamplingParams { logprobs: Some(0), ..params.clone() };
        let (want, _) = decode(&mut backend, (&prompt, &by_host), (0, 1, 24));
        for how in [(0, 5, 3), (7, 1, 24), (3, 4, 8)] {
            assert_eq!(decode(&mut backend, (&prompt, &params), how).0, want, "{params:?} {how:?}");
        }
    }
}

/// A sequence that decodes beside one whose tokens the host has to choose, and then alone.
#[test]
fn what_the_host_chose_counts_on_the_device() {
    let model = super::demo();
    let mut backend = Rounds::new(on_records(&model));
    let params = SamplingParams {
        max_tokens: 24,
        frequency_penalty: 0.8,
        ignore_eos: true,
        ..SamplingParams::default()
    };
    let prompt = tokens(9, 5);
    let (want, _) = decode(
        &mut backend,
        (&prompt, &SamplingParams { logprobs: Some(0), ..params.clone() }),
        (0, 1, 24),
    );
    let mut open = |slot: Slot, params: &SamplingParams, pages: std::ops::Range<u32>| {
        let init = SequenceInit {
            prompt: prompt.clone(),
            params: params.clone(),
            seed: 77,
            stop_tokens: Vec::new(),
            pages: pages.collect(),
            speculative: false,
            cached: None,
            constraint: None,
        };
        backend.open(slot, init).unwrap();
    };
    open(0, &params, 0..10);
    open(1, &SamplingParams { logprobs: Some(0), ..params.clone() }, 10..20);
    let (mut report, mut got) = (Report::default(), Vec::new());
    let prefill = |slot| Work::Prefill { slot, start: 0, len: 9 };
    let step = |slot| Work::Decode { slot, drafts: 0, min_chance: 0.0 };
    let both: [&[Work]; 2] = [&[prefill(0), prefill(1)], &[step(0), step(1)]];
    let plans = [both[0], both[1], &[step(0)], both[1], both[1], &[step(0)], &[step(0)], both[1]];
    for plan in plans {
        backend.run(plan, 3, &mut report).unwrap();
        for progress in report.progress.iter().filter(|p| p.slot == 0) {
            got.extend_from_slice(&report.tokens[progress.tokens.clone()]);
        }
    }
    assert!(got.len() > 12, "{}", got.len());
    assert_eq!(got, want[..got.len()]);
}
