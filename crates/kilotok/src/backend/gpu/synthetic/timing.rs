//! Runs commands again and again and takes medians.

use std::time::{Duration, Instant};

use kilotok_gpu::GpuError;
use kilotok_gpu::machine::MOST_RECORDS;
use kilotok_kernels::abi::program as abi;

use super::super::device::Device;
use super::super::lower::{Lowered, Stretch};
use super::traffic::{Load, bytes_needed};
use super::{ForcedRound, Pass, ROUNDS, Rounds, Synthetic};

/// Runs before the timed ones.
const WARM_UP: usize = 5;
const MOST_REPEATS: usize = 200;
const MOST_TIME: Duration = Duration::from_millis(1500);

/// A device with a lowered model in its memory.
pub(super) struct Bench<'l, D: Device> {
    device: D,
    lowered: &'l Lowered<'l>,
    vocab: usize,
    context: usize,
    /// Times of the newest command, in seconds.
    times: Vec<f64>,
}

impl<'l, D: Device> Bench<'l, D> {
    pub(super) fn new(device: D, lowered: &'l Lowered<'l>, vocab: usize, context: usize) -> Self {
        let times = Vec::with_capacity(MOST_REPEATS);
        Self { device, lowered, vocab, context, times }
    }

    /// Everything that was asked for.
    pub(super) fn measure(
        &mut self,
        asked: &Synthetic,
    ) -> Result<(Vec<Pass>, Option<Rounds>), GpuError> {
        let pages: Vec<u32> = (0..self.lowered.buffers.max_pages).collect();
        self.device.write(self.lowered.buffers.page_table, &pages)?;
        let passes = asked.rows.iter().map(|rows| self.verify(*rows)).collect::<Result<_, _>>()?;
        let has_drafter = !self.lowered.stretches.draft.is_empty();
        let rounds = has_drafter.then(|| self.rounds(asked)).transpose()?;
        Ok((passes, rounds))
    }

    fn command(&self, stretch: &Stretch, rows: usize) -> abi::Command {
        let mut pass = abi::Pass { rows: rows as u32, ..abi::Pass::default() };
        for (i, row) in pass.row.iter_mut().take(rows).enumerate() {
            // Rows of the embedding that lie apart, so that rows choose experts of their own.
            let token = (i * 691 + 1009) % self.vocab;
            let position = (self.context + i) as u32;
            *row = abi::Row { slot: 0, position, token: token as u32, run: 0 };
        }
        let (first_op, num_ops) = (stretch.start, stretch.end - stretch.start);
        abi::Command { first_op, num_ops, rounds: 1, pass, ..abi::Command::default() }
    }

    /// Median milliseconds of a command.
    fn time(&mut self, command: &abi::Command) -> Result<f64, GpuError> {
        for _ in 0..WARM_UP {
            self.device.run(command)?;
        }
        self.times.clear();
        let start = Instant::now();
        while self.times.len() < MOST_REPEATS
            && (self.times.len() < 3 || start.elapsed() < MOST_TIME)
        {
            let before = Instant::now();
            self.device.run(command)?;
            self.times.push(before.elapsed().as_secs_f64());
        }
        self.times.sort_by(f64::total_cmp);
        Ok(self.times[self.times.len() / 2] * 1e3)
    }

    /// One pass over the target, not timed, whose logits have to differ.
    pub(super) fn pass(&mut self, rows: usize) -> Result<(), GpuError> {
        let command = self.command(&self.lowered.stretches.target, rows);
        self.device.run(&command)?;
        self.check_logits(rows)
    }

    /// What every block did in the newest two of some passes.
    pub(super) fn trace(&mut self, rows: usize) -> Result<Vec<Vec<abi::TraceRecord>>, GpuError> {
        let target = self.lowered.stretches.target.clone();
        let ops = 2 * (target.end - target.start);
        let command = self.command(&target, rows);
        self.device.start_trace(ops.min(MOST_RECORDS))?;
        for _ in 0..WARM_UP {
            self.device.run(&command)?;
        }
        self.device.end_trace()
    }

