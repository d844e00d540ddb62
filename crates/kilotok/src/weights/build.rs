//! Weights from the tensors of one catalog.

use super::catalog::{Catalog, Entry};
use super::progress::{Check, Kept};
use super::resolve::{Found, Resolver, Storage};
use super::table::{
    Demand, DraftLayerTable, DrafterTable, LayerTable, MlpTable, Part, Place, Shape, SwiGlu,
};
use crate::config::Quantization;
use crate::error::{Error, Result};
use crate::matrix::{Bytes, Format, Matrix};
use crate::model::{
    AttentionWeights, DraftLayerWeights, DrafterWeights, ExpertWeights, LayerWeights, MlpWeights,
    QkvWeights, Vector,
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

    fn floats(&mut self, name: &str, entry: &Entry, storage: Storage) -> Result<Vector> {
        let values = widen(self.keep(name, entry, Check::None)?.as_slice(), storage);
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
        let data = self.keep(&name, entry, check)?;
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
                let scales = self.keep(&name, entry, Check::E8m0)?;
                Format::Mxfp4 { scales }
            }
            (Storage::F32, _) => Format::F32,
            _ => Format::Bf16,
        };
        Ok(Matrix { rows, cols, data, format })
    }

    fn matrices(&mut self, [a, b, c]: &[Demand; 3]) -> Result<[Matrix; 3]> {
        Ok([self.matrix(a)?, self.matrix(b)?, self.matrix(c)?])
    }

    fn swiglu(&mut self, swiglu: &SwiGlu) -> Result<ExpertWeights> {
        let [gate, up, down] = self.matrices(swiglu)?;
        Ok(ExpertWeights { gate, up, down })
    }

    pub(super) fn layer(&mut self, table: &LayerTable) -> Result<LayerWeights> {
        let qkv = match table.qkv.as_slice() {
            [q, k, v] => {
                QkvWeights::Split(Box::new([self.matrix(q)?, self.matrix(k)?, self.matrix(v)?]))
            }
            [fused, ..] => QkvWeights::Fused(self.matrix(fused)?),
            [] => return Err(Error::model_format("config.json", "a layer without attention")),
        };
        let sinks = table.sinks.as_ref().map(|sinks| self.vector(sinks)).transpose()?;
        Ok(LayerWeights {
            input_norm: self.vector(&table.input_norm)?,
            attention: AttentionWeights { qkv, o_proj: self.matrix(&table.output)?, sinks },
            post_norm: self.vector(&table.post_norm)?,
            mlp: match &table.mlp {
                MlpTable::Dense(swiglu) => MlpWeights::Dense(self.swiglu(swiglu)?),
                MlpTable::Moe { router, correction_bias, experts } => MlpWeights::Moe {
                    router: self.matrix(router)?,
                    correction_bias: self.vector(correction_bias)?,
                    experts: experts
                        .iter()
                        .map(|expert| self.swiglu(expert))
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
            mlp: self.swiglu(&table.mlp)?,
        })
    }
}
