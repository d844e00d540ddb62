//! What an op costs today, by kind and mode: measured or fitted to committed measurements.
//!
//! `benches/plan_fit.py` makes the fitted ones again from `benches/results/nvidia-h200`. None of them
//! belongs to a model: what belongs to a model is its list of ops.

use serde::Serialize;

/// Where a constant comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Read off a measurement.
    Measured,
    /// Least squares of relative errors.
    Fitted,
}

/// A number with where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Constant {
    /// What it is.
    pub name: &'static str,
    /// In `unit`.
    pub value: f64,
    /// Unit of the value.
    pub unit: &'static str,
    /// How it was found.
    pub origin: Origin,
    /// The committed file with the measurement.
    pub source: &'static str,
    /// Day of the measurement.
    pub date: &'static str,
}

const MACHINE: &str = "benches/results/nvidia-h200/machine.json";
const ATTENTION: &str = "benches/results/nvidia-h200/attention.json";
const PAGE: &str = "docs/persistent_kernel.md";
const DATE: &str = "2026-11-24";

const fn measured(
    name: &'static str,
    value: f64,
    unit: &'static str,
    source: &'static str,
) -> Constant {
    Constant { name, value, unit, origin: Origin::Measured, source, date: DATE }
}

const fn fitted(
    name: &'static str,
    value: f64,
    unit: &'static str,
    source: &'static str,
) -> Constant {
    Constant { name, value, unit, origin: Origin::Fitted, source, date: DATE }
}

/// Bytes per second of plain loads.
pub(super) const READ_RATE: Constant = measured("read rate", 4.633, "TB/s", MACHINE);
/// What every op costs that waits for the one before it, at least: a barrier of all blocks while
/// memory is idle.
pub(super) const HOP: Constant = Constant {
    date: "2026-11-23",
    ..measured("hop of the floor: grid barrier, memory idle", 0.91, "us", "docs/plan.md")
};
/// An op that does nothing, persistent.
pub(super) const DISPATCH_PERSISTENT: Constant =
    measured("an op that does nothing, persistent", 1.4, "us", PAGE);
/// The same in a graph.
pub(super) const DISPATCH_GRAPH: Constant =
    measured("an op that does nothing, graph", 2.3, "us", PAGE);
/// From the host's bell to its answer, once per round; of the persistent mode, taken for both.
pub(super) const BELL: Constant = measured("bell to answer", 9.0, "us", PAGE);
/// Latency of an op that streams weights, beyond its bytes at the read rate.
pub(super) const STREAM: Constant =
    fitted("linear, moe_up, moe_down: latency", 4.080, "us", MACHINE);
/// The same for each row of `linear` after the first.
pub(super) const ROW: Constant = fitted("linear: each row after the first", 0.4366, "us", MACHINE);
/// Latency of `router`.
pub(super) const ROUTER: Constant = fitted("router: latency", 3.573, "us", MACHINE);
/// Share of the read rate at which experts are read.
pub(super) const EXPERTS: Constant =
    fitted("moe_up, moe_down: share of the read rate", 0.5131, "", MACHINE);
/// What a block of threads does for one item of attention before and after its tiles.
pub(super) const ITEM: Constant = fitted("attention: an item", 8.189, "us", ATTENTION);
/// A tile of 64 positions.
pub(super) const TILE: Constant = fitted("attention: a tile", 1.188, "us", ATTENTION);
/// The same per kilobyte of keys and values.
pub(super) const TILE_KB: Constant = fitted("attention: a tile, per kB", 0.0367, "us", ATTENTION);
/// The same per 16 pairs of row and head after the first 16.
pub(super) const PAIRS_KB: Constant =
    fitted("attention: a tile, per kB and further 16 pairs", 0.0093, "us", ATTENTION);
/// What attention takes longer between other ops than launched alone again and again, where the step
/// reads more than the second-level cache holds; persistent.
pub(super) const COLD_PERSISTENT: Constant =
    fitted("attention between other ops, persistent", 11.51, "us", PAGE);
/// The same in a graph.
pub(super) const COLD_GRAPH: Constant =
    fitted("attention between other ops, graph", 4.292, "us", PAGE);

/// What has to be read between two uses for attention to find its caches cold.
pub(super) const L2: Constant = measured("second-level cache", 62.9, "MB", MACHINE);

/// All of them.
pub const CONSTANTS: &[Constant] = &[
    READ_RATE,
    HOP,
    DISPATCH_PERSISTENT,
    DISPATCH_GRAPH,
    BELL,
    STREAM,
    ROW,
    ROUTER,
    EXPERTS,
    ITEM,
    TILE,
    TILE_KB,
    PAIRS_KB,
    COLD_PERSISTENT,
    COLD_GRAPH,
    L2,
];
