//! Weights from the tensors of one catalog.

use super::catalog::{Catalog, Entry, Layout};
use super::progress::{Check, Kept};
use super::resolve::{Found, Resolver, Storage};
use super::table::{
    Demand, DraftLayerTable, DrafterTable, LayerTable, MlpTable, Part, Place, Shape, SwiGlu,
};
use crate::config::Quantization;
use crate::error::{Error, Result};
use crate::matrix::{Bytes, Format, Matrix};
use crate::model::{
    AttentionWeights, DraftLayerWeights, DrafterWeights, ExpertBias, ExpertWeights, LayerWeights,
    MlpWeights, QkvWeights, Vector,
};

/// One row of an F32 or BF16 matrix, widened.
pub(super) fn row_of(matrix: &Matrix, row: usize) -> Vector {
    let width = matrix.data.len() / matrix.rows;
    let bytes = &matrix.data.as_slice()[row * width..(row + 1) * width];
    match matrix.format {
        Format::F32 => widen(bytes, Storage::F32),
        _ => widen(bytes, Storage::Bf16),
    }
}

/// Little-endian F32 or BF16 as f32.
pub(super) fn widen(bytes: &[u8], storage: Storage) -> Vector {
    match storage {
        Storage::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        _ => bytes
            .chunks_exact(2)
            .map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
    }
}

/// Turns demanded tensors into weights, and remembers what it used.
pub(super) struct Builder<'c> {
    pub(super) resolver: Resolver<'c>,
    /// Bytes in use.
    pub(super) kept: Vec<Kept>,
}

impl<'c> Builder<'c> {
    pub(super) fn new(catalog: &'c Catalog, quantization: Quantization) -> Self {
        Self { resolver: Resolver::new(catalog, quantization), kept: Vec::new() }
    }

