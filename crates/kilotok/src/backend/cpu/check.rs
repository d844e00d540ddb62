//! A model whose weights do not have the shapes its spec promises is refused before any kernel
//! sees it: the kernels read through raw pointers.

use super::super::Limits;
use super::linear::{data_bytes, scale_len};
use crate::error::{Error, Result};
use crate::matrix::{Format, Matrix};
use crate::model::{ExpertBias, ExpertWeights, MlpWeights, Model, QkvWeights, Vector};
use crate::numeric::mxfp4;
use crate::spec::MlpSpec;

/// Checks one matrix against its shape and format.
fn matrix(name: &str, m: &Matrix, rows: usize, cols: usize) -> Result<()> {
    let fail = |reason: String| Err(Error::model_format(name, reason));
    if (m.rows, m.cols) != (rows, cols) {
        return fail(format!("shape is [{}, {}], expected [{rows}, {cols}]", m.rows, m.cols));
    }
    match &m.format {
        Format::Mxfp4 { .. } if cols % mxfp4::BLOCK != 0 => {
            return fail(format!("{cols} columns, expected a multiple of 32 for MXFP4"));
        }
        Format::Fp8 { rows_per_chunk: 0, .. } => {
            return fail("rows_per_chunk is 0, expected at least 1".to_owned());
        }
        Format::Fp8 { .. } if m.row_step != 1 => {
            return fail(format!("row_step is {}, expected 1 for FP8", m.row_step));
        }
        _ if m.row_step == 0 => return fail("row_step is 0, expected at least 1".to_owned()),
        _ => {}
    }
    if data_bytes(m) != Some(m.data.len()) {
        return fail(format!("{} bytes, expected {:?}", m.data.len(), data_bytes(m)));
    }
    let (scales, expected) = match &m.format {
        Format::F32 | Format::Bf16 => return Ok(()),
        Format::Fp8 { scales, .. } => (scales.len(), scale_len(m)),
        Format::Mxfp4 { scales } => (scales.len(), scale_len(m)),
    };
    if scales != expected {
        return fail(format!("{scales} scales, expected {expected}"));
    }
    Ok(())
}

/// Checks the length of one vector.
fn vector(name: &str, v: &[f32], len: usize) -> Result<()> {
    if v.len() == len {
        Ok(())
    } else {
        Err(Error::model_format(name, format!("length is {}, expected {len}", v.len())))
    }
}

/// Checks a vector that is there where the spec says so.
fn optional(name: &str, v: Option<&[f32]>, len: usize, expected: bool) -> Result<()> {
    match (v, expected) {
        (Some(v), true) => vector(name, v, len),
        (None, false) => Ok(()),
        (found, _) => Err(Error::model_format(
            name,
            format!("present is {}, but the spec says {expected}", found.is_some()),
        )),
    }
}

fn swiglu(
    name: &str,
    mlp: &ExpertWeights,
    (hidden, inter): (usize, usize),
    bias: bool,
) -> Result<()> {
    matrix(&format!("{name}.gate"), &mlp.gate, inter, hidden)?;
    matrix(&format!("{name}.up"), &mlp.up, inter, hidden)?;
    matrix(&format!("{name}.down"), &mlp.down, hidden, inter)?;
    let of = |part: fn(&ExpertBias) -> &Vector| mlp.bias.as_ref().map(|b| &**part(b));
    optional(&format!("{name}.gate.bias"), of(|b| &b.gate), inter, bias)?;
    optional(&format!("{name}.up.bias"), of(|b| &b.up), inter, bias)?;
    optional(&format!("{name}.down.bias"), of(|b| &b.down), hidden, bias)
}

