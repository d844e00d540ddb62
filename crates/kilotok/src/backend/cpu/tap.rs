//! Op `tap`: keeps the residual after a layer for the drafter.

/// Copies `residual`, `[rows, width]`, to tap `index` of `taps`, `[rows, count, width]`.
pub(super) fn run(
    rows: usize,
    width: usize,
    (index, count): (usize, usize),
    residual: &[f32],
    taps: &mut [f32],
) {
    let taps = taps.chunks_exact_mut(count * width);
    for (taps, residual) in taps.zip(residual.chunks_exact(width)).take(rows) {
        taps[index * width..][..width].copy_from_slice(residual);
    }
}