    /// Checks that every demanded tensor is there, and nothing else but `skipped` prefixes.
    pub(super) fn resolve_all<'d>(
        &mut self,
        demands: impl Iterator<Item = &'d Demand>,
        skipped: &[&str],
    ) -> Result<()> {
        for demand in demands {
            self.resolver.find(demand)?;
        }
        self.resolver.catalog.reject_leftovers(&self.resolver.used, skipped)
    }

    /// Bytes that the model keeps.
    fn keep(&mut self, name: &str, entry: &Entry, check: Check) -> Result<Bytes> {
        let catalog = self.resolver.catalog;
        let bytes = catalog.bytes(name, entry)?;
        let at = entry.mapped().map(|(source, range)| (source, range.start));
        let place = catalog.place(name, entry);
        self.kept.push(Kept { place, bytes: bytes.clone(), check, at });
        Ok(bytes)
    }

    /// The rows of a matrix or of its scales, and the step from one to the next: views where rows
    /// are whole, a copy where they are columns of what is stored.
    fn rows(&mut self, name: &str, entry: &Entry, check: Check) -> Result<(Bytes, usize)> {
        let (first, step) = match entry.layout {
            Layout::Dense => return Ok((self.keep(name, entry, check)?, 1)),
            Layout::Transposed { .. } => {
                return Ok((self.resolver.catalog.dense(name, entry)?, 1));
            }
            Layout::EveryRow { first, step } => (first, step),
        };
        // The same bytes for gate and for up: they are made resident once.
        let stored = self.keep(name, entry, check)?;
        let rows = entry.shape.first().copied().unwrap_or(0);
        let row = entry.num_bytes() / rows.max(1);
        let end = if rows == 0 { first } else { first + (rows - 1) * step + 1 };
        let view = stored.slice(first * row..end * row);
        let view = view.ok_or_else(|| {
            Error::model_format(self.resolver.catalog.place(name, entry), "too few rows")
        })?;
        Ok((view, step))
    }

    fn floats(&mut self, name: &str, entry: &Entry, storage: Storage) -> Result<Vector> {
        let bytes = match entry.layout {
            Layout::Dense => self.keep(name, entry, Check::None)?,
            _ => self.resolver.catalog.dense(name, entry)?,
        };
        let values = widen(bytes.as_slice(), storage);
        if let Some(at) = values.iter().position(|value| value.is_nan()) {
            return Err(Error::model_format(
                self.resolver.catalog.place(name, entry),
                format!("element {at} is NaN"),
            ));
        }
        Ok(values)
    }

    pub(super) fn vector(&mut self, demand: &Demand) -> Result<Vector> {
        let Found { storage, weight: (name, entry), .. } = self.resolver.find(demand)?;
        self.floats(&name, entry, storage)
    }

    /// A vector that may be absent.
    pub(super) fn optional_vector(&mut self, name: &str, len: usize) -> Result<Option<Vector>> {
        if self.resolver.catalog.get(name).is_none() {
            return Ok(None);
        }
        self.vector(&Demand {
            name: name.to_owned(),
            place: Place::Drafter,
            part: Part::Norm,
            shape: Shape::Vector { len },
        })
        .map(Some)
    }

    pub(super) fn matrix(&mut self, demand: &Demand) -> Result<Matrix> {
        let Shape::Matrix { rows, cols, rows_per_chunk } = demand.shape else {
            return Err(Error::model_format(&demand.name, "expected a matrix"));
        };
        let Found { storage, weight: (name, entry), scale } = self.resolver.find(demand)?;
        let check = if storage == Storage::Fp8 { Check::E4m3 } else { Check::None };
        let (data, row_step) = self.rows(&name, entry, check)?;
        let format = match (storage, scale) {
            (Storage::Fp8, Some((name, entry))) => {
                let scales = self.floats(&name, entry, Storage::F32)?;
                if let Some(at) = scales.iter().position(|scale| !scale.is_finite()) {
                    return Err(Error::model_format(
                        self.resolver.catalog.place(&name, entry),
                        format!("scale {at} is {}", scales[at]),
                    ));
                }
                Format::Fp8 { scales, rows_per_chunk }
            }
            (Storage::Mxfp4, Some((name, entry))) => {
                let (scales, step) = self.rows(&name, entry, Check::E8m0)?;
                if step != row_step {
                    return Err(Error::model_format(
                        self.resolver.catalog.place(&name, entry),
                        format!("every row of {step}, but every row of {row_step} of its weight"),
                    ));
                }
                Format::Mxfp4 { scales }
            }
            (Storage::F32, _) => Format::F32,
            _ => Format::Bf16,
        };
        Ok(Matrix { rows, cols, data, format, row_step })
    }

    fn matrices(&mut self, [a, b, c]: &[Demand; 3]) -> Result<[Matrix; 3]> {
        Ok([self.matrix(a)?, self.matrix(b)?, self.matrix(c)?])
    }

    fn swiglu(&mut self, swiglu: &SwiGlu, bias: Option<&SwiGlu>) -> Result<ExpertWeights> {
        let [gate, up, down] = self.matrices(swiglu)?;
        let bias = match bias {
            None => None,
            Some([gate, up, down]) => Some(ExpertBias {
                gate: self.vector(gate)?,
                up: self.vector(up)?,
                down: self.vector(down)?,
            }),
        };
        Ok(ExpertWeights { gate, up, down, bias })
    }

    pub(super) fn layer(&mut self, table: &LayerTable) -> Result<LayerWeights> {
        let qkv = match table.qkv.as_slice() {
            [q, k, v] => {
                QkvWeights::Split(Box::new([self.matrix(q)?, self.matrix(k)?, self.matrix(v)?]))
            }
            [fused, ..] => QkvWeights::Fused(self.matrix(fused)?),
            [] => return Err(Error::model_format("config.json", "a layer without attention")),
        };
        let bias = table.qkv_bias.iter().map(|bias| self.vector(bias));
        let bias = bias.collect::<Result<Vec<_>>>()?;
        let qkv_bias = (!bias.is_empty()).then(|| bias.iter().flat_map(|b| b.iter().copied()));
        Ok(LayerWeights {
            input_norm: self.vector(&table.input_norm)?,
            attention: AttentionWeights {
                qkv,
                qkv_bias: qkv_bias.map(Iterator::collect),
                o_proj: self.matrix(&table.output)?,
                o_bias: table.output_bias.as_ref().map(|bias| self.vector(bias)).transpose()?,
                sinks: table.sinks.as_ref().map(|sinks| self.vector(sinks)).transpose()?,
            },
            post_norm: self.vector(&table.post_norm)?,
            mlp: match &table.mlp {
                MlpTable::Dense(swiglu) => MlpWeights::Dense(self.swiglu(swiglu, None)?),
                MlpTable::Moe { router, router_bias, experts, expert_biases } => MlpWeights::Moe {
                    router: self.matrix(router)?,
                    router_bias: self.vector(router_bias)?,
                    experts: experts
                        .iter()
                        .enumerate()
                        .map(|(at, expert)| self.swiglu(expert, expert_biases.get(at)))
                        .collect::<Result<_>>()?,
                },
            },
        })
    }

    pub(super) fn drafter(
        &mut self,
        table: &DrafterTable,
        mask_embedding: Vector,
    ) -> Result<DrafterWeights> {
        Ok(DrafterWeights {
            fc: self.matrix(&table.fuse_taps)?,
            hidden_norm: self.vector(&table.hidden_norm)?,
            norm: self.vector(&table.norm)?,
            mask_embedding,
            layers: table
                .layers
                .iter()
                .map(|layer| self.draft_layer(layer))
                .collect::<Result<_>>()?,
        })
    }

    fn draft_layer(&mut self, table: &DraftLayerTable) -> Result<DraftLayerWeights> {
        let [q_proj, k_proj, v_proj] = self.matrices(&table.qkv)?;
        Ok(DraftLayerWeights {
            input_norm: self.vector(&table.input_norm)?,
            q_proj,
            k_proj,
            v_proj,
            o_proj: self.matrix(&table.output)?,
            q_norm: self.vector(&table.query_norm)?,
            k_norm: self.vector(&table.key_norm)?,
            sinks: table.sinks.as_ref().map(|sinks| self.vector(sinks)).transpose()?,
            post_norm: self.vector(&table.post_norm)?,
            mlp: self.swiglu(&table.mlp, None)?,
        })
    }
}
