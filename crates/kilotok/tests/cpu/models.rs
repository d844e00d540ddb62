//! Random tiny models with odd sizes.

use std::sync::Arc;

use kilotok::backend::cpu::{CpuConfig, CpuExecutor, Simd};
use kilotok::backend::{Executor, Limits};
use kilotok::testing::{Formats, Rng, Stored, random_model};
use kilotok::{
    Activation, AttentionSpec, DrafterSpec, LayerSpec, MlpSpec, Model, ModelSpec, MoeSpec,
    QkvLayout, RopeSpec, RouterKind, YarnSpec,
};

pub(crate) const LIMITS: Limits =
    Limits { max_rows: 24, slots: 4, pages: 40, page_size: 8, max_positions: 80, snapshots: 0 };

/// A model with full and sliding layers, dense and routed feed-forwards and a drafter.
///
/// `windows` are those of the sliding layers and of the drafter.
pub(crate) fn model(seed: u64, formats: Formats, windows: (usize, usize)) -> Arc<Model> {
    let mut rng = Rng(seed);
    let spec = spec(&mut rng, formats, windows);
    random_model(spec, formats, rng.bits())
}

/// As [`model`] with everything optional switched on: biases, sinks in every layer, YaRN in target
/// and drafter, a softmax router, clamped activations, gate and up rows that alternate.
pub(crate) fn biased(seed: u64, formats: Formats, windows: (usize, usize)) -> Arc<Model> {
    let mut rng = Rng(seed);
    let mut spec = spec(&mut rng, formats, windows);
    // The original positions are fewer than a sequence has, and the ramp is inside the head.
    let yarn = Some(YarnSpec {
        factor: 8.0,
        original_positions: 20,
        beta_fast: 2.5,
        beta_slow: 0.4,
        truncate: seed % 2 == 0,
        attention_factor: 1.2,
    });
    for layer in &mut spec.layers {
        let a = &mut layer.attention;
        a.bias = true;
        a.sinks = true;
        a.rope = RopeSpec { dims: 20, theta: 40.0, yarn };
        if let MlpSpec::Moe(moe) = &mut layer.mlp {
            moe.bias = true;
            moe.router = RouterKind::Softmax;
            // Low enough that both clamps bite.
            moe.activation = Activation::ClampedSwiGlu { alpha: 1.702, limit: 0.8 };
        }
    }
    if let Some(drafter) = &mut spec.drafter {
        drafter.rope.yarn = yarn;
        drafter.rope.theta = 40.0;
    }
    random_model(spec, formats, rng.bits())
}

fn spec(rng: &mut Rng, formats: Formats, windows: (usize, usize)) -> ModelSpec {
    let mxfp4 = |s: Stored| s == Stored::Mxfp4;
    // Widths that fill neither vectors nor chunks, unless the format wants whole blocks of 32.
    let odd = |rng: &mut Rng, blocks: bool| {
        if blocks { 32 * (1 + rng.below(7)) } else { 33 + rng.below(150) }
    };
    let any = [formats.embed, formats.qkv, formats.router, formats.experts, formats.dense];
    let hidden = odd(rng, any.into_iter().any(mxfp4) || mxfp4(formats.drafter));
    let kv_heads = 1 + rng.below(3);
    let heads = kv_heads * [1, 3, 4, 11][rng.below(4)];
    // o_proj's columns are heads * v_dim.
    let v_dim = if mxfp4(formats.o_proj) { 32 } else { 3 + rng.below(30) };
    let attention = |window: Option<usize>, layout| AttentionSpec {
        heads,
        kv_heads,
        qk_dim: 20,
        v_dim,
        rope: RopeSpec::plain(6, if window.is_some() { 1e4 } else { 1e6 }),
        window,
        sinks: window.is_some(),
        value_scale: 0.7,
        layout,
        bias: false,
    };
    let dense = MlpSpec::Dense { inter: odd(rng, mxfp4(formats.dense)) };
    let moe = MlpSpec::Moe(MoeSpec {
        experts: 5 + rng.below(6),
        top_k: 1 + rng.below(4),
        inter: odd(rng, mxfp4(formats.experts)),
        router: RouterKind::Sigmoid { normalize: true, scale: 1.25 },
        activation: Activation::Silu,
        bias: false,
    });
    let fused = QkvLayout::Fused { chunks: kv_heads };
    let layers = vec![
        LayerSpec { attention: attention(None, QkvLayout::Split), mlp: dense },
        LayerSpec { attention: attention(Some(windows.0), fused), mlp: moe.clone() },
        LayerSpec { attention: attention(None, fused), mlp: moe },
    ];
    let drafter = DrafterSpec {
        block_size: 6,
        mask_token_id: 3,
        taps: vec![0, 2],
        layers: 2,
        hidden,
        heads: 6,
        kv_heads: 2,
        head_dim: if mxfp4(formats.drafter) { 16 } else { 14 },
        inter: odd(rng, mxfp4(formats.drafter)),
        rope: RopeSpec::plain(8, 1e4),
        windows: vec![Some(windows.1), None],
        causal: vec![false, true],
        sinks: true,
        value_scale: 0.6,
        norm_eps: 1e-6,
    };
    ModelSpec {
        family: "random".to_owned(),
        hidden,
        vocab: 101,
        norm_eps: 1e-5,
        max_positions: 4096,
        tied_head: false,
        layers,
        drafter: Some(drafter),
        eos_token_ids: vec![0],
    }
}

/// The formats every property is checked with.
pub(crate) fn formats() -> Vec<Formats> {
    let mut formats: Vec<Formats> =
        [Stored::F32, Stored::Bf16, Stored::Fp8].map(Formats::all).to_vec();
    formats.push(Formats { drafter: Stored::Mxfp4, ..Formats::mimo_fp4() });
    formats.push(Formats { drafter: Stored::Fp8, ..Formats::all(Stored::Mxfp4) });
    formats
}

/// An executor whose slots have pages in scrambled order.
pub(crate) fn executor(model: &Arc<Model>, simd: Simd, threads: usize) -> CpuExecutor {
    executor_with(model, simd, threads, LIMITS)
}

/// As [`executor`], with other limits.
pub(crate) fn executor_with(
    model: &Arc<Model>,
    simd: Simd,
    threads: usize,
    limits: Limits,
) -> CpuExecutor {
    let config = CpuConfig { threads: Some(threads), simd: Some(simd), limits };
    let mut executor = CpuExecutor::new(Arc::clone(model), config).unwrap();
    let per_slot = limits.pages / limits.slots;
    for slot in 0..limits.slots {
        let pages: Vec<u32> = (0..per_slot)
            .map(|i| ((slot + (i * 3 + 1) % per_slot * limits.slots) % limits.pages) as u32)
            .collect();
        executor.set_pages(slot as u32, &pages);
    }
    executor
}
