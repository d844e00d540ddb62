//! Which part of every tensor each tensor-parallel rank holds.
//!
//! Attention is split by heads, a feed-forward by its intermediate width, embedding and head by
//! vocabulary, the router by experts and the fusion of taps by its output; norms, the router's
//! bias and the biases of `o_proj` and `down` are on every rank, and one of them adds the latter. One all-reduce after `o_proj` and one after `down` join the
//! ranks, as in Megatron.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one range is what is meant")]

mod heads;
mod stored;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use heads::HeadShare;
pub use stored::{StoredScales, StoredSlice};

use super::table::{Demand, DrafterTable, ModelTable, Part, Place, Shape};
use crate::error::{Error, Result};
use crate::spec::{DrafterSpec, ModelSpec};

/// Ranks a plan can be made for.
const MAX_RANKS: usize = 64;
/// Widths are cut where neither an FP8 nor an MXFP4 block is, as long as there are enough blocks.
const GRANULES: [usize; 2] = [128, 32];

/// What one rank holds of a tensor, in elements. A vector `[n]` counts as `n` rows of 1 column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Ascending, disjoint row ranges.
    pub rows: Vec<Range<usize>>,
    /// Columns of each of those rows.
    pub cols: Range<usize>,
}

/// One tensor and its slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlan {
    /// Name in the checkpoint; without `.weight` where it is a matrix.
    pub name: String,
    /// Rows, in elements.
    pub rows: usize,
    /// Columns, in elements; 1 for a vector.
    pub cols: usize,
    /// Rows after which an FP8 scale grid starts anew.
    pub rows_per_chunk: usize,
    /// One slice per rank.
    pub slices: Arc<[Slice]>,
}

/// The slices of every tensor of a model and of its drafter.
#[derive(Clone, Debug)]
pub struct WeightPlan {
    /// Number of ranks.
    pub ranks: usize,
    /// Target tensors, in order of use.
    pub target: Vec<TensorPlan>,
    /// Drafter tensors, in order of use.
    pub drafter: Vec<TensorPlan>,
}

impl WeightPlan {
    /// Plans `spec` for `ranks` ranks.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] on `ranks` where query heads do not divide evenly, or where a
    /// rank's query heads would straddle key/value heads.
    pub fn new(spec: &ModelSpec, ranks: usize) -> Result<Self> {
        if !(1..=MAX_RANKS).contains(&ranks) {
            return Err(Error::invalid("ranks", format!("{ranks}, expected 1..={MAX_RANKS}")));
        }
        let cuts = Cuts { spec, ranks };
        let plan = |demands: Vec<&Demand>| -> Result<Vec<TensorPlan>> {
            demands.into_iter().map(|demand| cuts.plan(demand)).collect()
        };
        Ok(Self {
            ranks,
            target: plan(ModelTable::new(spec).iter().collect())?,
            drafter: match &spec.drafter {
                Some(drafter) => plan(DrafterTable::new(drafter).iter().collect())?,
                None => Vec::new(),
            },
        })
    }
}

struct Cuts<'s> {
    spec: &'s ModelSpec,
    ranks: usize,
}

impl Cuts<'_> {
    fn plan(&self, demand: &Demand) -> Result<TensorPlan> {
        let (rows, cols, rows_per_chunk) = match demand.shape {
            Shape::Vector { len } => (len, 1, len),
            Shape::Matrix { rows, cols, rows_per_chunk } => (rows, cols, rows_per_chunk),
        };
        let slices: Vec<Slice> = match demand.part {
            Part::Norm | Part::RouterBias | Part::Bias => {
                vec![Slice { rows: vec![0..rows], cols: 0..cols }; self.ranks]
            }
            Part::Embed | Part::Head | Part::Router | Part::FuseTaps => {
                by_rows(balanced(rows, 1, self.ranks), cols)
            }
            Part::Gate | Part::Up => by_rows(widths(rows, self.ranks), cols),
            Part::Down => widths(cols, self.ranks)
                .into_iter()
                .map(|cols| Slice { rows: vec![0..rows], cols })
                .collect(),
            Part::Qkv | Part::Query | Part::Key | Part::Value | Part::Output | Part::Sinks => {
                self.attention(demand, rows, cols)?
            }
        };
        let slices = slices.into();
        Ok(TensorPlan { name: demand.name.clone(), rows, cols, rows_per_chunk, slices })
    }

    /// Slices of a tensor that is split by heads.
    fn attention(&self, demand: &Demand, rows: usize, cols: usize) -> Result<Vec<Slice>> {
        let shape = match (demand.place, &self.spec.drafter) {
            (Place::DraftLayer(_), Some(drafter)) => heads::Shape::of_drafter(drafter),
            (Place::Layer(layer), _) => heads::Shape::of(&self.spec.layers[layer].attention),
            _ => return Err(Error::model_format(&demand.name, "not part of a layer")),
        };
        (0..self.ranks)
            .map(|rank| {
                let share = HeadShare::new(&shape, rank, self.ranks).map_err(|reason| {
                    let drafter = matches!(demand.place, Place::DraftLayer(_));
                    let whose = if drafter { "drafter" } else { "target" };
                    Error::invalid("ranks", format!("{whose}: {reason}"))
                })?;
                Ok(match demand.part {
                    Part::Output => {
                        let q = &share.query;
                        let cols = q.start * shape.v_dim..q.end * shape.v_dim;
                        Slice { rows: vec![0..rows], cols }
                    }
                    part => Slice { rows: share.rows(&shape, part), cols: 0..cols },
                })
            })
            .collect()
    }
}

fn by_rows(ranges: Vec<Range<usize>>, cols: usize) -> Vec<Slice> {
    ranges.into_iter().map(|rows| Slice { rows: vec![rows], cols: 0..cols }).collect()
}

/// `0..len` in `ranks` consecutive ranges whose ends lie on multiples of `granule` (or on `len`)
/// and whose sizes differ by at most one granule.
fn balanced(len: usize, granule: usize, ranks: usize) -> Vec<Range<usize>> {
    let blocks = len.div_ceil(granule);
    let end = |rank: usize| (blocks * rank / ranks * granule).min(len);
    (0..ranks).map(|rank| end(rank)..end(rank + 1)).collect()
}

/// Ranges of an intermediate width: the same for gate, up and down.
fn widths(inter: usize, ranks: usize) -> Vec<Range<usize>> {
    let even = GRANULES.into_iter().find(|granule| inter % (granule * ranks) == 0);
    balanced(inter, even.unwrap_or(GRANULES[1]), ranks)
}

impl heads::Shape {
    fn of_drafter(spec: &DrafterSpec) -> Self {
        Self::split(spec.heads, spec.kv_heads, spec.head_dim, spec.head_dim)
    }
}
