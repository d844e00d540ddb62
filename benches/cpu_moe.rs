//! Decode and prefill of a synthetic 1 GB MXFP4 mixture of experts on the CPU backend, beside
//! the read bandwidth measured in the same run.
//!
//! `cargo bench -p kilotok --bench cpu_moe`, options after `--`: `simd=avx2`, `threads=1`,
//! `clock=cpu`, and `model=DIR` for a checkpoint in place of the synthetic model.
//! Prints one JSON object; ratios are meant to be read, absolute figures belong to the machine.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark reports and may fail")]

use std::hint::black_box;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use kilotok::backend::cpu::{CpuConfig, CpuExecutor, Simd};
use kilotok::backend::{DraftBlock, Executor, Limits, Row};
use kilotok::testing::{Formats, Rng, random_model};
use kilotok::{
    Activation, AttentionSpec, ExpertWeights, LayerSpec, MlpSpec, MlpWeights, Model, ModelSpec,
    MoeSpec, QkvLayout, QkvWeights, RopeSpec, RouterKind,
};

const LAYERS: usize = 5;
const CHUNK: usize = 64;
/// Largest of the timings is dropped with the rest: the median is what is reported.
const REPEATS: usize = 5;
const DECODED: usize = 24;

/// Shapes in MiMo-V2's proportions (heads * `v_dim` = hidden, experts of half the width).
fn spec() -> ModelSpec {
    let attention = AttentionSpec {
        heads: 16,
        kv_heads: 4,
        qk_dim: 192,
        v_dim: 128,
        rope: RopeSpec::plain(64, 1e4),
        window: Some(128),
        sinks: true,
        value_scale: 0.612,
        layout: QkvLayout::Fused { chunks: 4 },
        bias: false,
    };
    let moe = MoeSpec {
        experts: 64,
        top_k: 8,
        inter: 1024,
        router: RouterKind::Sigmoid { normalize: true, scale: 1.0 },
        activation: Activation::Silu,
        bias: false,
    };
    let layer = LayerSpec { attention, mlp: MlpSpec::Moe(moe) };
    ModelSpec {
        family: "bench".to_owned(),
        hidden: 2048,
        vocab: 16384,
        norm_eps: 1e-5,
        max_positions: 4096,
        tied_head: false,
        layers: vec![layer; LAYERS],
        drafter: None,
        eos_token_ids: vec![0],
    }
}

/// Bytes of weights that one row reads: everything but the experts that were not selected, and
/// one row of the embedding.
fn bytes_per_token(model: &Model) -> usize {
    let expert = |e: &ExpertWeights| e.gate.num_bytes() + e.up.num_bytes() + e.down.num_bytes();
    let layer = |(l, s): (&kilotok::LayerWeights, &LayerSpec)| {
        let qkv = match &l.attention.qkv {
            QkvWeights::Fused(m) => m.num_bytes(),
            QkvWeights::Split(m) => m.iter().map(kilotok::Matrix::num_bytes).sum(),
        };
        let mlp = match (&l.mlp, &s.mlp) {
            (MlpWeights::Moe { router, experts, .. }, MlpSpec::Moe(moe)) => {
                router.num_bytes() + moe.top_k * expert(&experts[0])
            }
            (MlpWeights::Dense(mlp), _) => expert(mlp),
            _ => 0,
        };
        qkv + l.attention.o_proj.num_bytes() + mlp
    };
    let layers: usize = model.layers.iter().zip(&model.spec.layers).map(layer).sum();
    layers + model.lm_head.num_bytes()
}

fn model_bytes(model: &Model) -> usize {
    let experts = model.layers.iter().map(|l| match &l.mlp {
        MlpWeights::Moe { experts, .. } => {
            experts.iter().map(|e| e.gate.num_bytes() + e.up.num_bytes() + e.down.num_bytes()).sum()
        }
        MlpWeights::Dense(_) => 0,
    });
    experts.sum::<usize>()
}

