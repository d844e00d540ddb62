//! Bytes on one GPU, by what they are for.

use kilotok_gpu::pool::DEFAULT_FRACTION;
use serde::Serialize;

use super::card::Card;
use crate::backend::gpu::outline::{Outline, Purpose, RegionBytes};

/// Memory of one GPU with one sequence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// By component, in the order in which a token meets them.
    pub components: Vec<ComponentBytes>,
    /// Their sum.
    pub needed: u64,
    /// What the engine takes of a card that is otherwise empty.
    pub available: u64,
    /// What is left; `None` where it does not fit.
    pub left: Option<u64>,
    /// What each further sequence needs.
    pub per_sequence: u64,
    /// Sequences that fit; 0 where none does.
    pub sequences: u64,
}

/// Bytes for one purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ComponentBytes {
    /// `embedding`, `qkv`, `o_proj`, `dense_mlp`, `router`, `experts`, `vectors`, `head`, `drafter`,
    /// `kv_cache`, `window_cache`, `drafter_cache`, `exchange` (activations), `program`.
    pub name: &'static str,
    /// Bytes, as packed for the device.
    pub bytes: u64,
}

const NAMES: [&str; 14] = [
    "embedding",
    "qkv",
    "o_proj",
    "dense_mlp",
    "router",
    "experts",
    "vectors",
    "head",
    "drafter",
    "kv_cache",
    "window_cache",
    "drafter_cache",
    "exchange",
    "program",
];

fn component(region: &RegionBytes) -> &'static str {
    let name = region.name.as_str();
    let is_drafters = name.starts_with("drafter");
    match region.purpose {
        Purpose::Kv => "kv_cache",
        Purpose::Rings if is_drafters => "drafter_cache",
        Purpose::Rings => "window_cache",
        Purpose::Exchange => "exchange",
        Purpose::Program => "program",
        Purpose::Weights if is_drafters => "drafter",
        Purpose::Weights => match name {
            "embed" => "embedding",
            "lm_head" => "head",
            _ if name.contains(".experts.") => "experts",
            _ if name.ends_with(".router") => "router",
            _ if name.contains(".qkv") => "qkv",
            _ if name.contains(".o_proj") => "o_proj",
            _ if name.contains(".mlp.") && !name.contains("router") => "dense_mlp",
            _ => "vectors",
        },
    }
}

impl Memory {
    /// Of `one` sequence, and of as many as fit where `two` need so much more.
    pub(super) fn new(one: &Outline, two: &Outline, card: &Card) -> Self {
        let of = |name: &str| {
            let bytes = one.regions.iter().filter(|region| component(region) == name);
            bytes.map(|region| region.bytes).sum()
        };
        let components: Vec<_> = NAMES
            .into_iter()
            .map(|name| ComponentBytes { name, bytes: of(name) })
            .filter(|component| component.bytes > 0)
            .collect();
        let total = |outline: &Outline| outline.regions.iter().map(|r| r.bytes).sum::<u64>();
        let needed = total(one);
        let per_sequence = total(two) - needed;
        let available = (card.memory_bytes as f64 * DEFAULT_FRACTION) as u64;
        let left = available.checked_sub(needed);
        let sequences = left.map_or(0, |left| 1 + left / per_sequence.max(1));
        Self { components, needed, available, left, per_sequence, sequences }
    }
}
