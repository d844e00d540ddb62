//! GPUs that can be planned for.

use serde::Serialize;

use super::constants;
use crate::error::{Error, Result};

/// A GPU. Only the H200 was measured; the rest is what vendors print.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Card {
    /// What `--gpu` takes.
    pub name: &'static str,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes per second on the vendor's data sheet.
    pub vendor_bytes_per_s: f64,
    /// bfloat16 operations per second on the vendor's data sheet, without sparsity.
    pub vendor_flops: f64,
    /// Multiprocessors.
    pub sms: u32,
    /// Whether the read rate was measured on it.
    pub is_measured: bool,
    /// Whether the engine's kernels were measured on its family (sm_90a).
    pub has_kernels: bool,
}

const fn card(name: &'static str, gb: u64, tb_per_s: f64, tflops: f64, sms: u32) -> Card {
    Card {
        name,
        memory_bytes: gb * 1_000_000_000,
        vendor_bytes_per_s: tb_per_s * 1e12,
        vendor_flops: tflops * 1e12,
        sms,
        is_measured: false,
        has_kernels: true,
    }
}

/// All that `--gpu` takes. Memory of the H200 as its driver counts it, of others as sold.
pub const CARDS: [Card; 8] = [
    Card { memory_bytes: 150_109_880_320, is_measured: true, ..H200 },
    card("h100", 80, 3.35, 989.0, 132),
    card("h100-nvl", 94, 3.9, 835.0, 132),
    card("gh200", 96, 4.0, 989.0, 132),
    card("h20", 96, 4.0, 148.0, 78),
    Card { has_kernels: false, ..card("b200", 180, 8.0, 2250.0, 148) },
    Card { has_kernels: false, ..card("b300", 288, 8.0, 2250.0, 148) },
    Card { has_kernels: false, ..card("a100", 80, 2.039, 312.0, 108) },
];

const H200: Card = card("h200", 141, 4.8, 989.0, 132);

/// What the measured card reached of its vendor's read rate.
pub(super) fn measured_share() -> f64 {
    constants::READ_RATE.value * 1e12 / H200.vendor_bytes_per_s
}

/// The card of that name.
pub(super) fn find(name: &str) -> Result<&'static Card> {
    static ALL: [Card; 8] = CARDS;
    ALL.iter().find(|card| card.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|card| card.name).collect();
        Error::invalid("gpu", format!("{name:?}, expected one of {names:?}"))
    })
}

impl Card {
    /// Bytes per second that plain loads reach: measured, or the vendor's times the measured share.
    pub fn read_rate(&self) -> f64 {
        self.vendor_bytes_per_s * measured_share()
    }
}
