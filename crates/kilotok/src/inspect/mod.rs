//! What a checkpoint is and costs, from its configuration and headers alone.
//!
//! Tensor data is never read: files cut off after their headers are enough.

mod census;
mod display;
mod summary;
mod traffic;

use std::path::Path;

pub use census::CensusRow;
use serde::Serialize;
pub use summary::{AttentionSummary, DrafterSummary, ModelSummary};
pub use traffic::{KvBytes, RankMemory, ReadBytes, distinct_experts};

use crate::config::{self, Announced, DrafterChoice, Quantization, Texts};
use crate::error::Result;
use crate::weights::catalog::{Access, Catalog};
use crate::weights::resolve::{Resolver, check_outline};
use crate::weights::table::{DrafterTable, ModelTable};
use crate::weights::{WeightPlan, names, open_drafter};

/// Rank counts that memory is reported for.
const RANKS: [usize; 4] = [1, 2, 4, 8];

/// Everything `inspect` finds out. All sizes are bytes, all counts exact.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Directory as given.
    pub directory: String,
    /// Shape of the target.
    pub model: ModelSummary,
    /// Shape of the drafter.
    pub drafter: Option<DrafterSummary>,
    /// Tensors by component and stored dtype.
    pub census: Vec<CensusRow>,
    /// Tensors in all.
    pub tensors: u64,
    /// Stored elements in all, scales included.
    pub stored_elements: u64,
    /// Stored bytes in all.
    pub bytes: u64,
    /// Weight bytes read per forward pass, over all ranks together.
    pub reads: ReadBytes,
    /// Bytes of the key/value caches, at BF16.
    pub kv: KvBytes,
    /// Weight bytes on the fullest rank, per number of ranks.
    pub memory_per_rank: Vec<RankMemory>,
}

/// Inspects the checkpoint in `dir`, with the drafter in its `dflash/` folder.
///
/// # Errors
/// [`crate::Error::Io`] and [`crate::Error::ModelFormat`] as loading would raise them, except
/// for what only tensor data can tell.
pub fn inspect(dir: &Path) -> Result<Inspection> {
    inspect_with(dir, &DrafterChoice::Auto)
}

/// As [`inspect`], with another drafter or none.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_with(dir: &Path, drafter: &DrafterChoice) -> Result<Inspection> {
    let drafter_dir = drafter.resolve(dir);
    let announced = config::parse(&Texts::read(dir, drafter_dir.as_deref())?)?;
    let mut catalog = Catalog::open(dir, "", Access::Headers)?;
    names::unify(&mut catalog, &announced)?;
    let sidecar = match &drafter_dir {
        Some(dir) => Some(open_drafter(dir, &announced, Access::Headers)?.0),
        None => None,
    };
    summarise(dir, &announced, &catalog, sidecar.as_ref())
}

fn summarise(
    dir: &Path,
    announced: &Announced,
    catalog: &Catalog,
    sidecar: Option<&Catalog>,
) -> Result<Inspection> {
    let spec = &announced.spec;
    check_outline(spec, catalog)?;
    let table = ModelTable::new(spec);
    let mut resolver = Resolver::new(catalog, announced.quantization);
    let target = table
        .iter()
        .map(|demand| Ok((demand, resolver.find(demand)?)))
        .collect::<Result<Vec<_>>>()?;
    catalog.reject_leftovers(&resolver.used, names::SKIPPED)?;
    let mut census = census::Census::default();
    for (demand, found) in &target {
        census.add(census::component(demand), found);
    }
    census.add_leftovers(catalog, &resolver.used);

    let draft_table = spec.drafter.as_ref().map(DrafterTable::new);
    let mut draft = Vec::new();
    if let (Some(table), Some(sidecar)) = (&draft_table, sidecar) {
        let mut resolver = Resolver::new(sidecar, Quantization::default());
        for demand in table.iter() {
            draft.push((demand, resolver.find(demand)?));
        }
        sidecar.reject_leftovers(&resolver.used, &[names::MASK_EMBEDDING])?;
        for (_, found) in &draft {
            census.add("drafter", found);
        }
        census.add_leftovers(sidecar, &resolver.used);
    }

    let memory_per_rank = RANKS
        .into_iter()
        .map(|ranks| match WeightPlan::new(spec, ranks) {
            Ok(plan) => traffic::rank_memory(&plan, &target, &draft),
            Err(error) => RankMemory { ranks, bytes: None, reason: Some(traffic::reason(error)) },
        })
        .collect();
    let census = census.rows();
    Ok(Inspection {
        directory: dir.display().to_string(),
        model: summary::model(spec, &target),
        drafter: spec.drafter.as_ref().map(|drafter| summary::drafter(drafter, &draft)),
        tensors: census.iter().map(|row| row.tensors).sum(),
        stored_elements: census.iter().map(|row| row.elements).sum(),
        bytes: census.iter().map(|row| row.bytes).sum(),
        census,
        reads: traffic::reads(spec, &target, &draft),
        kv: traffic::kv(spec),
        memory_per_rank,
    })
}