    fn verify(&mut self, rows: usize) -> Result<Pass, GpuError> {
        let target = self.lowered.stretches.target.clone();
        self.pass(rows)?;
        let experts = self.distinct_experts(rows)?;
        let command = self.command(&target, rows);
        let ms = self.time(&command)?;
        let load = Load { rows: rows as u64, context: self.context as u64, experts: &experts };
        let ops = &self.lowered.ops[target.start as usize..target.end as usize];
        let mean = experts.iter().sum::<u64>() as f64 / experts.len().max(1) as f64;
        let bytes = bytes_needed(ops, load);
        Ok(Pass { rows, ms, repeats: self.times.len(), bytes, experts: mean })
    }

    /// Weights that were filled wrongly would show here.
    fn check_logits(&self, rows: usize) -> Result<(), GpuError> {
        let logits = self.lowered.buffers.logits;
        let mut values = vec![0.0; self.vocab];
        for row in 0..rows as u64 {
            let at = logits.address + row * u64::from(logits.stride) * 4;
            self.device.read(at, &mut values)?;
            let is_flat = values.iter().all(|value| *value == values[0]);
            if is_flat || values.iter().any(|value| !value.is_finite()) {
                let what = if is_flat { "all equal" } else { "no finite numbers" };
                let detail = format!("the logits of row {row} are {what}");
                return Err(GpuError::Shape { op: "synthetic weights", detail });
            }
        }
        Ok(())
    }

    /// Distinct experts of every routed layer. All layers write the same routes, so a pass is run up
    /// to each of them.
    fn distinct_experts(&mut self, rows: usize) -> Result<Vec<u64>, GpuError> {
        let target = self.lowered.stretches.target.clone();
        let mut counts = Vec::new();
        for op in target.clone() {
            let record = self.lowered.ops[op as usize];
            if record.kind != abi::OP_MOE_UP {
                continue;
            }
            let up: abi::MoeUp = record.payload();
            let command = self.command(&(target.start..op + 1), rows);
            self.device.run(&command)?;
            let mut routes = [0.0f32; abi::PAIRS];
            self.device.read(up.routes, &mut routes)?;
            let pairs = rows * up.top_k as usize;
            let mut experts: Vec<u32> = routes[..pairs].iter().map(|bits| bits.to_bits()).collect();
            experts.sort_unstable();
            experts.dedup();
            counts.push(experts.len() as u64);
        }
        Ok(counts)
    }

    fn rounds(&mut self, asked: &Synthetic) -> Result<Rounds, GpuError> {
        let stretches = self.lowered.stretches.clone();
        let block = asked.block.min(self.lowered.block_rows);
        let mut drafting = self.command(&stretches.draft, block);
        drafting.pass.row[1..block].iter_mut().for_each(|row| row.token = abi::MASK_TOKEN);
        let draft_ms = self.time(&drafting)?;
        let verify_ms = self.time(&self.command(&stretches.target, block))?;
        let mut forced = Vec::with_capacity(asked.accept.len());
        for accept in &asked.accept {
            let kept = (accept.ceil() as usize).clamp(1, block);
            let commit_ms = self.time(&self.command(&stretches.context, kept))?;
            forced.push(ForcedRound { accept: *accept, ms: draft_ms + verify_ms + commit_ms });
        }
        let mut whole = self.command(&stretches.round, 0);
        (whole.rounds, whole.num_runs) = (ROUNDS, 1);
        whole.run[0] = abi::Run {
            position: self.context as u32,
            anchor: (1009 % self.vocab) as u32,
            drafts: block as u32 - 1,
            remaining: u32::MAX / 2,
            ..abi::Run::default()
        };
        let device_ms = self.time(&whole)? / f64::from(ROUNDS);
        let (mut told, mut emitted) = (0u32, 0u32);
        self.device.rounds(&mut |round| {
            told += 1;
            emitted += round.emitted;
        });
        let load = Load { rows: block as u64, context: self.context as u64, experts: &[] };
        let bytes = |stretch: &Stretch| {
            bytes_needed(&self.lowered.ops[stretch.start as usize..stretch.end as usize], load)
        };
        Ok(Rounds {
            block,
            draft_ms,
            verify_ms,
            device_ms,
            device_accept: f64::from(emitted) / f64::from(told.max(1)),
            draft_bytes: bytes(&stretches.draft) + bytes(&stretches.context),
            forced,
        })
    }
}
