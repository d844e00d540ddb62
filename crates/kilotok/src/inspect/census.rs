//! Tensors and bytes by component and dtype.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use crate::weights::catalog::{Catalog, Entry};
use crate::weights::resolve::Found;
use crate::weights::table::{Demand, Part, Place};

/// One row of the census.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CensusRow {
    /// `embedding`, `qkv`, `o_proj`, `dense_mlp`, `router`, `experts`, `norms`, `sinks`, `head`,
    /// `mtp`, `encoders`, `drafter`.
    pub component: &'static str,
    /// Stored dtype, by its safetensors name.
    pub dtype: String,
    /// Number of tensors.
    pub tensors: u64,
    /// Stored elements; a U8 element of MXFP4 weights holds two.
    pub elements: u64,
    /// Stored bytes.
    pub bytes: u64,
}

/// The component that a demanded tensor belongs to.
pub(super) fn component(demand: &Demand) -> &'static str {
    match (demand.part, demand.place) {
        (_, Place::Drafter | Place::DraftLayer(_)) => "drafter",
        (_, Place::Expert { .. }) => "experts",
        (Part::Embed, _) => "embedding",
        (Part::Head, _) => "head",
        (Part::Norm, _) => "norms",
        (Part::Sinks, _) => "sinks",
        (Part::Qkv | Part::Query | Part::Key | Part::Value, _) => "qkv",
        (Part::Output | Part::Bias, _) => "o_proj",
        (Part::Router | Part::RouterBias, _) => "router",
        (Part::Gate | Part::Up | Part::Down | Part::FuseTaps, _) => "dense_mlp",
    }
}

/// Counts per component and dtype.
#[derive(Default)]
pub(super) struct Census {
    counts: BTreeMap<(&'static str, String), [u64; 3]>,
    /// Stored tensors of which a part was counted.
    parts: BTreeSet<Arc<str>>,
}

impl Census {
    fn count(&mut self, component: &'static str, entry: &Entry) {
        let key = (component, entry.dtype.name().to_owned());
        let [tensors, elements, bytes] = self.counts.entry(key).or_default();
        // Many experts may be one tensor.
        let counted = entry.stored.as_ref().is_some_and(|name| !self.parts.insert(name.clone()));
        *tensors += u64::from(!counted);
        *elements = elements.saturating_add(entry.num_elements() as u64);
        *bytes = bytes.saturating_add(entry.num_bytes() as u64);
    }

    /// Counts a tensor and its scales.
    pub(super) fn add(&mut self, component: &'static str, found: &Found<'_>) {
        self.count(component, found.weight.1);
        if let Some((_, entry)) = &found.scale {
            self.count(component, entry);
        }
    }

    /// Counts the tensors that no part of the model uses.
    pub(super) fn add_leftovers(&mut self, catalog: &Catalog, used: &BTreeSet<String>) {
        for (name, entry) in catalog.iter().filter(|(name, _)| !used.contains(*name)) {
            let component = if name.starts_with("model.mtp.") {
                "mtp"
            } else if name == crate::weights::names::MASK_EMBEDDING {
                "drafter"
            } else {
                "encoders"
            };
            self.count(component, entry);
        }
    }

    pub(super) fn rows(self) -> Vec<CensusRow> {
        self.counts
            .into_iter()
            .map(|((component, dtype), [tensors, elements, bytes])| CensusRow {
                component,
                dtype,
                tensors,
                elements,
                bytes,
            })
            .collect()
    }
}
