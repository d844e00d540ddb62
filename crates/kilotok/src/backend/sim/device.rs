//! Rounds of the simulated model by itself, written down a second time: what a device has to do.

use super::{SimExecutor, fill};
use crate::backend::End;
use crate::backend::executor::{DecodeRun, DecodedRound, DraftBlock, Executor, MAX_EMITTED};
use crate::sample::{Noise, argmax};

/// Runs without drafts at once.
pub(super) const MOST_RUNS: usize = 3;

impl SimExecutor {
    pub(super) fn decode_rounds(
        &mut self,
        runs: &[DecodeRun],
        max_rounds: u32,
        out: &mut Vec<DecodedRound>,
    ) {
        assert!(runs.len() <= MOST_RUNS && (runs.len() == 1 || runs.iter().all(|r| r.drafts == 0)));
        let mut runs = runs.to_vec();
        for _ in 0..max_rounds {
            let mut is_over = false;
            for (index, run) in runs.iter_mut().enumerate() {
                let round = self.decode_round(index, run);
                is_over |= round.end.is_some();
                out.push(round);
            }
            if is_over {
                break;
            }
        }
    }

    fn decode_round(&mut self, index: usize, run: &mut DecodeRun) -> DecodedRound {
        let wanted = run.drafts.min(run.remaining - 1).min(MAX_EMITTED as u32 - 1);
        let mut drafts = Vec::new();
        if wanted > 0 {
            let (slot, start, anchor) = (run.slot, run.position, run.anchor);
            self.draft(&[DraftBlock { slot, start, anchor, drafts: wanted }], &mut drafts);
        }
        let mut round = DecodedRound {
            run: index,
            drafted: drafts.len(),
            accepted: 0,
            emitted: 0,
            tokens: [0; MAX_EMITTED],
            end: None,
        };
        let mut logits = vec![0.0; self.config.vocab];
        loop {
            let seen = self.write(run.slot, run.position as usize, run.anchor);
            if run.keeps_context {
                self.keep_context(run.slot, run.position as usize);
            }
            fill(&mut logits, seen);
            let token = choose(&logits, run);
            round.tokens[round.emitted] = token;
            round.emitted += 1;
            (run.anchor, run.position, run.remaining) =
                (token, run.position + 1, run.remaining - 1);
            if run.stops[..run.num_stops as usize].contains(&token) {
                round.end = Some(End::StopToken);
            } else if run.remaining == 0 {
                round.end = Some(End::Length);
            }
            let is_hit = drafts.get(round.emitted - 1) == Some(&token);
            round.accepted += usize::from(is_hit);
            if round.end.is_some() || !is_hit {
                return round;
            }
        }
    }
}

/// The token behind the anchor.
fn choose(logits: &[f32], run: &DecodeRun) -> u32 {
    if run.temperature == 0.0 {
        return argmax(logits);
    }
    let noise = Noise::new(run.seed, u64::from(run.position) + 1);
    let scores: Vec<f32> = logits
        .iter()
        .zip(0..)
        .map(|(logit, token)| logit / run.temperature + noise.gumbel(token))
        .collect();
    argmax(&scores)
}