/// Checks every tensor of `model` against its spec.
pub(in crate::backend) fn model(model: &Model) -> Result<()> {
    let spec = &model.spec;
    let hidden = spec.hidden;
    let spec_error = |reason: String| Err(Error::model_format("spec", reason));
    matrix("embed", &model.embed, spec.vocab, hidden)?;
    matrix("lm_head", &model.lm_head, spec.vocab, hidden)?;
    vector("norm", &model.norm, hidden)?;
    if model.layers.len() != spec.layers.len() {
        return spec_error(format!(
            "{} layers of weights, expected {}",
            model.layers.len(),
            spec.layers.len()
        ));
    }
    for (i, (layer, s)) in model.layers.iter().zip(&spec.layers).enumerate() {
        let name = |part: &str| format!("layers.{i}.{part}");
        let a = &s.attention;
        if a.kv_heads == 0 || a.heads % a.kv_heads != 0 || a.window == Some(0) {
            return spec_error(name("attention: kv_heads must divide heads, window be at least 1"));
        }
        if a.rope.dims > a.qk_dim || a.rope.dims % 2 != 0 {
            return spec_error(name("attention.rope: dims must be even and at most qk_dim"));
        }
        vector(&name("input_norm"), &layer.input_norm, hidden)?;
        vector(&name("post_norm"), &layer.post_norm, hidden)?;
        match &layer.attention.qkv {
            QkvWeights::Fused(m) => matrix(&name("qkv"), m, a.head_map().width, hidden)?,
            QkvWeights::Split(m) => {
                matrix(&name("q_proj"), &m[0], a.heads * a.qk_dim, hidden)?;
                matrix(&name("k_proj"), &m[1], a.kv_heads * a.qk_dim, hidden)?;
                matrix(&name("v_proj"), &m[2], a.kv_heads * a.v_dim, hidden)?;
            }
        }
        matrix(&name("o_proj"), &layer.attention.o_proj, hidden, a.heads * a.v_dim)?;
        let w = &layer.attention;
        optional(&name("qkv.bias"), w.qkv_bias.as_deref(), a.head_map().width, a.bias)?;
        optional(&name("o_proj.bias"), w.o_bias.as_deref(), hidden, a.bias)?;
        optional(&name("sinks"), w.sinks.as_deref(), a.heads, a.sinks)?;
        match (&layer.mlp, &s.mlp) {
            (MlpWeights::Dense(mlp), MlpSpec::Dense { inter }) => {
                swiglu(&name("mlp"), mlp, (hidden, *inter), false)?;
            }
            (MlpWeights::Moe { router, router_bias, experts }, MlpSpec::Moe(moe)) => {
                if moe.top_k == 0 || moe.top_k > moe.experts || experts.len() != moe.experts {
                    return spec_error(name("mlp: top_k and experts do not fit the weights"));
                }
                matrix(&name("router"), router, moe.experts, hidden)?;
                vector(&name("router_bias"), router_bias, moe.experts)?;
                for (e, expert) in experts.iter().enumerate() {
                    let name = name(&format!("experts.{e}"));
                    swiglu(&name, expert, (hidden, moe.inter), moe.bias)?;
                }
            }
            _ => return spec_error(name("mlp: weights and spec disagree on dense or routed")),
        }
    }
    drafter(model)
}

fn drafter(model: &Model) -> Result<()> {
    let hidden = model.spec.hidden;
    let (d, s) = match (&model.drafter, &model.spec.drafter) {
        (None, None) => return Ok(()),
        (Some(d), Some(s)) => (d, s),
        _ => return Err(Error::model_format("drafter", "weights and spec disagree on presence")),
    };
    let fail = |reason: &str| Err(Error::model_format("drafter", reason));
    if s.hidden != hidden || s.kv_heads == 0 || s.heads % s.kv_heads != 0 || s.block_size == 0 {
        return fail("hidden must be the target's, kv_heads divide heads, block_size be positive");
    }
    if s.rope.dims > s.head_dim || s.rope.dims % 2 != 0 || s.windows.contains(&Some(0)) {
        return fail("rope dims must be even and at most head_dim, windows at least 1");
    }
    if [d.layers.len(), s.windows.len(), s.causal.len()] != [s.layers; 3] {
        return fail("layers, windows and causal flags must be as many as the spec says");
    }
    if s.taps.iter().any(|t| *t >= model.spec.layers.len()) {
        return fail("a tap is beyond the target's layers");
    }
    matrix("drafter.fc", &d.fc, hidden, s.taps.len() * hidden)?;
    vector("drafter.hidden_norm", &d.hidden_norm, hidden)?;
    vector("drafter.norm", &d.norm, hidden)?;
    vector("drafter.mask_embedding", &d.mask_embedding, hidden)?;
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    for (i, layer) in d.layers.iter().enumerate() {
        let name = |part: &str| format!("drafter.layers.{i}.{part}");
        vector(&name("input_norm"), &layer.input_norm, hidden)?;
        vector(&name("post_norm"), &layer.post_norm, hidden)?;
        vector(&name("q_norm"), &layer.q_norm, s.head_dim)?;
        vector(&name("k_norm"), &layer.k_norm, s.head_dim)?;
        matrix(&name("q_proj"), &layer.q_proj, q, hidden)?;
        matrix(&name("k_proj"), &layer.k_proj, kv, hidden)?;
        matrix(&name("v_proj"), &layer.v_proj, kv, hidden)?;
        matrix(&name("o_proj"), &layer.o_proj, hidden, q)?;
        swiglu(&name("mlp"), &layer.mlp, (hidden, s.inter), false)?;
        match (&layer.sinks, s.sinks) {
            (Some(sinks), true) => vector(&name("sinks"), sinks, s.heads)?,
            (None, false) => {}
            _ => return fail("weights and spec disagree on sinks"),
        }
    }
    Ok(())
}

/// Checks the limits a backend is asked for.
pub(in crate::backend) fn limits(limits: Limits) -> Result<()> {
    for (name, value) in [
        ("max_rows", limits.max_rows),
        ("slots", limits.slots),
        ("pages", limits.pages),
        ("page_size", limits.page_size),
        ("max_positions", limits.max_positions),
    ] {
        if value == 0 {
            return Err(Error::invalid(name, "is 0, expected at least 1"));
        }
    }
    Ok(())
}
