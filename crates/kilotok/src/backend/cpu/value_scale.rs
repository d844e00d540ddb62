//! Op `value_scale`: multiplies values before they enter the cache.

/// Multiplies the `dim` values at each of `offsets` in every row of `qkv`, `[rows, width]`.
pub(super) fn run(
    scale: f32,
    rows: usize,
    qkv: &mut [f32],
    width: usize,
    offsets: &[usize],
    dim: usize,
) {
    if scale == 1.0 {
        return;
    }
    for row in qkv.chunks_exact_mut(width).take(rows) {
        for offset in offsets {
            for value in &mut row[*offset..][..dim] {
                *value *= scale;
            }
        }
    }
}
