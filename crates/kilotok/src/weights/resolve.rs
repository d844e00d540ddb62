//! A demanded tensor found in a catalog: names, shapes and dtypes checked, no data read.

use std::collections::BTreeSet;

use super::catalog::{Catalog, Entry};
use super::table::{Demand, Part, Shape};
use super::tensor::Dtype;
use crate::config::Quantization;
use crate::error::{Error, Result};
use crate::spec::{MlpSpec, ModelSpec, QkvLayout};

/// Side of an FP8 scale block.
pub(crate) const FP8_BLOCK: usize = 128;
/// Columns under one MXFP4 scale.
pub(crate) const MXFP4_BLOCK: usize = 32;

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Storage {
    F32,
    Bf16,
    Fp8,
    Mxfp4,
}

/// A stored tensor: the name and entry of its elements, and of its scales.
#[derive(Clone, Debug)]
pub(crate) struct Found<'c> {
    pub(crate) storage: Storage,
    pub(crate) weight: (String, &'c Entry),
    pub(crate) scale: Option<(String, &'c Entry)>,
}

/// Compares configuration and catalog as wholes, before a table of tensors is built.
///
/// # Errors
/// [`Error::ModelFormat`] where there are far more experts than tensors (a single number in a
/// small file could ask for gigabytes of names), or where the index says that fused projections
/// were stored for another number of chunks than the configuration implies.
pub(crate) fn check_outline(spec: &ModelSpec, catalog: &Catalog) -> Result<()> {
    let experts: u64 = spec
        .layers
        .iter()
        .map(|layer| match &layer.mlp {
            MlpSpec::Moe(moe) => moe.experts as u64,
            MlpSpec::Dense { .. } => 0,
        })
        .sum();
    let found = catalog.iter().count() as u64;
    if experts > 4 * found + 1024 {
        return Err(Error::model_format(
            "config.json: number of experts",
            format!("{experts} experts in all layers, but only {found} tensors"),
        ));
    }
    let Some((index, ranks)) = &catalog.stored_for else { return Ok(()) };
    match spec.layers.first().map(|layer| layer.attention.layout) {
        Some(QkvLayout::Fused { chunks }) if chunks as u64 != *ranks => Err(Error::model_format(
            format!("{index}: metadata.tp_size"),
            format!("{ranks}, but num_key_value_heads makes {chunks} chunks of qkv_proj"),
        )),
        _ => Ok(()),
    }
}

/// Finds demanded tensors and remembers which names were used.
pub(crate) struct Resolver<'c> {
    pub(crate) catalog: &'c Catalog,
    quantization: Quantization,
    pub(crate) used: BTreeSet<String>,
}

impl<'c> Resolver<'c> {
    pub(crate) fn new(catalog: &'c Catalog, quantization: Quantization) -> Self {
        Self { catalog, quantization, used: BTreeSet::new() }
    }

