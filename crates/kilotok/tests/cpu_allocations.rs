//! Law 4: a warm executor allocates nothing, on no thread.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use kilotok::SamplingParams;
use kilotok::backend::cpu::{CpuConfig, CpuExecutor, Simd};
use kilotok::backend::{
    Backend, DraftBlock, Executor, Limits, Report, Rounds, Row, SequenceInit, Work,
};
use kilotok::testing::{Formats, random_model};
use kilotok::{
    Activation, AttentionSpec, DrafterSpec, LayerSpec, MlpSpec, ModelSpec, MoeSpec, QkvLayout,
    RopeSpec, RouterKind,
};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: forwards to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(p, layout) }
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(p, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Large enough that every op goes to all threads.
fn spec() -> ModelSpec {
    let rope = RopeSpec::plain(16, 1e4);
    let attention = |window: Option<usize>| AttentionSpec {
        heads: 8,
        kv_heads: 2,
        qk_dim: 48,
        v_dim: 32,
        rope,
        window,
        sinks: window.is_some(),
        value_scale: 0.7,
        layout: QkvLayout::Fused { chunks: 2 },
        bias: false,
    };
    let moe = MoeSpec {
        experts: 8,
        top_k: 2,
        inter: 128,
        router: RouterKind::Sigmoid { normalize: true, scale: 1.0 },
        activation: Activation::Silu,
        bias: false,
    };
    let drafter = DrafterSpec {
        block_size: 8,
        mask_token_id: 1,
        taps: vec![0, 1],
        layers: 2,
        hidden: 256,
        heads: 8,
        kv_heads: 2,
        head_dim: 32,
        inter: 256,
        rope,
        windows: vec![Some(32); 2],
        causal: vec![false; 2],
        sinks: true,
        value_scale: 0.6,
        norm_eps: 1e-5,
    };
    ModelSpec {
        family: "random".to_owned(),
        hidden: 256,
        vocab: 512,
        norm_eps: 1e-5,
        max_positions: 4096,
        tied_head: false,
        layers: vec![
            LayerSpec { attention: attention(None), mlp: MlpSpec::Dense { inter: 256 } },
            LayerSpec { attention: attention(Some(16)), mlp: MlpSpec::Moe(moe) },
        ],
        drafter: Some(drafter),
        eos_token_ids: vec![0],
    }
}

/// Biases, a softmax router and clamped activations on top.
fn with_options(mut spec: ModelSpec) -> ModelSpec {
    for layer in &mut spec.layers {
        layer.attention.bias = true;
        if let MlpSpec::Moe(moe) = &mut layer.mlp {
            moe.bias = true;
            moe.router = RouterKind::Softmax;
            moe.activation = Activation::ClampedSwiGlu { alpha: 1.702, limit: 7.0 };
        }
    }
    spec
}

#[test]
fn law_4_rounds_allocate_nothing() {
    let limits = Limits {
        max_rows: 16,
        slots: 2,
        pages: 64,
        page_size: 16,
        max_positions: 512,
        snapshots: 2,
    };
    let model = random_model(spec(), Formats::mimo_fp4(), 3);
    let optional = random_model(with_options(spec()), Formats::mimo_fp4(), 3);
    for (model, simd) in [model, optional]
        .iter()
        .flat_map(|model| Simd::available().into_iter().map(move |simd| (model, simd)))
    {
        let config = CpuConfig { threads: Some(3), simd: Some(simd), limits };
        let mut executor = CpuExecutor::new(model.clone(), config).unwrap();
        for slot in 0..2 {
            executor.set_pages(slot, &(slot * 32..slot * 32 + 32).collect::<Vec<u32>>());
        }
        let mut drafts = Vec::with_capacity(64);
        let mut rows = Vec::with_capacity(16);
        let mut before = 0;
        for round in 0..40u32 {
            if round == 3 {
                before = ALLOCATIONS.load(Ordering::SeqCst);
            }
            let start = round * 8;
            rows.clear();
            for slot in 0..2 {
                rows.extend((start..start + 8).map(|position| Row {
                    slot,
                    position,
                    token: (position * 31 + slot) % 512,
                    needs_logits: true,
                }));
            }
            executor.verify(&rows);
            executor.commit(0..16);
            executor.save_state(0, start as usize, round % 2);
            drafts.clear();
            let block = |slot| DraftBlock { slot, start: start + 8, anchor: 5, drafts: 7 };
            executor.draft(&[block(0), block(1)], &mut drafts);
        }
        executor.restore_state(0, 312, 1);
        assert_eq!(ALLOCATIONS.load(Ordering::SeqCst) - before, 0, "{simd}");
        backend_rounds_allocate_nothing(executor);
    }
}

/// The same of whole rounds: greedy beside sampled with every filter and penalty. Counted in one
/// test with the executor's, because tests of one program share its allocator.
fn backend_rounds_allocate_nothing(executor: CpuExecutor) {
    let mut backend = Rounds::new(executor);
    let params = [
        SamplingParams { max_tokens: 200, ..SamplingParams::default() },
        SamplingParams {
            temperature: 0.9,
            top_k: 50,
            top_p: 0.9,
            min_p: 0.01,
            repetition_penalty: 1.1,
            frequency_penalty: 0.1,
            logit_bias: vec![(3, 1.0)],
            max_tokens: 200,
            ..SamplingParams::default()
        },
    ];
    let mut report = Report::default();
    for (slot, params) in (0..2).zip(params) {
        let sequence = SequenceInit {
            prompt: vec![5, 6, 7],
            params,
            seed: 9,
            stop_tokens: vec![],
            pages: (slot * 32..slot * 32 + 32).collect(),
            speculative: true,
            cached: None,
            constraint: None,
        };
        backend.open(slot, sequence).unwrap();
        backend.run(&[Work::Prefill { slot, start: 0, len: 3 }], 1, &mut report).unwrap();
    }
    let plan = [0, 1].map(|slot| Work::Decode { slot, drafts: 7, min_chance: 0.0 });
    backend.run(&plan, 8, &mut report).unwrap();
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    backend.run(&plan, 8, &mut report).unwrap();
    assert_eq!((report.rounds, report.tokens.is_empty()), (8, false));
    assert_eq!(ALLOCATIONS.load(Ordering::SeqCst) - before, 0, "rounds");
}
