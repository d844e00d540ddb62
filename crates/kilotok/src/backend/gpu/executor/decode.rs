//! Rounds that the device makes by itself.

use std::time::Instant;

use kilotok_gpu::GpuError;
use kilotok_kernels::abi::program as abi;

use super::super::device::Device;
use super::GpuExecutor;
use crate::backend::{DecodeRun, DecodedRound, End, Rules};

/// [`abi::Run::rules`].
fn bits(rules: &Rules) -> u32 {
    [
        (rules.biases, abi::RULE_BIAS),
        (rules.penalties, abi::RULE_PENALTIES),
        (rules.filters(), abi::RULE_FILTERS),
    ]
    .into_iter()
    .map(|(applies, bit)| if applies { bit } else { 0 })
    .sum()
}

impl<D: Device> GpuExecutor<D> {
    /// Up to `max_rounds` rounds; fewer where a run ends.
    pub(super) fn decode_rounds(
        &mut self,
        runs: &[DecodeRun],
        max_rounds: u32,
        out: &mut Vec<DecodedRound>,
    ) -> Result<(), GpuError> {
        // Every entry has to be there when the host comes to read them.
        let most = abi::ROUND_RING as u32 / runs.len().max(1) as u32;
        let drafts = runs.iter().any(|run| run.drafts > 0);
        let stretch = if drafts { &self.stretches.round } else { &self.stretches.plain_round };
        let keeps_context = runs.iter().any(|run| run.keeps_context);
        let mut skip = if keeps_context || drafts { 0 } else { abi::FLAG_DRAFT };
        if runs.iter().all(|run| run.rules == Rules::NONE) {
            skip |= abi::FLAG_RULES;
        }
        let mut command = Self::command(stretch.clone(), skip);
        command.rounds = max_rounds.clamp(1, most);
        command.num_runs = runs.len() as u32;
        for (to, run) in command.run.iter_mut().zip(runs) {
            *to = abi::Run {
                seed: run.seed,
                temperature: run.temperature,
                slot: run.slot,
                position: run.position,
                anchor: run.anchor,
                drafts: run.drafts,
                remaining: run.remaining,
                num_stops: run.num_stops,
                ended: 0,
                stops: run.stops,
                rules: bits(&run.rules),
                top_k: run.rules.top_k,
                top_p: run.rules.top_p,
                min_p: run.rules.min_p,
                repetition: run.rules.repetition,
                presence: run.rules.presence,
                frequency: run.rules.frequency,
                reserved: 0,
            };
        }
        let (started, before) = (Instant::now(), out.len());
        self.run(&command)?;
        let took = started.elapsed();
        self.machine.rounds(&mut |round| {
            out.push(DecodedRound {
                run: round.run as usize,
                drafted: round.drafted as usize,
                accepted: round.accepted as usize,
                emitted: (round.emitted as usize).min(abi::ROWS),
                tokens: round.tokens,
                end: match round.ended {
                    0 => None,
                    1 => Some(End::StopToken),
                    _ => Some(End::Length),
                },
            });
        });
        let rounds = (out.len() - before) / runs.len().max(1);
        let bytes = if drafts { self.ceiling.round } else { self.ceiling.plain_round };
        self.ceiling.observe(bytes * rounds as f64, took);
        // Nothing of what a host pass left behind stands any more.
        self.is_committed = true;
        Ok(())
    }
}
