//! The rules of a run: biases, penalties, temperature, and what top-k, top-p and min-p keep.

use std::cmp::Ordering;

use kilotok_kernels::abi::program as abi;

use super::Vm;

/// Larger values first, then lower tokens.
fn order(a: abi::Choice, b: abi::Choice) -> Ordering {
    b.score.total_cmp(&a.score).then(a.token.cmp(&b.token))
}

pub(super) fn comes_before(a: abi::Choice, b: abi::Choice) -> bool {
    order(a, b) == Ordering::Less
}

impl Vm {
    fn row_of(&self, row: usize) -> (abi::Row, abi::Run) {
        let pass_row = self.command.pass.row[row];
        (pass_row, self.command.run[pass_row.run as usize])
    }

    pub(super) fn adjust(&mut self, adjust: &abi::Adjust) {
        let (vocab, stride) = (adjust.vocab as usize, u64::from(adjust.stride) * 4);
        let drafted: Vec<u32> = match self.command.num_runs {
            1 => self.command.pass.row[..self.rows()].iter().map(|row| row.token).collect(),
            _ => Vec::new(),
        };
        for row in 0..self.rows() {
            let (pass_row, run) = self.row_of(row);
            if run.rules == 0 {
                continue;
            }
            let (at, slot) = (row as u64 * stride, u64::from(pass_row.slot) * stride);
            let mut logits = self.floats(adjust.logits + at, vocab);
            if run.rules & abi::RULE_BIAS != 0 {
                let biases = self.floats(adjust.biases + slot, vocab);
                logits.iter_mut().zip(biases).for_each(|(logit, bias)| *logit += bias);
            }
            if run.rules & abi::RULE_PENALTIES != 0 {
                let mut counts: Vec<u32> = self.values(adjust.counts + slot, vocab);
                for token in drafted.iter().take(row + 1).skip(1) {
                    counts[*token as usize] += 1;
                }
                for (logit, word) in logits.iter_mut().zip(counts).filter(|(_, word)| *word != 0) {
                    let r = run.repetition;
                    *logit = if *logit > 0.0 { *logit / r } else { *logit * r };
                    let count = word & !abi::IN_PROMPT;
                    if count > 0 {
                        *logit -= run.presence + run.frequency * count as f32;
                    }
                }
            }
            if run.temperature != 0.0 {
                for logit in &mut logits {
                    *logit /= run.temperature;
                }
            }
            let share = vocab.div_ceil(4).div_ceil(self.blocks as usize) * 4;
            for block in 0..self.blocks as usize {
                let part = logits.iter().skip(block * share).take(share);
                let peak = part.fold(f32::NEG_INFINITY, |a, b| a.max(*b));
                self.put(adjust.peaks + ((block * abi::ROWS + row) * 4) as u64, &[peak + 0.0]);
            }
            self.put(adjust.logits + at, &logits);
        }
    }

    pub(super) fn filter(&mut self, filter: &abi::Filter) {
        for row in 0..self.rows() {
            let run = self.row_of(row).1;
            if run.rules & abi::RULE_FILTERS == 0 {
                continue;
            }
            let at = filter.scaled + (row as u64 * u64::from(filter.stride)) * 4;
            let scaled = self.floats(at, filter.vocab as usize);
            let mut tokens: Vec<abi::Choice> =
                (0..).zip(scaled).map(|(token, score)| abi::Choice { score, token }).collect();
            tokens.sort_unstable_by(|a, b| order(*a, *b));
            if run.top_k > 0 {
                tokens.truncate(run.top_k as usize);
            }
            let best = tokens[0].score;
            let mass = |token: &abi::Choice| f64::from(token.score - best).exp();
            let limit = if run.top_p < 1.0 {
                f64::from(run.top_p) * tokens.iter().map(mass).sum::<f64>()
            } else {
                f64::INFINITY
            };
            let (mut before, mut last) = (0.0, tokens[0]);
            for token in &tokens {
                let mass = mass(token);
                if before > 0.0 && !(before < limit && mass >= f64::from(run.min_p)) {
                    break;
                }
                (before, last) = (before + mass, *token);
            }
            self.put(filter.kept + row as u64 * 8, &[last]);
        }
    }
}
