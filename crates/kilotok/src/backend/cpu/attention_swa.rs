//! Op `attention_swa`: causal attention inside the sliding window.

use std::ops::Range;

/// Positions that the row at `position` sees: `window` of them, its own included.
pub(super) fn visible(position: usize, window: usize) -> Range<usize> {
    (position + 1).saturating_sub(window)..position + 1
}

/// Positions of the ring a window needs where a round writes up to `rows` rows before the first
/// of them attends: rejected drafts must not overwrite keys that are still visible.
pub(in crate::backend) fn ring_len(window: usize, rows: usize) -> usize {
    window.saturating_sub(1) + rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_never_overwrites_a_visible_key() {
        for window in 1..20 {
            for rows in 1..9 {
                let len = ring_len(window, rows);
                for start in 0..60 {
                    let visible = visible(start, window);
                    for written in start..start + rows {
                        for seen in visible.clone().filter(|p| *p != written) {
                            assert_ne!(seen % len, written % len, "{window} {rows} {start}");
                        }
                    }
                }
            }
        }
    }
}
