//! What a model would cost on a GPU, before anything is downloaded: from its configuration alone.
//!
//! Two predictions stand side by side and are never mixed. The *floor* is physics: bytes over the
//! measured read rate, and one hop per op that waits for the one before. *Today* is this engine: the
//! ops that it lowers the model to, each at the cost measured for its kind and mode.

mod attention;
mod bench;
mod card;
mod constants;
mod cost;
mod display;
mod economy;
mod flops;
mod memory;
mod predict;
mod request;
mod source;
#[cfg(test)]
mod tests;

pub use crate::inspect::distinct_experts;
pub use bench::{BenchTimes, bench_times};
pub use card::{CARDS, Card};
pub use constants::{CONSTANTS, Constant, Origin};
pub use economy::{Choice, Comparison, Economy};
pub use memory::{ComponentBytes, Memory};
pub use predict::{OpTotal, Prediction, Ratios, Round, Times};
pub use request::PlanRequest;
use serde::Serialize;

use crate::backend::gpu::outline::{Outline, PassShape, outline, share};
use crate::error::Result;
use crate::model::Model;
use crate::spec::{MlpSpec, ModelSpec};
use crate::testing::{Stored, hollow_model};
use predict::Predictor;
use source::Source;

/// Everything that a plan says. Times are milliseconds, sizes bytes, rates per second.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The configuration as given, and what it is.
    pub config: String,
    /// `model_type`.
    pub family: String,
    /// How the weights are taken to be stored, by kind.
    pub formats: Vec<(&'static str, &'static str)>,
    /// The card.
    pub gpu: Card,
    /// GPUs that share the model.
    pub tp: usize,
    /// Positions in the cache of each sequence.
    pub context: usize,
    /// Rows of a drafter block; `None` without a drafter.
    pub block: Option<usize>,
    /// Whether one sequence of `context` positions fits.
    pub fits: bool,
    /// Where it does not fit: the smallest number of GPUs on which it does, if any up to 64.
    pub fits_from_tp: Option<usize>,
    /// Bytes on each GPU.
    pub memory: Memory,
    /// A step that makes one token.
    pub plain: Prediction,
    /// A round of draft, verify, accept and commit.
    pub round: Option<Round>,
    /// Latency against throughput.
    pub economy: Economy,
    /// Where `today` comes from.
    pub constants: &'static [Constant],
    /// What is not in these numbers, and what they assume.
    pub notes: Vec<String>,
}

/// One rank's model without bytes, lowered for `sequences` sequences.
fn lowered(model: &Model, request: &PlanRequest, card: &Card, sequences: usize) -> Result<Outline> {
    outline(model, request.limits(sequences), card.sms)
}

/// Plans.
///
/// # Errors
/// [`crate::Error::InvalidRequest`] naming what is out of range; [`crate::Error::Io`] and
/// [`crate::Error::ModelFormat`] naming file and key where a configuration cannot be read or is not
/// understood, or has a shape that the engine has no op for.
pub fn plan(request: &PlanRequest) -> Result<Plan> {
    let card = card::find(&request.gpu)?;
    let source = Source::read(request)?;
    let request = &request.for_spec(&source.spec);
    request.check(&source.spec)?;
    let spec = share(source.spec.clone(), request.tp)?;
    let model = hollow_model(spec, source.formats);
    let outline = lowered(&model, request, card, 1)?;
    let memory = memory::Memory::new(&outline, &lowered(&model, request, card, 2)?, card);
    let fits = memory.left.is_some();
    let predictor = Predictor::new(card, request, &outline);
    let plain = predictor.plain(1);
    let block = (outline.block_rows > 0).then(|| request.block.unwrap_or(outline.block_rows));
    if let Some(block) = block {
        request.check_block(block, outline.block_rows)?;
    }
    let round = block.map(|block| predictor.round(block, &plain));
    let flops = flops::Flops::new(&model.spec, request.context());
    let economy = Economy::new(&predictor, request, &memory, &plain, round.as_ref(), flops);
    Ok(Plan {
        config: source.name.clone(),
        family: source.spec.family.clone(),
        formats: source.format_names(),
        gpu: card.clone(),
        tp: request.tp,
        context: request.context(),
        block,
        fits,
        fits_from_tp: if fits { None } else { more_ranks(request, &source, card) },
        memory,
        plain,
        economy,
        constants: CONSTANTS,
        notes: notes(request, card, &source, round.is_some()),
        round,
    })
}

/// The smallest power of two of GPUs beyond those asked for on which the model fits.
fn more_ranks(request: &PlanRequest, source: &Source, card: &Card) -> Option<usize> {
    const MOST: usize = 64;
    let next = (request.tp + 1).next_power_of_two();
    std::iter::successors(Some(next), |ranks| Some(ranks * 2)).take_while(|r| *r <= MOST).find(
        |ranks| {
            let Ok(spec) = share(source.spec.clone(), *ranks) else { return false };
            let model = hollow_model(spec, source.formats);
            lowered(&model, request, card, 1)
                .is_ok_and(|outline| Memory::new(&outline, &outline, card).left.is_some())
        },
    )
}

fn has_experts(spec: &ModelSpec) -> bool {
    spec.layers.iter().any(|layer| matches!(layer.mlp, MlpSpec::Moe(_)))
}

fn notes(request: &PlanRequest, card: &Card, source: &Source, has_drafter: bool) -> Vec<String> {
    let mut notes = vec![source.note.clone()];
    if !card.is_measured {
        notes.push(format!(
            "{}: not measured; its read rate is the vendor's, times what an H200 reached of its \
             own ({:.1} %)",
            card.name,
            100.0 * card::measured_share()
        ));
    }
    if !card.has_kernels {
        notes.push(format!(
            "{}: the engine's kernels were measured on sm_90a alone, so there is no \"today\"",
            card.name
        ));
    }
    if request.tp > 1 {
        notes.push(match request.allreduce_us {
            Some(us) => format!("a sum over {} GPUs: {us} us as told, not measured", request.tp),
            None => format!(
                "sums over {} GPUs take no time here; --allreduce-us adds what one of them takes",
                request.tp
            ),
        });
        notes.push(
            "the engine runs on one GPU today: \"today\" is what one rank's share takes".to_owned(),
        );
    }
    if has_experts(&source.spec) {
        notes.push(
            "experts that several rows touch: E (1 - (1 - k/E)^rows), an upper bound; in benches of \
             MiMo-V2.5-Pro 8 rows touched 51 (whole model), 57 (stack of layers) and 59.2 (drawn \
             at random) where the formula has 59.5"
                .to_owned(),
        );
    }
    if has_experts(&source.spec) && source.formats.experts != Stored::Mxfp4 {
        notes
            .push("experts: their share of the read rate was measured with MXFP4 alone".to_owned());
    }
    if !has_drafter {
        notes.push("no drafter: no rounds with drafts (--drafter DIR names one)".to_owned());
    }
    notes.push("prefill, prompts and sampling with filters are not in these numbers".to_owned());
    notes
}

/// A pass of `sequences` sequences with `rows` rows each.
fn pass_of(sequences: usize, rows: usize, context: usize) -> PassShape {
    PassShape { sequences: sequences as u64, rows_each: rows as u64, context: context as u64 }
}
