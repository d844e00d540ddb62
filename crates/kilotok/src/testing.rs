//! Random models for tests and benches: any spec, any formats, the same on every machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::matrix::{Bytes, Format, Matrix};
use crate::model::{
    AttentionWeights, DraftLayerWeights, DrafterWeights, ExpertBias, ExpertWeights, LayerWeights,
    MlpWeights, Model, QkvWeights, Vector,
};
use crate::numeric::{bf16, fp8};
use crate::spec::{DrafterSpec, LayerSpec, MlpSpec, ModelSpec, MoeSpec, QkvLayout};

/// A stored format, without its scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// e4m3 with 128 x 128 scales.
    Fp8,
    /// e2m1 with e8m0 scales; the columns must be a multiple of 32.
    Mxfp4,
}

/// The format of every kind of matrix.
#[derive(Clone, Copy, Debug)]
pub struct Formats {
    /// Embedding and head.
    pub embed: Stored,
    /// Projections to queries, keys and values.
    pub qkv: Stored,
    /// Output projection.
    pub o_proj: Stored,
    /// Dense feed-forwards.
    pub dense: Stored,
    /// Router.
    pub router: Stored,
    /// Experts.
    pub experts: Stored,
    /// Everything of the drafter.
    pub drafter: Stored,
}

impl Formats {
    /// One format for all.
    pub fn all(stored: Stored) -> Self {
        Self {
            embed: stored,
            qkv: stored,
            o_proj: stored,
            dense: stored,
            router: stored,
            experts: stored,
            drafter: stored,
        }
    }

    /// As gpt-oss has them: experts in MXFP4, the rest in bfloat16.
    pub fn gpt_oss() -> Self {
        Self { experts: Stored::Mxfp4, ..Self::all(Stored::Bf16) }
    }

    /// As MiMo-V2.5-Pro-FP4 has them (mimo_spec 3.1, 3.3).
    pub fn mimo_fp4() -> Self {
        Self {
            qkv: Stored::Fp8,
            dense: Stored::Fp8,
            router: Stored::F32,
            experts: Stored::Mxfp4,
            ..Self::all(Stored::Bf16)
        }
    }
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// Roughly normal with standard deviation 1.
    pub fn normal(&mut self) -> f32 {
        let bits = self.bits();
        let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum();
        (sum as f32 / 65535.0 - 2.0) * 1.732
    }

    /// A vector around `mean`.
    pub fn vector(&mut self, len: usize, mean: f32, deviation: f32) -> Vector {
        (0..len).map(|_| mean + deviation * self.normal()).collect()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.bits().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// A matrix whose outputs keep the scale of its inputs. `chunks`: of the FP8 scale grid.
    pub fn matrix(&mut self, rows: usize, cols: usize, stored: Stored, chunks: usize) -> Matrix {
        let gain = 1.0 / (cols as f32).sqrt();
        let (data, format) = match stored {
            Stored::F32 => {
                let values = (0..rows * cols).flat_map(|_| (self.normal() * gain).to_le_bytes());
                (values.collect(), Format::F32)
            }
            Stored::Bf16 => {
                let value = |rng: &mut Self| bf16::encode(rng.normal() * gain).to_le_bytes();
                ((0..rows * cols).flat_map(|_| value(self)).collect(), Format::Bf16)
            }
            Stored::Fp8 => {
                let mut data = self.bytes(rows * cols);
                // NaN codes become the largest value; 130 is the deviation of random codes.
                data.iter_mut().filter(|b| **b & 0x7f == 0x7f).for_each(|b| *b -= 1);
                let rows_per_chunk = rows / chunks;
                let count = fp8::scale_count(rows, cols, rows_per_chunk);
                let scales = self.vector(count, gain / 130.0, gain / 400.0);
                (data, Format::Fp8 { scales, rows_per_chunk })
            }
            Stored::Mxfp4 => {
                let data = self.bytes(rows * cols / 2);
                let exponent = gain.log2().floor() as i32 - 2 + 127;
                let mut scales = self.bytes(rows * (cols / 32));
                for scale in &mut scales {
                    *scale = (exponent + i32::from(*scale % 3)) as u8;
                }
                (data, Format::Mxfp4 { scales: Bytes::from_vec(scales) })
            }
        };
        // One byte off: nothing may rely on alignment.
        let mut shifted = vec![0];
        shifted.extend_from_slice(&data);
        let whole = Bytes::from_vec(shifted);
        let data = whole.slice(1..whole.len()).unwrap_or(whole);
        Matrix { rows, cols, data, format, row_step: 1 }
    }
}

/// Where the weights of a model come from.
trait Fill {
    /// `chunks`: of the FP8 scale grid.
    fn matrix(&mut self, rows: usize, cols: usize, stored: Stored, chunks: usize) -> Matrix;
    /// Values around `mean`.
    fn vector(&mut self, len: usize, mean: f32, deviation: f32) -> Vector;
}

impl Fill for Rng {
    fn matrix(&mut self, rows: usize, cols: usize, stored: Stored, chunks: usize) -> Matrix {
        Self::matrix(self, rows, cols, stored, chunks)
    }

