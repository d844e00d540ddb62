//! The forward pass of mimo_spec 2 and dflash_spec 1, in f64, as plainly as it can be written.

use kilotok::numeric::{bf16, fp8, mxfp4};
use kilotok::{
    Activation, ExpertWeights, Format, Matrix, MlpSpec, MlpWeights, Model, QkvWeights, RopeSpec,
    RouterKind,
};

type Rows = Vec<Vec<f64>>;

/// A whole matrix in f64.
pub(crate) fn dense(m: &Matrix) -> Rows {
    let data = m.data.as_slice();
    let value = |r: usize, c: usize| -> f64 {
        let r = r * m.row_step;
        let at = r * m.cols + c;
        f64::from(match &m.format {
            Format::F32 => f32::from_le_bytes(data[4 * at..4 * at + 4].try_into().unwrap()),
            Format::Bf16 => bf16::decode(u16::from_le_bytes([data[2 * at], data[2 * at + 1]])),
            Format::Fp8 { scales, rows_per_chunk: c0 } => {
                let row = (r / c0) * c0.div_ceil(128) + (r % c0) / 128;
                fp8::decode(data[at]) * scales[row * m.cols.div_ceil(128) + c / 128]
            }
            Format::Mxfp4 { scales } => {
                let byte = data[at / 2];
                let code = if c % 2 == 0 { byte & 15 } else { byte >> 4 };
                let scale = scales.as_slice()[r * (m.cols / 32) + c / 32];
                mxfp4::E2M1[usize::from(code)] * mxfp4::e8m0(scale)
            }
        })
    };
    (0..m.rows).map(|r| (0..m.cols).map(|c| value(r, c)).collect()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn apply(m: &Matrix, x: &Rows) -> Rows {
    let w = dense(m);
    x.iter().map(|x| w.iter().map(|w| dot(w, x)).collect()).collect()
}

fn norm(x: &[f64], weight: &[f32], eps: f32) -> Vec<f64> {
    let factor = 1.0 / (dot(x, x) / x.len() as f64 + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * factor * f64::from(*w)).collect()
}

fn rope(head: &mut [f64], position: usize, spec: RopeSpec) {
    let half = spec.dims / 2;
    for i in 0..half {
        let mut frequency = spec.theta.powf(-2.0 * i as f64 / spec.dims as f64);
        let mut length = 1.0;
        if let Some(yarn) = spec.yarn {
            // The pair that turns `turns` times within the original positions.
            let pair = |turns: f64| {
                let frequency = turns * std::f64::consts::TAU / yarn.original_positions as f64;
                -frequency.ln() / spec.theta.ln() * half as f64
            };
            let (mut from, mut to) = (pair(yarn.beta_fast), pair(yarn.beta_slow));
            if yarn.truncate {
                (from, to) = (from.floor(), to.ceil());
            }
            (from, to) = (from.max(0.0), to.min(spec.dims as f64 - 1.0));
            let slow = ((i as f64 - from) / (to - from)).clamp(0.0, 1.0);
            frequency = slow * frequency / yarn.factor + (1.0 - slow) * frequency;
            length = yarn.attention_factor;
        }
        let angle = position as f64 * frequency;
        let (a, b) = (head[i] * length, head[i + half] * length);
        head[i] = a * angle.cos() - b * angle.sin();
        head[i + half] = b * angle.cos() + a * angle.sin();
    }
}

/// Softmax over keys and a sink, times values.
fn attend(q: &[f64], keys: &[&Vec<f64>], values: &[&Vec<f64>], sink: Option<f32>) -> Vec<f64> {
    let scale = 1.0 / (q.len() as f64).sqrt();
    let scores: Vec<f64> = keys.iter().map(|k| dot(q, k) * scale).collect();
    let sink = sink.map(f64::from);
    let top = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
    let p: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let total = p.iter().sum::<f64>() + sink.map_or(0.0, |s| (s - top).exp());
    (0..values[0].len())
        .map(|d| p.iter().zip(values).map(|(p, v)| p * v[d]).sum::<f64>() / total)
        .collect()
}

fn swiglu(mlp: &ExpertWeights, activation: Activation, x: &[f64]) -> Vec<f64> {
    let apply = |m: &Matrix, bias: Option<&[f32]>, x: &[f64]| -> Vec<f64> {
        let mut y = apply(m, &vec![x.to_vec()]).remove(0);
        add_bias(&mut y, bias);
        y
    };
    let bias = mlp.bias.as_ref();
    let gate = apply(&mlp.gate, bias.map(|b| &*b.gate), x);
    let up = apply(&mlp.up, bias.map(|b| &*b.up), x);
    let join = |(g, u): (&f64, &f64)| match activation {
        Activation::Silu => g / (1.0 + (-g).exp()) * u,
        Activation::ClampedSwiGlu { alpha, limit } => {
            let (alpha, limit) = (f64::from(alpha), f64::from(limit));
            let (g, u) = (g.min(limit), u.clamp(-limit, limit));
            g / (1.0 + (-alpha * g).exp()) * (u + 1.0)
        }
    };
    let hidden: Vec<f64> = gate.iter().zip(&up).map(join).collect();
    apply(&mlp.down, bias.map(|b| &*b.down), &hidden)
}

fn add_bias(x: &mut [f64], bias: Option<&[f32]>) {
    x.iter_mut().zip(bias.into_iter().flatten()).for_each(|(x, b)| *x += f64::from(*b));
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Logits and taps of every row of one sequence.
pub(crate) struct Forward {
    pub(crate) logits: Rows,
    pub(crate) taps: Rows,
}

/// Target forward over a whole sequence.
pub(crate) fn forward(model: &Model, tokens: &[u32]) -> Forward {
    let embed = dense(&model.embed);
    let spec = &model.spec;
    let mut x: Rows = tokens.iter().map(|t| embed[*t as usize].clone()).collect();
    let tap_layers = spec.drafter.as_ref().map_or(Vec::new(), |d| d.taps.clone());
    let mut taps: Vec<Rows> = vec![Vec::new(); tap_layers.len()];
    for (i, (layer, s)) in model.layers.iter().zip(&spec.layers).enumerate() {
        let a = &s.attention;
        let normed: Rows = x.iter().map(|x| norm(x, &layer.input_norm, spec.norm_eps)).collect();
        let mut qkv = match &layer.attention.qkv {
            QkvWeights::Fused(m) => apply(m, &normed),
            QkvWeights::Split(m) => {
                let mut rows = apply(&m[0], &normed);
                for m in &m[1..] {
                    rows.iter_mut().zip(apply(m, &normed)).for_each(|(a, b)| a.extend(b));
                }
                rows
            }
        };
        for row in &mut qkv {
            add_bias(row, layer.attention.qkv_bias.as_deref());
        }
        let map = a.head_map();
        let head = |row: usize, at: usize, dim: usize| qkv[row][at..at + dim].to_vec();
        let rotated = |row: usize, at: usize| {
            let mut head = head(row, at, a.qk_dim);
            rope(&mut head, row, a.rope);
            head
        };
        let keys: Vec<Rows> =
            map.k.iter().map(|at| (0..x.len()).map(|r| rotated(r, *at)).collect()).collect();
        let scaled = |row: usize, at: usize| -> Vec<f64> {
            head(row, at, a.v_dim).iter().map(|v| v * f64::from(a.value_scale)).collect()
        };
        let values: Vec<Rows> =
            map.v.iter().map(|at| (0..x.len()).map(|r| scaled(r, *at)).collect()).collect();
        let mut out: Rows = vec![Vec::new(); x.len()];
        for (row, out) in out.iter_mut().enumerate() {
            let first = a.window.map_or(0, |w| (row + 1).saturating_sub(w));
            for h in 0..a.heads {
                let kv = h / (a.heads / a.kv_heads);
                let keys: Vec<_> = keys[kv][first..=row].iter().collect();
                let values: Vec<_> = values[kv][first..=row].iter().collect();
                let sink = layer.attention.sinks.as_ref().map(|s| s[h]);
                out.extend(attend(&rotated(row, map.q[h]), &keys, &values, sink));
            }
        }
        x.iter_mut().zip(apply(&layer.attention.o_proj, &out)).for_each(|(x, y)| add(x, &y));
        for x in &mut x {
            add_bias(x, layer.attention.o_bias.as_deref());
            let m = norm(x, &layer.post_norm, spec.norm_eps);
            let y = match (&layer.mlp, &s.mlp) {
                (MlpWeights::Dense(mlp), _) => swiglu(mlp, Activation::Silu, &m),
                (MlpWeights::Moe { router, router_bias, experts }, MlpSpec::Moe(moe)) => {
                    let logits = apply(router, &vec![m.clone()]).remove(0);
                    let scores: Vec<f64> = match moe.router {
                        RouterKind::Sigmoid { .. } => {
                            logits.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect()
                        }
                        RouterKind::Softmax => logits.clone(),
                    };
                    let mut order: Vec<usize> = (0..moe.experts).collect();
                    let key = |e: usize| scores[e] + f64::from(router_bias[e]);
                    order.sort_by(|a, b| key(*b).total_cmp(&key(*a)));
                    order.truncate(moe.top_k);
                    let weight = |e: usize| match moe.router {
                        RouterKind::Sigmoid { normalize, scale } => {
                            let sum: f64 = order.iter().map(|e| scores[*e]).sum();
                            let divisor = if normalize { sum + 1e-20 } else { 1.0 };
                            scores[e] / divisor * f64::from(scale)
                        }
                        RouterKind::Softmax => {
                            key(e).exp() / order.iter().map(|e| key(*e).exp()).sum::<f64>()
                        }
                    };
                    let mut y = vec![0.0; m.len()];
                    for e in order.iter().copied() {
                        let weight = weight(e);
                        let out = swiglu(&experts[e], moe.activation, &m);
                        let out: Vec<f64> = out.iter().map(|v| v * weight).collect();
                        add(&mut y, &out);
                    }
                    y
                }
                _ => unreachable!(),
            };
            add(x, &y);
        }
        for (tap, _) in tap_layers.iter().enumerate().filter(|(_, l)| **l == i) {
            taps[tap].clone_from(&x);
        }
    }
    let normed: Rows = x.iter().map(|x| norm(x, &model.norm, spec.norm_eps)).collect();
    let taps = (0..tokens.len()).map(|r| taps.iter().flat_map(|t| t[r].clone()).collect());
    Forward { logits: apply(&model.lm_head, &normed), taps: taps.collect() }
}

/// Logits of the masked rows of a block whose context is `taps`, one row per position.
pub(crate) fn draft(model: &Model, taps: &Rows, anchor: u32, drafts: usize) -> Rows {
    let (d, spec) = (model.drafter.as_ref().unwrap(), model.spec.drafter.as_ref().unwrap());
    let start = taps.len();
    let context: Rows =
        apply(&d.fc, taps).iter().map(|x| norm(x, &d.hidden_norm, spec.norm_eps)).collect();
    let mask: Vec<f64> = d.mask_embedding.iter().map(|v| f64::from(*v)).collect();
    let mut x = vec![dense(&model.embed)[anchor as usize].clone()];
    x.extend(std::iter::repeat_n(mask, drafts));
    for (i, layer) in d.layers.iter().enumerate() {
        let normed: Rows = x.iter().map(|x| norm(x, &layer.input_norm, spec.norm_eps)).collect();
        let heads = |rows: Rows, first: usize, weight: Option<&[f32]>| -> Vec<Rows> {
            let head = |row: &Vec<f64>, r: usize, h: usize| {
                let head = &row[h * spec.head_dim..(h + 1) * spec.head_dim];
                match weight {
                    Some(w) => {
                        let mut head = norm(head, w, spec.norm_eps);
                        rope(&mut head, first + r, spec.rope);
                        head
                    }
                    None => head.iter().map(|v| v * f64::from(spec.value_scale)).collect(),
                }
            };
            let count = rows[0].len() / spec.head_dim;
            (0..count)
                .map(|h| rows.iter().enumerate().map(|(r, row)| head(row, r, h)).collect())
                .collect()
        };
        let q = heads(apply(&layer.q_proj, &normed), start, Some(&layer.q_norm));
        let mut k = heads(apply(&layer.k_proj, &context), 0, Some(&layer.k_norm));
        let mut v = heads(apply(&layer.v_proj, &context), 0, None);
        let block = heads(apply(&layer.k_proj, &normed), start, Some(&layer.k_norm));
        k.iter_mut().zip(block).for_each(|(k, b)| k.extend(b));
        let block = heads(apply(&layer.v_proj, &normed), start, None);
        v.iter_mut().zip(block).for_each(|(v, b)| v.extend(b));
        let mut out: Rows = vec![Vec::new(); x.len()];
        for (row, out) in out.iter_mut().enumerate() {
            let sees = |p: usize| {
                let near = spec.windows[i].is_none_or(|w| (start + row).abs_diff(p) < w);
                near && !(spec.causal[i] && p > start + row)
            };
            for h in 0..spec.heads {
                let kv = h / (spec.heads / spec.kv_heads);
                let pick = |rows: &Rows| -> Rows {
                    rows.iter()
                        .enumerate()
                        .filter(|(p, _)| sees(*p))
                        .map(|(_, r)| r.clone())
                        .collect()
                };
                let (keys, values) = (pick(&k[kv]), pick(&v[kv]));
                let (keys, values): (Vec<_>, Vec<_>) =
                    (keys.iter().collect(), values.iter().collect());
                let sink = layer.sinks.as_ref().map(|s| s[h]);
                out.extend(attend(&q[h][row], &keys, &values, sink));
            }
        }
        x.iter_mut().zip(apply(&layer.o_proj, &out)).for_each(|(x, y)| add(x, &y));
        for x in &mut x {
            let y = swiglu(&layer.mlp, Activation::Silu, &norm(x, &layer.post_norm, spec.norm_eps));
            add(x, &y);
        }
    }
    let normed: Rows = x[1..].iter().map(|x| norm(x, &d.norm, spec.norm_eps)).collect();
    apply(&model.lm_head, &normed)
}
