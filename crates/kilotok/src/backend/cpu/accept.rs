//! Op `accept`: the equality walk over a verified block (dflash_spec 2.1 and 2.2, method A).

/// How far a walk went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Drafted tokens that equal the target's own choice and were emitted.
    pub accepted: usize,
    /// Tokens emitted: `accepted + 1`, the bonus included, unless `emit` ended the walk.
    pub emitted: usize,
}

/// Walks the rows of a block `[anchor, d1 .. dk]`: `choose(j)` is the target's own token from
/// row `j` (`None` ends the walk without a token), `emit` takes each in order and returns whether
/// the sequence goes on.
///
/// Every emitted token is the target's own choice, so the output is that of plain decoding for
/// any drafter. Rows behind the first mismatch are never chosen.
pub fn accept(
    drafts: &[u32],
    mut choose: impl FnMut(usize) -> Option<u32>,
    mut emit: impl FnMut(u32) -> bool,
) -> Walk {
    let mut walk = Walk { accepted: 0, emitted: 0 };
    for row in 0..=drafts.len() {
        let Some(token) = choose(row) else { break };
        let matches = drafts.get(row) == Some(&token);
        walk.emitted += 1;
        walk.accepted += usize::from(matches);
        if !emit(token) || !matches {
            break;
        }
    }
    walk
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(drafts: &[u32], target: &[u32], stop: Option<u32>) -> (Walk, Vec<u32>) {
        let mut out = Vec::new();
        let walk = accept(
            drafts,
            |row| target.get(row).copied(),
            |token| {
                out.push(token);
                Some(token) != stop
            },
        );
        (walk, out)
    }

    #[test]
    fn known_answers() {
        let target = [5, 6, 7, 8];
        assert_eq!(
            run(&[5, 6, 7], &target, None),
            (Walk { accepted: 3, emitted: 4 }, target.into())
        );
        assert_eq!(run(&[9, 6, 7], &target, None), (Walk { accepted: 0, emitted: 1 }, vec![5]));
        assert_eq!(run(&[5, 9, 7], &target, None), (Walk { accepted: 1, emitted: 2 }, vec![5, 6]));
        assert_eq!(run(&[], &target, None), (Walk { accepted: 0, emitted: 1 }, vec![5]));
    }

    #[test]
    fn a_row_without_a_token_ends_the_walk() {
        let ended = run(&[5, 6, 7], &[5], None);
        assert_eq!(ended, (Walk { accepted: 1, emitted: 1 }, vec![5]));
        assert_eq!(run(&[5], &[], None), (Walk { accepted: 0, emitted: 0 }, vec![]));
    }

    #[test]
    fn a_stop_inside_the_accepted_drafts_truncates() {
        let (walk, out) = run(&[5, 6, 7], &[5, 6, 7, 8], Some(6));
        assert_eq!((walk, out), (Walk { accepted: 2, emitted: 2 }, vec![5, 6]));
    }
}