    fn vector(&mut self, len: usize, mean: f32, deviation: f32) -> Vector {
        Self::vector(self, len, mean, deviation)
    }
}

/// Shapes and formats without a byte: enough to plan for a model that is not there.
#[derive(Default)]
struct Hollow {
    /// One vector of each length and mean (its bits) is all such vectors.
    vectors: BTreeMap<(usize, u32), Vector>,
}

impl Fill for Hollow {
    fn matrix(&mut self, rows: usize, cols: usize, stored: Stored, chunks: usize) -> Matrix {
        let none = || Bytes::from_vec(Vec::new());
        let format = match stored {
            Stored::F32 => Format::F32,
            Stored::Bf16 => Format::Bf16,
            Stored::Fp8 => Format::Fp8 { scales: [].into(), rows_per_chunk: rows / chunks },
            Stored::Mxfp4 => Format::Mxfp4 { scales: none() },
        };
        Matrix { rows, cols, data: none(), format, row_step: 1 }
    }

    fn vector(&mut self, len: usize, mean: f32, _deviation: f32) -> Vector {
        let key = (len, mean.to_bits());
        Arc::clone(self.vectors.entry(key).or_insert_with(|| vec![mean; len].into()))
    }
}

fn swiglu(fill: &mut impl Fill, hidden: usize, inter: usize, stored: Stored) -> ExpertWeights {
    ExpertWeights {
        gate: fill.matrix(inter, hidden, stored, 1),
        up: fill.matrix(inter, hidden, stored, 1),
        down: fill.matrix(hidden, inter, stored, 1),
        bias: None,
    }
}

/// An expert; with biases, gate and up alternate in one buffer, as such families store them.
fn expert(fill: &mut impl Fill, hidden: usize, spec: &MoeSpec, stored: Stored) -> ExpertWeights {
    let inter = spec.inter;
    if !spec.bias {
        return swiglu(fill, hidden, inter, stored);
    }
    let (gate, up) = if stored == Stored::Fp8 {
        (fill.matrix(inter, hidden, stored, 1), fill.matrix(inter, hidden, stored, 1))
    } else {
        let both = fill.matrix(2 * inter, hidden, stored, 1);
        (every_other(&both, 0), every_other(&both, 1))
    };
    ExpertWeights {
        gate,
        up,
        down: fill.matrix(hidden, inter, stored, 1),
        bias: Some(ExpertBias {
            gate: fill.vector(inter, 0.0, 0.3),
            up: fill.vector(inter, 0.0, 0.3),
            down: fill.vector(hidden, 0.0, 0.3),
        }),
    }
}

fn layer(fill: &mut impl Fill, hidden: usize, spec: &LayerSpec, formats: Formats) -> LayerWeights {
    let a = &spec.attention;
    let qkv = match a.layout {
        QkvLayout::Fused { chunks } => {
            let width = a.head_map().width;
            QkvWeights::Fused(fill.matrix(width, hidden, formats.qkv, chunks))
        }
        QkvLayout::Split => QkvWeights::Split(Box::new(
            [a.heads * a.qk_dim, a.kv_heads * a.qk_dim, a.kv_heads * a.v_dim]
                .map(|rows| fill.matrix(rows, hidden, formats.qkv, 1)),
        )),
    };
    let mlp = match &spec.mlp {
        MlpSpec::Dense { inter } => MlpWeights::Dense(swiglu(fill, hidden, *inter, formats.dense)),
        MlpSpec::Moe(moe) => MlpWeights::Moe {
            router: fill.matrix(moe.experts, hidden, formats.router, 1),
            router_bias: fill.vector(moe.experts, 0.0, 0.05),
            experts: (0..moe.experts).map(|_| expert(fill, hidden, moe, formats.experts)).collect(),
        },
    };
    LayerWeights {
        input_norm: fill.vector(hidden, 1.0, 0.1),
        attention: AttentionWeights {
            qkv,
            qkv_bias: a.bias.then(|| fill.vector(a.head_map().width, 0.0, 0.3)),
            o_proj: fill.matrix(hidden, a.heads * a.v_dim, formats.o_proj, 1),
            o_bias: a.bias.then(|| fill.vector(hidden, 0.0, 0.3)),
            sinks: a.sinks.then(|| fill.vector(a.heads, 0.0, 1.0)),
        },
        post_norm: fill.vector(hidden, 1.0, 0.1),
        mlp,
    }
}

fn drafter(fill: &mut impl Fill, spec: &DrafterSpec, stored: Stored) -> DrafterWeights {
    let (hidden, dim) = (spec.hidden, spec.head_dim);
    let layers = (0..spec.layers).map(|_| DraftLayerWeights {
        input_norm: fill.vector(hidden, 1.0, 0.1),
        q_proj: fill.matrix(spec.heads * dim, hidden, stored, 1),
        k_proj: fill.matrix(spec.kv_heads * dim, hidden, stored, 1),
        v_proj: fill.matrix(spec.kv_heads * dim, hidden, stored, 1),
        o_proj: fill.matrix(hidden, spec.heads * dim, stored, 1),
        q_norm: fill.vector(dim, 1.0, 0.1),
        k_norm: fill.vector(dim, 1.0, 0.1),
        sinks: spec.sinks.then(|| fill.vector(spec.heads, 0.0, 1.0)),
        post_norm: fill.vector(hidden, 1.0, 0.1),
        mlp: swiglu(fill, hidden, spec.inter, stored),
    });
    let layers = layers.collect();
    DrafterWeights {
        fc: fill.matrix(hidden, spec.taps.len() * hidden, stored, 1),
        hidden_norm: fill.vector(hidden, 1.0, 0.1),
        norm: fill.vector(hidden, 1.0, 0.1),
        mask_embedding: fill.vector(hidden, 0.0, 0.2),
        layers,
    }
}

/// Rows `first`, `first + 2`, ... of `both`, as a view of the same bytes.
fn every_other(both: &Matrix, first: usize) -> Matrix {
    let rows = both.rows / 2;
    let view = |bytes: &Bytes| {
        let row = bytes.len() / both.rows;
        bytes.slice(first * row..(first + 2 * rows - 1) * row).unwrap_or_else(|| bytes.clone())
    };
    let format = match &both.format {
        Format::Mxfp4 { scales } => Format::Mxfp4 { scales: view(scales) },
        other => other.clone(),
    };
    Matrix { rows, data: view(&both.data), format, row_step: 2, ..*both }
}

/// A model of `spec` with random weights.
pub fn random_model(spec: ModelSpec, formats: Formats, seed: u64) -> Arc<Model> {
    Arc::new(filled(spec, formats, &mut Rng(seed)))
}

/// A model of `spec` whose matrices have shapes and formats but no bytes.
pub fn hollow_model(spec: ModelSpec, formats: Formats) -> Model {
    filled(spec, formats, &mut Hollow::default())
}

fn filled(spec: ModelSpec, formats: Formats, fill: &mut impl Fill) -> Model {
    let embed = fill.matrix(spec.vocab, spec.hidden, formats.embed, 1);
    let lm_head = if spec.tied_head {
        embed.clone()
    } else {
        fill.matrix(spec.vocab, spec.hidden, formats.embed, 1)
    };
    Model {
        embed,
        layers: spec.layers.iter().map(|l| layer(fill, spec.hidden, l, formats)).collect(),
        norm: fill.vector(spec.hidden, 1.0, 0.1),
        lm_head,
        drafter: spec.drafter.as_ref().map(|d| drafter(fill, d, formats.drafter)),
        spec,
    }
}
