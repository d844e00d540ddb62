//! Choosing, and the rows of a round.

use kilotok_kernels::abi::program as abi;

use super::Vm;
use super::rules::comes_before;
use crate::sample::Noise;

impl Vm {
    pub(super) fn choose(&mut self, choose: &abi::Choose, is_target: bool) {
        let none = abi::Choice { score: f32::NEG_INFINITY, token: u32::MAX };
        // The shares of the vocabulary are the blocks' own business.
        let share = (choose.vocab as usize).div_ceil(self.blocks as usize);
        for row in 0..self.rows() {
            let at = choose.logits + (row * choose.stride as usize * 4) as u64;
            let logits = self.floats(at, choose.vocab as usize);
            let pass_row = self.command.pass.row[row];
            let run = self.command.run[pass_row.run as usize];
            let is_sampled = is_target && self.command.num_runs > 0 && run.temperature != 0.0;
            let has_rules = is_target && self.command.num_runs > 0 && run.rules != 0;
            let temperature = if has_rules { 1.0 } else { run.temperature };
            let is_filtered = has_rules && run.rules & abi::RULE_FILTERS != 0;
            let kept: Option<abi::Choice> =
                is_filtered.then(|| self.values(choose.kept + row as u64 * 8, 1)[0]);
            let noise = Noise::new(run.seed, u64::from(pass_row.position) + 1);
            for block in 0..self.blocks as usize {
                let mut best = none;
                for (token, logit) in logits.iter().enumerate().skip(block * share).take(share) {
                    let mut score = *logit;
                    let value = abi::Choice { score, token: token as u32 };
                    if kept.is_some_and(|last| comes_before(last, value)) {
                        continue;
                    }
                    if is_sampled {
                        score = score / temperature + noise.gumbel(token as u32);
                    }
                    if score > best.score {
                        best = abi::Choice { score, token: token as u32 };
                    }
                }
                self.put(choose.best + ((block * abi::ROWS + row) * 8) as u64, &[best]);
            }
        }
    }

    fn chosen(&self, best: u64, row: usize) -> u32 {
        let choices: Vec<abi::Choice> = self.values(best, self.blocks as usize * abi::ROWS);
        let mine = choices.into_iter().skip(row).step_by(abi::ROWS);
        let better = |a: abi::Choice, b: abi::Choice| if b.score > a.score { b } else { a };
        mine.reduce(better).unwrap().token
    }

    pub(super) fn lay_out(&mut self, lay_out: &abi::LayOut) {
        let command = self.command;
        let runs = &command.run[..command.num_runs as usize];
        let mut pass = abi::Pass::default();
        let mut push = |slot: u32, position: u32, token: u32, run: usize| {
            let row = abi::Row { slot, position, token, run: run as u32 };
            pass.row[pass.rows as usize] = row;
            pass.rows += 1;
        };
        for (i, run) in runs.iter().enumerate() {
            push(run.slot, run.position, run.anchor, i);
            if lay_out.is_draft != 0 {
                for row in 1..lay_out.rows {
                    push(run.slot, run.position + row, abi::MASK_TOKEN, i);
                }
            } else if runs.len() == 1 && command.skip & abi::FLAG_DRAFT == 0 {
                let most = lay_out.rows.saturating_sub(1).min(run.remaining - 1);
                for row in 1..=run.drafts.min(most) {
                    let token = self.chosen(lay_out.best, row as usize);
                    push(run.slot, run.position + row, token, i);
                }
            }
        }
        if !runs.is_empty() {
            self.command.pass = pass;
        }
    }

    pub(super) fn accept(&mut self, accept: abi::Accept) {
        let pass = self.command.pass;
        for i in 0..self.command.num_runs as usize {
            let mine: Vec<usize> =
                (0..pass.rows as usize).filter(|row| pass.row[*row].run as usize == i).collect();
            let run = self.command.run[i];
            let mut round = abi::Round {
                run: i as u32,
                drafted: mine.len() as u32 - 1,
                ..abi::Round::default()
            };
            for (j, row) in mine.iter().enumerate() {
                let token = self.chosen(accept.best, *row);
                round.tokens[j] = token;
                round.emitted += 1;
                let is_hit = mine.get(j + 1).is_some_and(|next| pass.row[*next].token == token);
                round.accepted += u32::from(is_hit);
                if run.stops[..run.num_stops as usize].contains(&token) {
                    round.ended = 1;
                } else if round.emitted == run.remaining {
                    round.ended = 2;
                }
                if round.ended != 0 || !is_hit {
                    break;
                }
            }
            let run = &mut self.command.run[i];
            run.position += round.emitted;
            run.remaining -= round.emitted;
            run.anchor = round.tokens[round.emitted as usize - 1];
            run.ended = round.ended;
            if run.rules & abi::RULE_PENALTIES != 0 {
                let counts = accept.counts + u64::from(run.slot * accept.stride) * 4;
                for token in &round.tokens[..round.emitted as usize] {
                    let at = counts + u64::from(*token) * 4;
                    let count = self.values::<u32>(at, 1)[0];
                    self.put(at, &[count + 1]);
                }
            }
            if self.command.num_runs == 1 {
                self.command.pass.rows = round.emitted;
            }
            self.told.push(round);
        }
    }
}
