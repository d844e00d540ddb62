//! What `Engine.info` and `Engine.memory` report.

use kilotok::engine::Engine;
use kilotok::{ExpertWeights, Matrix, MlpSpec, MlpWeights, Model, ModelSpec, QkvWeights};
use pyo3::prelude::*;
use serde_json::{Value, json};

/// Kept of a model after its weights went to the backend.
pub(crate) struct Info {
    spec: ModelSpec,
    weight_bytes: usize,
}

impl Info {
    pub(crate) fn of(model: &Model) -> Self {
        Self { spec: model.spec.clone(), weight_bytes: model_bytes(model) }
    }

    /// The model's shape and the engine's limits.
    pub(crate) fn describe(&self, engine: &Engine) -> Value {
        let spec = &self.spec;
        let (limits, backend) = (engine.limits(), engine.backend());
        let moe = spec.layers.iter().find_map(|layer| match &layer.mlp {
            MlpSpec::Moe(moe) => Some(json!({"experts": moe.experts, "top_k": moe.top_k})),
            MlpSpec::Dense { .. } => None,
        });
        let drafter = spec.drafter.as_ref().map(|drafter| {
            json!({
                "block_size": drafter.block_size,
                "layers": drafter.layers,
                "taps": drafter.taps,
            })
        });
        json!({
            "family": spec.family,
            "hidden": spec.hidden,
            "vocab": spec.vocab,
            "layers": spec.layers.len(),
            "sliding_layers": spec.layers.iter().filter(|l| l.attention.window.is_some()).count(),
            "moe": moe,
            "drafter": drafter,
            "eos_token_ids": spec.eos_token_ids,
            "device": backend.device,
            "gpu": backend.gpu,
            "choice": backend.choice,
            "simd": backend.simd,
            "threads": backend.threads,
            "max_batch": limits.slots,
            "max_positions": limits.max_positions,
            "kv_tokens": limits.pages * limits.page_size,
        })
    }

    /// Bytes by what holds them.
    pub(crate) fn memory(&self, engine: &Engine) -> Value {
        let mut bytes = serde_json::Map::new();
        // On a GPU the weights are among the backend's own purposes.
        if engine.backend().device == "cpu" {
            bytes.insert("weights".into(), self.weight_bytes.into());
        }
        for (purpose, size) in &engine.backend().memory {
            bytes.insert(purpose.replace(' ', "_"), (*size).into());
        }
        Value::Object(bytes)
    }
}

/// A JSON value as Python objects.
pub(crate) fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    PyModule::import(py, "json")?.call_method1("loads", (value.to_string(),))
}

/// Bytes of all matrices; norms and other vectors are too small to count.
fn model_bytes(model: &Model) -> usize {
    let swiglu = |e: &ExpertWeights| e.gate.num_bytes() + e.up.num_bytes() + e.down.num_bytes();
    let layers = model.layers.iter().map(|layer| {
        let qkv = match &layer.attention.qkv {
            QkvWeights::Fused(fused) => fused.num_bytes(),
            QkvWeights::Split(parts) => parts.iter().map(Matrix::num_bytes).sum(),
        };
        let mlp = match &layer.mlp {
            MlpWeights::Dense(dense) => swiglu(dense),
            MlpWeights::Moe { router, experts, .. } => {
                router.num_bytes() + experts.iter().map(swiglu).sum::<usize>()
            }
        };
        qkv + layer.attention.o_proj.num_bytes() + mlp
    });
    let drafter = model.drafter.as_ref().map_or(0, |drafter| {
        let layers = drafter.layers.iter().map(|l| {
            let attention = [&l.q_proj, &l.k_proj, &l.v_proj, &l.o_proj];
            attention.map(Matrix::num_bytes).iter().sum::<usize>() + swiglu(&l.mlp)
        });
        drafter.fc.num_bytes() + layers.sum::<usize>()
    });
    let head = if model.spec.tied_head { 0 } else { model.lm_head.num_bytes() };
    model.embed.num_bytes() + head + layers.sum::<usize>() + drafter
}