    fn entry(&mut self, name: &str) -> Result<&'c Entry> {
        let entry = self.catalog.get(name).ok_or_else(|| {
            Error::model_format(format!("{}: {name}", self.catalog.searched()), "tensor is missing")
        })?;
        self.used.insert(name.to_owned());
        Ok(entry)
    }

    fn bad(&self, name: &str, entry: &Entry, reason: String) -> Error {
        Error::model_format(self.catalog.place(name, entry), reason)
    }

    fn shape(&self, name: &str, entry: &Entry, expected: &[usize]) -> Result<()> {
        if entry.shape == expected {
            return Ok(());
        }
        Err(self.bad(
            name,
            entry,
            format!("shape {:?}, expected {expected:?} ({})", entry.shape, entry.dtype),
        ))
    }

    /// Finds one demanded tensor.
    ///
    /// # Errors
    /// [`Error::ModelFormat`] naming the tensor that is missing or has another shape or dtype
    /// than its role and the configuration allow.
    pub(crate) fn find(&mut self, demand: &Demand) -> Result<Found<'c>> {
        match demand.shape {
            Shape::Vector { len } => {
                let entry = self.entry(&demand.name)?;
                let storage = self.float(&demand.name, entry)?;
                self.shape(&demand.name, entry, &[len])?;
                Ok(Found { storage, weight: (demand.name.clone(), entry), scale: None })
            }
            Shape::Matrix { rows, cols, rows_per_chunk } => {
                self.matrix(demand, rows, cols, rows_per_chunk)
            }
        }
    }

    fn float(&self, name: &str, entry: &Entry) -> Result<Storage> {
        match entry.dtype {
            Dtype::F32 => Ok(Storage::F32),
            Dtype::Bf16 => Ok(Storage::Bf16),
            ref other => Err(self.bad(name, entry, format!("dtype {other}, expected F32 or BF16"))),
        }
    }

    fn matrix(
        &mut self,
        demand: &Demand,
        rows: usize,
        cols: usize,
        rows_per_chunk: usize,
    ) -> Result<Found<'c>> {
        let name = format!("{}.weight", demand.name);
        let entry = self.entry(&name)?;
        // Rows are looked up in the embedding, and the router decides in F32 (mimo_spec 2.3).
        let plain = matches!(demand.part, Part::Embed | Part::Router);
        let announced = |yes: bool, what: &str| {
            if yes && !plain {
                return Ok(());
            }
            let reason = if plain {
                format!("dtype {}, expected F32 or BF16", entry.dtype)
            } else {
                format!(
                    "dtype {}, but quantization_config in config.json does not announce {what}",
                    entry.dtype
                )
            };
            Err(self.bad(&name, entry, reason))
        };
        let (storage, stored_cols) = match entry.dtype {
            Dtype::F8E4M3 => {
                announced(self.quantization.fp8, "quant_method fp8")?;
                (Storage::Fp8, cols)
            }
            Dtype::U8 => {
                announced(self.quantization.mxfp4, "store_dtype mxfp4")?;
                if cols % MXFP4_BLOCK != 0 {
                    return Err(self.bad(
                        &name,
                        entry,
                        format!("{cols} columns are not a multiple of {MXFP4_BLOCK}"),
                    ));
                }
                (Storage::Mxfp4, cols / 2)
            }
            Dtype::F32 | Dtype::Bf16 => (self.float(&name, entry)?, cols),
            Dtype::Other(_) => {
                return Err(self.bad(
                    &name,
                    entry,
                    format!("dtype {}, expected F32, BF16, F8_E4M3 or U8 (MXFP4)", entry.dtype),
                ));
            }
        };
        self.shape(&name, entry, &[rows, stored_cols])?;
        let scale = match storage {
            Storage::F32 | Storage::Bf16 => None,
            Storage::Fp8 => {
                let chunks = rows / rows_per_chunk;
                let shape = [chunks * rows_per_chunk.div_ceil(FP8_BLOCK), cols.div_ceil(FP8_BLOCK)];
                Some(self.scale(
                    &format!("{}.weight_scale_inv", demand.name),
                    &shape,
                    &Dtype::F32,
                )?)
            }
            Storage::Mxfp4 => {
                let shape = [rows, cols / MXFP4_BLOCK];
                Some(self.scale(&format!("{}.weight_scale", demand.name), &shape, &Dtype::U8)?)
            }
        };
        Ok(Found { storage, weight: (name, entry), scale })
    }

    fn scale(&mut self, name: &str, shape: &[usize], dtype: &Dtype) -> Result<(String, &'c Entry)> {
        let entry = self.entry(name)?;
        if entry.dtype != *dtype {
            return Err(self.bad(name, entry, format!("dtype {}, expected {dtype}", entry.dtype)));
        }
        self.shape(name, entry, shape)?;
        Ok((name.to_owned(), entry))
    }
}

impl Found<'_> {
    /// Stored bytes, scales included.
    pub(crate) fn num_bytes(&self) -> u64 {
        let scale = self.scale.as_ref().map_or(0, |(_, entry)| entry.num_bytes());
        self.weight.1.num_bytes() as u64 + scale as u64
    }
}
