//! Bytes that a pass reads, that a cache takes and that a rank holds.

use serde::Serialize;

use crate::error::Error;
use crate::spec::{MlpSpec, ModelSpec, MoeSpec};
use crate::weights::WeightPlan;
use crate::weights::resolve::Found;
use crate::weights::table::{Demand, Part, Place};

/// Rows of a verify pass that is reported.
const VERIFY_ROWS: usize = 8;
/// Bytes of a cached element.
const BF16: u64 = 2;

/// Weight bytes read per forward pass.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReadBytes {
    /// Everything that is read whatever the tokens are: all but embedding and experts.
    pub fixed: u64,
    /// Bytes of one expert, averaged over the layers.
    pub expert: u64,
    /// A pass of one row.
    pub decode: u64,
    /// A pass of 8 rows whose experts are drawn independently and uniformly: an upper bound,
    /// since the rows of one block route alike.
    pub verify8: u64,
    /// Distinct experts per layer that such a pass meets.
    pub verify8_experts: f64,
    /// A pass of the drafter, the target's head included.
    pub draft: Option<u64>,
}

/// Bytes of the key/value caches, at BF16.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KvBytes {
    /// Per cached token, in the full-attention layers.
    pub per_token: u64,
    /// Per sequence, in the sliding layers (window rows, without room for rejected drafts).
    pub sliding_per_sequence: u64,
    /// Per sequence, in the drafter's sliding layers.
    pub drafter_per_sequence: u64,
    /// Per cached token, in the drafter's full layers.
    pub drafter_per_token: u64,
}

/// Weight bytes on one rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RankMemory {
    /// Number of ranks.
    pub ranks: usize,
    /// Weight bytes on the fullest rank, drafter included.
    pub bytes: Option<u64>,
    /// Why there is no such plan.
    pub reason: Option<String>,
}

/// Expected number of distinct experts that `rows` rows meet, each choosing `top_k` of `experts`
/// uniformly and independently: `E (1 - (1 - k/E)^rows)` (mimo_spec 7.2). An upper bound: rows of a
/// text route alike.
pub fn distinct_experts(experts: f64, top_k: f64, rows: f64) -> f64 {
    experts * (1.0 - (1.0 - top_k / experts).powf(rows))
}

pub(super) fn reads(
    spec: &ModelSpec,
    target: &[(&Demand, Found<'_>)],
    draft: &[(&Demand, Found<'_>)],
) -> ReadBytes {
    let bytes = |keep: &dyn Fn(&Demand) -> bool| -> u64 {
        target
            .iter()
            .filter(|(demand, _)| keep(demand))
            .map(|(_, found)| found.num_bytes())
            .fold(0, u64::saturating_add)
    };
    let is_expert = |demand: &Demand| matches!(demand.place, Place::Expert { .. });
    let embed = bytes(&|demand| demand.part == Part::Embed);
    let tied = if spec.tied_head { embed } else { 0 };
    let fixed = tied + bytes(&|demand| demand.part != Part::Embed && !is_expert(demand));
    let all_experts = bytes(&is_expert) as f64;
    let head = if spec.tied_head { embed } else { bytes(&|demand| demand.part == Part::Head) };
    let moe: Vec<_> = spec
        .layers
        .iter()
        .filter_map(|layer| match &layer.mlp {
            MlpSpec::Moe(moe) => Some(moe),
            MlpSpec::Dense { .. } => None,
        })
        .collect();
    // One configuration serves every sparse layer.
    let touched = |rows: usize| {
        let distinct =
            |moe: &&MoeSpec| distinct_experts(moe.experts as f64, moe.top_k as f64, rows as f64);
        moe.first().map_or(0.0, distinct)
    };
    let share = |rows: usize| touched(rows) / moe.first().map_or(1.0, |moe| moe.experts as f64);
    let count: usize = moe.iter().map(|moe| moe.experts).sum();
    let pass = |rows: usize| {
        let rows_of_embedding = embed / spec.vocab as u64 * rows as u64;
        fixed + rows_of_embedding + (all_experts * share(rows)).round() as u64
    };
    ReadBytes {
        fixed,
        expert: (all_experts / (count.max(1)) as f64).round() as u64,
        decode: pass(1),
        verify8: pass(VERIFY_ROWS),
        verify8_experts: touched(VERIFY_ROWS),
        draft: (!draft.is_empty())
            .then(|| head + draft.iter().map(|(_, found)| found.num_bytes()).sum::<u64>()),
    }
}

pub(super) fn kv(spec: &ModelSpec) -> KvBytes {
    let (mut per_token, mut sliding) = (0_u64, 0_u64);
    for attention in spec.layers.iter().map(|layer| &layer.attention) {
        let row = (attention.kv_heads * (attention.qk_dim + attention.v_dim)) as u64 * BF16;
        match attention.window {
            None => per_token += row,
            Some(window) => sliding = sliding.saturating_add(row.saturating_mul(window as u64)),
        }
    }
    let (mut drafter_per_token, mut drafter_per_sequence) = (0_u64, 0_u64);
    if let Some(drafter) = &spec.drafter {
        let row = (drafter.kv_heads * 2 * drafter.head_dim) as u64 * BF16;
        for window in &drafter.windows {
            match window {
                None => drafter_per_token += row,
                Some(window) => {
                    drafter_per_sequence =
                        drafter_per_sequence.saturating_add(row.saturating_mul(*window as u64));
                }
            }
        }
    }
    KvBytes { per_token, sliding_per_sequence: sliding, drafter_per_sequence, drafter_per_token }
}

/// Why there is no plan, without the parameter's name: the row says which rank count it is.
pub(super) fn reason(error: Error) -> String {
    match error {
        Error::InvalidRequest { reason, .. } => reason,
        other => other.to_string(),
    }
}

pub(super) fn rank_memory(
    plan: &WeightPlan,
    target: &[(&Demand, Found<'_>)],
    draft: &[(&Demand, Found<'_>)],
) -> RankMemory {
    let ranks = plan.ranks;
    let mut held = vec![0_u64; ranks];
    let tensors = plan.target.iter().zip(target).chain(plan.drafter.iter().zip(draft));
    for (tensor, (_, found)) in tensors {
        for (held, slice) in held.iter_mut().zip(tensor.slices.iter()) {
            match tensor.stored_as(slice, found.storage) {
                Ok(stored) => *held = held.saturating_add(stored.num_bytes()),
                Err(error) => {
                    return RankMemory { ranks, bytes: None, reason: Some(reason(error)) };
                }
            }
        }
    }
    RankMemory { ranks, bytes: held.into_iter().max(), reason: None }
}
