//! Checkpoint -> [`Model`].

use std::path::Path;

use super::build::{Builder, row_of};
use super::catalog::{Access, Catalog};
use super::mask_embedding;
use super::names;
use super::progress::{Progress, make_resident};
use super::resolve::check_outline;
use super::table::{DrafterTable, ModelTable};
use super::tensor::TensorData;
use crate::config::{self, Announced, DrafterChoice, Quantization, Texts};
use crate::error::Result;
use crate::model::{Model, Vector};

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
/// [`crate::Error::Io`] and [`crate::Error::ModelFormat`] naming the file, and the key or tensor to blame.
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
    names::unify(&mut catalog, &announced)?;
    let target = Builder::new(&catalog, announced.quantization);
    let sidecar;
    let drafter = match &drafter_dir {
        None => None,
        Some(drafter_dir) => {
            let (catalog, mask) = open_drafter(drafter_dir, &announced, Access::Mapped)?;
            sidecar = catalog;
            Some((Builder::new(&sidecar, Quantization::default()), mask))
        }
    };
    let mut ignore = |_: Progress| {};
    assemble(announced, target, drafter, progress.unwrap_or(&mut ignore))
}

/// Builds a model from tensors in memory; `config_json` and names are those of a checkpoint.
///
/// # Errors
/// [`crate::Error::ModelFormat`] naming the key or tensor to blame.
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
    names::unify(&mut catalog, &announced)?;
    let target = Builder::new(&catalog, announced.quantization);
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
            Some((Builder::new(&sidecar, Quantization::default()), mask))
        }
    };
    assemble(announced, target, drafter, &mut |_| {})
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

fn assemble(
    announced: Announced,
    mut target: Builder<'_>,
    drafter: Option<(Builder<'_>, Option<Vector>)>,
    report: &mut dyn FnMut(Progress),
) -> Result<Model> {
    let spec = announced.spec;
    check_outline(&spec, target.resolver.catalog)?;
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
    let mut residents = vec![(target.kept, target.resolver.catalog)];
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
            let catalog = loader.resolver.catalog;
            residents.push((loader.kept, catalog));
            Some(weights)
        }
        _ => None,
    };
    make_resident(residents, report)?;
    Ok(Model { spec, embed, layers, norm, lm_head, drafter })
}
