//! Checkpoint -> [`Model`].

use std::collections::BTreeMap;
use std::path::Path;

use super::catalog::{Access, Catalog, Entry};
use super::mask_embedding;
use super::names;
use super::progress::{Progress, Wanted, make_resident};
use super::resolve::{Found, Resolver, Storage, check_demand};
use super::table::{
    Demand, DraftLayerTable, DrafterTable, LayerTable, MlpTable, ModelTable, Shape, SwiGlu,
};
use super::tensor::TensorData;
use crate::config::{self, Announced, DrafterChoice, Quantization, Texts};
use crate::error::{Error, Result};
use crate::matrix::{Bytes, Format, Matrix};
use crate::model::{
    AttentionWeights, DraftLayerWeights, DrafterWeights, ExpertWeights, LayerWeights, MlpWeights,
    Model, QkvWeights, Vector,
};

/// e8m0 byte that stands for NaN.
const E8M0_NAN: u8 = 255;

/// What to load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Which drafter.
    pub drafter: DrafterChoice,
}

/// A drafter handed over in memory.
#[derive(Clone, Debug)]
pub struct DrafterTensors {
    /// Text of its `config.json`.
    pub config_json: String,
    /// Its tensors, by checkpoint name.
    pub tensors: Vec<(String, TensorData)>,
    /// `[hidden]`; without it the target's embedding of the mask token is used.
    pub mask_embedding: Option<TensorData>,
}

/// Loads a checkpoint directory with the drafter in its `dflash/` folder, if any. Files are
/// memory-mapped, weights stay in their stored formats, and every page of them is touched.
///
/// # Errors
/// [`Error::Io`] and [`Error::ModelFormat`] naming the file, and the key or tensor to blame.
pub fn load(dir: &Path, progress: Option<&mut dyn FnMut(Progress)>) -> Result<Model> {
    load_with(dir, &LoadOptions::default(), progress)
}

/// As [`load`], with options.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    dir: &Path,
    options: &LoadOptions,
    progress: Option<&mut dyn FnMut(Progress)>,
) -> Result<Model> {
    let drafter_dir = options.drafter.resolve(dir);
    let announced = config::parse(&Texts::read(dir, drafter_dir.as_deref())?)?;
    let mut catalog = Catalog::open(dir, "", Access::Mapped)?;
    names::unify(&mut catalog)?;
    let target = Loader::new(&catalog, announced.quantization);
    let sidecar;
    let drafter = match &drafter_dir {
        None => None,
        Some(drafter_dir) => {
            let (catalog, mask) = open_drafter(drafter_dir, &announced, Access::Mapped)?;
            sidecar = catalog;
            Some((Loader::new(&sidecar, Quantization::default()), mask))
        }
    };
    let (model, wanted) = assemble(announced, target, drafter)?;
    let mut ignore = |_: Progress| {};
    make_resident(wanted, progress.unwrap_or(&mut ignore));
    check_mxfp4_scales(&model)?;
    Ok(model.model)
}

/// Builds a model from tensors in memory; `config_json` and names are those of a checkpoint.
///
/// # Errors
/// [`Error::ModelFormat`] naming the key or tensor to blame.
pub fn from_tensors(
    config_json: &str,
    tensors: impl IntoIterator<Item = (String, TensorData)>,
    drafter: Option<DrafterTensors>,
) -> Result<Model> {
    let texts = Texts {
        model: config_json.to_owned(),
        generation: None,
        drafter: drafter.as_ref().map(|drafter| drafter.config_json.clone()),
    };
    let announced = config::parse(&texts)?;
    let mut catalog = Catalog::from_memory("tensors", tensors)?;
    names::unify(&mut catalog)?;
    let target = Loader::new(&catalog, announced.quantization);
    let sidecar;
    let drafter = match drafter {
        None => None,
        Some(drafter) => {
            let mut catalog = Catalog::from_memory("drafter tensors", drafter.tensors)?;
            names::unify_drafter(&mut catalog)?;
            let mask = drafter
                .mask_embedding
                .map(|tensor| mask_embedding::from_tensor("mask_embedding", &tensor))
                .transpose()?;
            sidecar = catalog;
            Some((Loader::new(&sidecar, Quantization::default()), mask))
        }
    };
    let (model, _) = assemble(announced, target, drafter)?;
    check_mxfp4_scales(&model)?;
    Ok(model.model)
}

/// Opens a drafter's weight files and its sidecar embedding of masked rows.
pub(crate) fn open_drafter(
    dir: &Path,
    announced: &Announced,
    access: Access,
) -> Result<(Catalog, Option<Vector>)> {
    let prefix = match dir.file_name() {
        Some(name) => format!("{}/", name.to_string_lossy()),
        None => String::new(),
    };
    let mut catalog = Catalog::open(dir, &prefix, access)?;
    names::unify_drafter(&mut catalog)?;
    let mask = match (&announced.spec.drafter, access) {
        (Some(spec), Access::Mapped) => mask_embedding::read(dir, spec.mask_token_id)?,
        _ => None,
    };
    Ok((catalog, mask))
}

/// A model and the names of its MXFP4 scales, for the check that needs their bytes.
struct Assembled {
    model: Model,
    scales: Vec<(String, Bytes)>,
}

fn check_mxfp4_scales(assembled: &Assembled) -> Result<()> {
    use rayon::prelude::*;
    let bad = assembled.scales.par_iter().find_map_first(|(place, bytes)| {
        let at = bytes.as_slice().iter().position(|&byte| byte == E8M0_NAN)?;
        Some(Error::model_format(
            place.clone(),
            format!("scale byte {at} is 255, which is NaN in e8m0"),
        ))
    });
    bad.map_or(Ok(()), Err)
}

