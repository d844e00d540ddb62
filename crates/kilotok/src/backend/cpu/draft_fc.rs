//! Op `draft_fc`: context = RMSNorm(`W_fc` taps).

use super::linear::{Orders, Packs, Store, Unpacked, apply};
use super::rms_norm;
use super::workers::Compute;
use crate::model::DrafterWeights;

/// `taps` is `[rows, taps * hidden]`, `fused` scratch and `context` are `[rows, hidden]`.
pub(super) fn run(
    compute: &Compute,
    (drafter, eps): (&DrafterWeights, f32),
    packs: &mut Packs,
    taps: &[f32],
    rows: &[u32],
    fused: &mut [f32],
    context: &mut [f32],
) {
    let fc = &drafter.fc;
    let (cols, orders) = (fc.cols, Orders::of([fc]));
    let x = packs.input(Unpacked { x: taps, rows, cols, orders, routes: None });
    apply(compute, fc, &x, (fused, fc.rows, 0), rows, Store::Set);
    rms_norm::run(compute, rows.len(), fused, &drafter.hidden_norm, eps, context);
}
