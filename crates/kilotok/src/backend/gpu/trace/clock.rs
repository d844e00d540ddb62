//! From the cycles of an SM to microseconds.

use kilotok_kernels::abi::program as abi;

use super::BlockSpan;

/// Where the records tell nothing of the rate of an SM: nanoseconds per cycle at 1.98 GHz.
const USUAL_RATE: f64 = 1.0 / 1.98;

/// The clocks of one block.
///
/// An SM counts its cycles, finely, from where it likes; the global timer, which all share, ticks as coarsely as once
/// in a microsecond. The rate of an SM is that between the first and the last record of a kernel, its offset the mean
/// over the records of a command: further commands may come after a while, and clocks drift.
#[derive(Debug)]
pub(super) struct Clock {
    /// Of each launch and command: nanoseconds per cycle, and nanoseconds at cycle 0 of `base`.
    pieces: Vec<Piece>,
}

#[derive(Debug)]
struct Piece {
    launch: u32,
    command: u32,
    rate: f64,
    /// A cycle and its time.
    base: (u64, f64),
}

impl Clock {
    /// Of a block's records, in order.
    pub(super) fn of(records: &[abi::TraceRecord]) -> Self {
        let mut pieces = Vec::new();
        for launch in records.chunk_by(|a, b| a.launch == b.launch) {
            let (first, last) = (launch[0], launch[launch.len() - 1]);
            let cycles = last.passed.wrapping_sub(first.passed) as f64;
            let nanoseconds = last.nanoseconds.wrapping_sub(first.nanoseconds) as f64;
            let is_known = cycles > 0.0 && nanoseconds > 0.0;
            let rate = if is_known { nanoseconds / cycles } else { USUAL_RATE };
            for command in launch.chunk_by(|a, b| a.command == b.command) {
                let (base, count) = (command[0], command.len() as f64);
                // Relative to the first one: both counters are large.
                let off = |record: &abi::TraceRecord| {
                    record.nanoseconds.wrapping_sub(base.nanoseconds) as i64 as f64
                        - rate * record.passed.wrapping_sub(base.passed) as f64
                };
                let mean = command.iter().map(off).sum::<f64>() / count;
                pieces.push(Piece {
                    launch: base.launch,
                    command: base.command,
                    rate,
                    base: (base.passed, base.nanoseconds as f64 + mean),
                });
            }
        }
        Self { pieces }
    }

    /// A record's times in microseconds of the global timer.
    pub(super) fn span(&self, record: &abi::TraceRecord) -> BlockSpan {
        let piece = self
            .pieces
            .iter()
            .find(|piece| (piece.launch, piece.command) == (record.launch, record.command));
        let at = |cycle: u64| {
            piece.map_or(0.0, |piece| {
                let (base, nanoseconds) = piece.base;
                (nanoseconds + piece.rate * (cycle.wrapping_sub(base) as i64 as f64)) / 1e3
            })
        };
        let maybe = |cycle: u64| (cycle != 0).then(|| at(cycle));
        BlockSpan {
            sm: record.sm,
            entered: at(record.entered),
            routed: maybe(record.routed),
            weights: maybe(record.weights),
            arrived: at(record.arrived),
            passed: at(record.passed),
        }
    }
}
