//! Tensors that hold all experts of a layer: one entry per expert and matrix.
//!
//! | tensor | gates first | gate and up alternate |
//! |---|---|---|
//! | `gate_up_proj` | `[E, 2 inter, hidden]` | `[E, hidden, 2 inter]` |
//! | `down_proj` | `[E, hidden, inter]` | `[E, inter, hidden]` |
//! | `gate_up_proj_blocks`, `_scales` | | `[E, 2 inter, hidden / 32, 16]`, without the 16 |
//! | `gate_up_proj_bias` | | `[E, 2 inter]` |

use crate::config::Announced;
use crate::spec::MlpSpec;
use crate::weights::catalog::{Entry, Layout};

type Parts = Option<Vec<(String, Entry)>>;

/// The matrices in a stacked tensor, in the order their rows come.
const GATE_UP: [&str; 2] = ["gate_proj", "up_proj"];
const DOWN: [&str; 1] = ["down_proj"];

/// What stands for a stacked tensor. `None` (keep the tensor, which is then unexpected) where it
/// is none, or does not hold as many experts as the model has.
pub(super) fn unstack(name: &str, entry: &Entry, announced: &Announced) -> Parts {
    let (prefix, tensor) = name.rsplit_once(".experts.")?;
    let (parts, what): (&[&str], _) = match tensor.split_once("_proj")? {
        ("gate_up", what) => (&GATE_UP, what),
        ("down", what) => (&DOWN, what),
        _ => return None,
    };
    let (&experts, inner) = entry.shape.split_first()?;
    let expected = announced.spec.layers.iter().find_map(|layer| match &layer.mlp {
        MlpSpec::Moe(moe) => Some(moe.experts),
        MlpSpec::Dense { .. } => None,
    })?;
    if experts != expected || entry.num_bytes() == 0 {
        return None;
    }
    let interleaved = announced.quantization.interleaved;
    let mut out = Vec::new();
    for expert in 0..experts {
        let whole = entry.part(expert..expert + 1, inner.to_vec())?;
        for (at, part) in parts.iter().enumerate() {
            let (suffix, piece) = match (what, interleaved) {
                ("", false) => ("weight", block(&whole, at, parts.len())?),
                ("", true) => ("weight", transposed(&whole, at, parts.len())?),
                ("_blocks", true) => ("weight", every_row(&whole, at, parts.len())?),
                ("_scales", true) => ("weight_scale", every_row(&whole, at, parts.len())?),
                ("_bias", true) => ("bias", every_row(&whole, at, parts.len())?),
                _ => return None,
            };
            out.push((format!("{prefix}.experts.{expert}.{part}.{suffix}"), piece));
        }
    }
    Some(out)
}

/// Block number `at` of `count` equal blocks of rows.
fn block(whole: &Entry, at: usize, count: usize) -> Option<Entry> {
    let &[rows, cols] = whole.shape.as_slice() else { return None };
    let own = rows / count;
    (rows % count == 0).then(|| whole.part(at * own..(at + 1) * own, vec![own, cols]))?
}

/// Every `count`-th row from `at` on; dimensions within a row become one.
fn every_row(whole: &Entry, at: usize, count: usize) -> Option<Entry> {
    let (&rows, inner) = whole.shape.split_first()?;
    let mut shape = vec![rows / count];
    if !inner.is_empty() {
        shape.push(inner.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim))?);
    }
    let layout = match count {
        1 => Layout::Dense,
        step => Layout::EveryRow { first: at, step },
    };
    (rows % count == 0).then(|| whole.view(shape, layout))
}

/// Every `count`-th column from `at` on, as rows.
fn transposed(whole: &Entry, at: usize, count: usize) -> Option<Entry> {
    let &[cols, width] = whole.shape.as_slice() else { return None };
    let layout = Layout::Transposed { first: at, step: count, width };
    (width % count == 0).then(|| whole.view(vec![width / count, cols], layout))
}