fn assemble(
    announced: Announced,
    mut target: Loader<'_>,
    drafter: Option<(Loader<'_>, Option<Vector>)>,
) -> Result<(Assembled, Vec<Wanted>)> {
    let spec = announced.spec;
    check_demand(&spec, target.resolver.catalog)?;
    let table = ModelTable::new(&spec);
    // Everything a header can tell is checked before any data is read.
    target.resolve_all(table.iter(), names::SKIPPED)?;
    let embed = target.matrix(&table.embed)?;
    let layers =
        table.layers.iter().map(|layer| target.layer(layer)).collect::<Result<Vec<_>>>()?;
    let norm = target.vector(&table.norm)?;
    let lm_head = match &table.head {
        Some(head) => target.matrix(head)?,
        None => embed.clone(),
    };
    let mut wanted = target.wanted();
    let mut scales = target.scales;
    let drafter = match (&spec.drafter, drafter) {
        (Some(draft_spec), Some((mut loader, sidecar))) => {
            let table = DrafterTable::new(draft_spec);
            loader.resolve_all(table.iter(), &[names::MASK_EMBEDDING])?;
            let inline = loader.optional_vector(names::MASK_EMBEDDING, spec.hidden)?;
            let mask = mask_embedding::choose(inline, sidecar, spec.hidden)?;
            let mask = match mask {
                Some(mask) => mask,
                None => row_of(&embed, draft_spec.mask_token_id as usize),
            };
            let weights = loader.drafter(&table, mask)?;
            wanted.extend(loader.wanted());
            scales.extend(loader.scales);
            Some(weights)
        }
        _ => None,
    };
    let model = Model { spec, embed, layers, norm, lm_head, drafter };
    Ok((Assembled { model, scales }, wanted))
}

/// One row of an F32 or BF16 matrix, widened.
fn row_of(matrix: &Matrix, row: usize) -> Vector {
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

/// Builds weights from one catalog.
struct Loader<'c> {
    resolver: Resolver<'c>,
    /// Mapped bytes in use: source number -> ranges.
    ranges: BTreeMap<usize, Vec<std::ops::Range<usize>>>,
    scales: Vec<(String, Bytes)>,
}

impl<'c> Loader<'c> {
    fn new(catalog: &'c Catalog, quantization: Quantization) -> Self {
        Self {
            resolver: Resolver::new(catalog, quantization),
            ranges: BTreeMap::new(),
            scales: Vec::new(),
        }
    }

    /// Checks that every demanded tensor is there, and nothing else but `skipped` prefixes.
    fn resolve_all<'d>(
        &mut self,
        demands: impl Iterator<Item = &'d Demand>,
        skipped: &[&str],
    ) -> Result<()> {
        for demand in demands {
            self.resolver.find(demand)?;
        }
        self.resolver.catalog.reject_leftovers(&self.resolver.used, skipped)
    }

    fn bytes(&mut self, name: &str, entry: &Entry) -> Result<Bytes> {
        if let Some((source, range)) = entry.mapped() {
            if !range.is_empty() {
                self.ranges.entry(source).or_default().push(range);
            }
        }
        self.resolver.catalog.bytes(name, entry)
    }

    fn wanted(&mut self) -> Vec<Wanted> {
        std::mem::take(&mut self.ranges)
            .into_iter()
            .filter_map(|(source, ranges)| {
                let (file, map) = self.resolver.catalog.source_map(source)?;
                Some(Wanted { file, map, ranges })
            })
            .collect()
    }

    fn floats(&mut self, name: &str, entry: &Entry, storage: Storage) -> Result<Vector> {
        let values = widen(self.bytes(name, entry)?.as_slice(), storage);
        if let Some(at) = values.iter().position(|value| value.is_nan()) {
            return Err(Error::model_format(
                self.resolver.catalog.place(name, entry),
                format!("element {at} is NaN"),
            ));
        }
        Ok(values)
    }

    fn vector(&mut self, demand: &Demand) -> Result<Vector> {
        let Found { storage, weight: (name, entry), .. } = self.resolver.find(demand)?;
        self.floats(&name, entry, storage)
    }

    /// A vector that may be absent.
    fn optional_vector(&mut self, name: &str, len: usize) -> Result<Option<Vector>> {
        if self.resolver.catalog.get(name).is_none() {
            return Ok(None);
        }
        self.vector(&Demand {
            name: name.to_owned(),
            place: super::table::Place::Drafter,
            part: super::table::Part::Norm,
            shape: Shape::Vector { len },
        })
        .map(Some)
    }

    fn matrix(&mut self, demand: &Demand) -> Result<Matrix> {
        let Shape::Matrix { rows, cols, rows_per_chunk } = demand.shape else {
            return Err(Error::model_format(&demand.name, "expected a matrix"));
        };
        let Found { storage, weight: (name, entry), scale } = self.resolver.find(demand)?;
        let data = self.bytes(&name, entry)?;
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
                let scales = self.bytes(&name, entry)?;
                self.scales.push((self.resolver.catalog.place(&name, entry), scales.clone()));
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

    fn layer(&mut self, table: &LayerTable) -> Result<LayerWeights> {
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

    fn drafter(&mut self, table: &DrafterTable, mask_embedding: Vector) -> Result<DrafterWeights> {
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