/// Bytes per second of summing a buffer larger than the caches, all threads together.
fn read_bandwidth(threads: usize) -> f64 {
    const WORDS: usize = 1 << 27; // 1 GiB of u64
    let buffer: Vec<u64> = (0..WORDS as u64).collect();
    let pass = || {
        let sum = |part: &[u64]| {
            let mut sums = [0u64; 32];
            for line in part.chunks_exact(32) {
                for (sum, word) in sums.iter_mut().zip(line) {
                    *sum = sum.wrapping_add(*word);
                }
            }
            black_box(sums);
        };
        let start = now();
        std::thread::scope(|scope| {
            let mut parts = buffer.chunks(WORDS.div_ceil(threads));
            let mine = parts.next().unwrap_or(&[]);
            for part in parts {
                scope.spawn(move || sum(part));
            }
            sum(mine);
        });
        (WORDS * 8) as f64 / (now() - start)
    };
    median((0..REPEATS).map(|_| pass()))
}

/// Seconds of wall time; with `clock=cpu` (and `threads=1`) of this thread's time on a core,
/// which other processes do not disturb.
fn now() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    if option("clock").as_deref() == Some("cpu") {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        let nanoseconds: f64 = stat.split_whitespace().next().unwrap().parse().unwrap();
        return nanoseconds / 1e9;
    }
    START.elapsed().as_secs_f64()
}

fn option(name: &str) -> Option<String> {
    std::env::args().find_map(|a| a.strip_prefix(&format!("{name}=")).map(str::to_owned))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let simd: Simd = option("simd").map_or_else(Simd::detect, |s| s.parse().unwrap());
    let threads = option("threads").map(|t| t.parse().unwrap());
    let model = match option("model") {
        None => random_model(spec(), Formats::mimo_fp4(), 1),
        Some(dir) => Arc::new(kilotok::weights::load(Path::new(&dir), None).unwrap()),
    };
    let vocab = model.spec.vocab;
    let limits = Limits {
        max_rows: CHUNK,
        slots: 1,
        pages: 64,
        page_size: 64,
        max_positions: 4096,
        snapshots: 0,
    };
    let config = CpuConfig { threads, simd: Some(simd), limits };
    let mut executor = CpuExecutor::new(Arc::clone(&model), config).unwrap();
    let mut rng = Rng(2);
    let mut position = 0;
    let mut feed = |executor: &mut CpuExecutor, rows: usize| {
        let rows: Vec<Row> = (0..rows)
            .map(|i| Row {
                slot: 0,
                position: (position + i) as u32,
                token: rng.below(vocab) as u32,
                needs_logits: i + 1 == rows,
            })
            .collect();
        position += rows.len();
        let start = now();
        executor.verify(&rows);
        now() - start
    };
    executor.set_pages(0, &(0..64).collect::<Vec<u32>>());
    feed(&mut executor, CHUNK);
    let prefill = median((0..REPEATS).map(|_| feed(&mut executor, CHUNK)));
    feed(&mut executor, 1);
    let verify = median((0..REPEATS).map(|_| feed(&mut executor, 8)));
    let decode = median((0..DECODED).map(|_| feed(&mut executor, 1)));
    let block = DraftBlock { slot: 0, start: position as u32, anchor: 1, drafts: 7 };
    let mut drafts = Vec::with_capacity(8);
    let draft = median((0..REPEATS).map(|_| {
        let start = now();
        executor.draft(&[block], &mut drafts);
        now() - start
    }));
    let bandwidth = read_bandwidth(executor.threads());
    let bytes = bytes_per_token(&model) as f64;
    let report = serde_json::json!({
        "bench": "cpu_moe",
        "simd": simd.to_string(),
        "threads": executor.threads(),
        "expert_bytes": model_bytes(&model),
        "bytes_per_token": bytes,
        "read_bandwidth_gb_s": bandwidth / 1e9,
        "decode_ms": decode * 1e3,
        "decode_gb_s": bytes / decode / 1e9,
        "decode_fraction_of_bandwidth": bytes / decode / bandwidth,
        "verify8_ms": verify * 1e3,
        "draft7_ms": (executor.max_drafts() >= 7).then_some(draft * 1e3),
        "prefill64_ms": prefill * 1e3,
        "prefill_ms_per_token": prefill * 1e3 / CHUNK as f64,
        "prefill_over_decode": decode / (prefill / CHUNK as f64),
    });
    println!("{report:#}");
}
