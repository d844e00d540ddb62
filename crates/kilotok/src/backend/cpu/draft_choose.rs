//! Op `draft_choose`: the drafted token of a masked row, and how sure it is.

use super::choose::{argmax, largest};

/// Index of the largest logit, the lowest on ties, and its distance from the second largest.
pub(super) fn run(logits: &[f32]) -> (u32, f32) {
    let token = argmax(logits);
    let at = token as usize;
    let Some(&best) = logits.get(at) else { return (token, 0.0) };
    (token, best - largest(&logits[..at]).max(largest(&logits[at + 1..])))
}

#[cfg(test)]
mod tests {
    use super::run;

    #[test]
    fn the_margin_is_to_the_best_other_token() {
        let mut logits = vec![-3.0; 100];
        logits[40] = 2.0;
        assert_eq!(run(&logits), (40, 5.0));
        logits[99] = 1.5;
        assert_eq!(run(&logits), (40, 0.5));
        logits[0] = 2.0;
        assert_eq!(run(&logits), (0, 0.0));
        assert_eq!(run(&[1.0]), (0, f32::INFINITY));
    }
}
