//! Op `draft_fc`: context = RMSNorm(`W_fc` taps).

use super::linear::{Orders, Packed, Store, apply};
use super::rms_norm;
use super::workers::Compute;
use crate::model::DrafterWeights;

/// `taps` is `[rows, taps * hidden]`, `fused` scratch and `context` are `[rows, hidden]`.
pub(super) fn run(
    compute: &Compute,
    (drafter, eps): (&DrafterWeights, f32),
    packed: &mut Packed,
    taps: &[f32],
    rows: &[u32],
    fused: &mut [f32],
    context: &mut [f32],
) {
    let fc = &drafter.fc;
    packed.pack(taps, rows, fc.cols, Orders::of([fc]));
    apply(compute, fc, packed, (fused, fc.rows, 0), rows, Store::Set);
    rms_norm::run(compute, rows.len(), fused, &drafter.hidden_norm, eps, context);
}
