//! Which heads a rank owns, and which rows of which projection those are.

use std::ops::Range;

use crate::spec::{AttentionSpec, HeadMap};
use crate::weights::table::Part;

/// Heads of one attention, and where they sit in its fused projection.
pub(super) struct Shape {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) qk_dim: usize,
    pub(super) v_dim: usize,
    map: Option<HeadMap>,
}

impl Shape {
    pub(super) fn of(spec: &AttentionSpec) -> Self {
        Self {
            map: Some(spec.head_map()),
            ..Self::split(spec.heads, spec.kv_heads, spec.qk_dim, spec.v_dim)
        }
    }

    pub(super) fn split(heads: usize, kv_heads: usize, qk_dim: usize, v_dim: usize) -> Self {
        Self { heads, kv_heads, qk_dim, v_dim, map: None }
    }
}

/// The heads of one rank. A key/value head is on several ranks where there are more ranks than
/// key/value heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeadShare {
    pub(super) query: Range<usize>,
    pub(super) kv: Range<usize>,
}

impl HeadShare {
    /// The share of `rank` of `ranks`, or why there is none.
    pub(super) fn new(shape: &Shape, rank: usize, ranks: usize) -> Result<Self, String> {
        let (heads, kv_heads) = (shape.heads, shape.kv_heads);
        if heads % ranks != 0 {
            return Err(format!("{heads} query heads do not divide over {ranks} ranks"));
        }
        let (own, group) = (heads / ranks, heads / kv_heads);
        if own % group != 0 && group % own != 0 {
            return Err(format!("{kv_heads} key/value heads do not divide over {ranks} ranks"));
        }
        let query = rank * own..(rank + 1) * own;
        let kv = query.start / group..query.end.div_ceil(group);
        Ok(Self { query, kv })
    }

    /// Rows of a projection (or elements of the sinks) that belong to this share.
    pub(super) fn rows(&self, shape: &Shape, part: Part) -> Vec<Range<usize>> {
        let dense = |heads: &Range<usize>, dim: usize| vec![heads.start * dim..heads.end * dim];
        match (part, &shape.map) {
            (Part::Qkv, Some(map)) => {
                let of = |starts: &[usize], heads: &Range<usize>, dim: usize| {
                    starts[heads.clone()].iter().map(|&at| at..at + dim).collect::<Vec<_>>()
                };
                let mut rows = of(&map.q, &self.query, shape.qk_dim);
                rows.extend(of(&map.k, &self.kv, shape.qk_dim));
                rows.extend(of(&map.v, &self.kv, shape.v_dim));
                merged(rows)
            }
            (Part::Key, _) => dense(&self.kv, shape.qk_dim),
            (Part::Value, _) => dense(&self.kv, shape.v_dim),
            (Part::Sinks, _) => dense(&self.query, 1),
            _ => dense(&self.query, shape.qk_dim),
        }
    }
}

/// The same rows as ascending ranges that do not touch.
pub(super) fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut out: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}
