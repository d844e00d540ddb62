//! A page of text about a trace.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Losses, Trace};

/// What is added up for one kind of op.
#[derive(Default)]
struct Kind {
    count: usize,
    bytes: f64,
    losses: Losses,
}

impl Trace {
    /// How near to the ceiling the traced ops came, and what the rest of the time went to: by cause, by kind of op,
    /// and the ops and SMs that were waited for the longest.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_summary(&mut text);
        text
    }

    fn write_summary(&self, out: &mut String) -> std::fmt::Result {
        let mut all = Losses::default();
        let mut kinds: BTreeMap<&str, Kind> = BTreeMap::new();
        let mut longest: Vec<(f64, usize)> = Vec::new();
        for (i, (op, losses)) in self.losses().enumerate() {
            all += losses;
            let kind = kinds.entry(op.kind).or_default();
            kind.count += 1;
            kind.bytes += op.bytes;
            kind.losses += losses;
            longest.push((losses.total(), i));
        }
        let bytes: f64 = self.ops.iter().map(|op| op.bytes).sum();
        let blocks = self.ops.first().map_or(0, |op| op.blocks.len());
        let mut commands: Vec<u32> = self.ops.iter().map(|op| op.command).collect();
        commands.dedup();
        let total = all.total();
        let ops = self.ops.len();
        writeln!(
            out,
            "{}, {blocks} blocks: {ops} ops of {} commands, {total:.1} us on the device",
            self.device,
            commands.len()
        )?;
        if total <= 0.0 {
            return Ok(());
        }
        let share = |part: f64| 100.0 * part / total;
        write!(out, "{:.3} GB had to be read: {:.2} TB/s", bytes / 1e9, bytes / total / 1e6)?;
        match self.rate {
            Some(rate) => writeln!(
                out,
                ", {:.1} % of the ceiling of {:.2} TB/s",
                1e8 * bytes / total / rate,
                rate / 1e12
            )?,
            None => writeln!(out, " (no ceiling was measured)")?,
        }
        writeln!(out, "\nwhere the time goes                                        us        %")?;
        for (what, part) in [
            ("reading, at the ceiling", all.ceiling),
            ("ramp: entry to first weights", all.ramp),
            ("routing bubble: moe_up's entry to first weights", all.routing),
            ("streaming below the ceiling", all.slow),
            ("ops that do not stream, beyond the ceiling", all.others),
            ("tail: waiting for the last block", all.tail),
            ("barrier: last arrival to passing", all.barrier),
            ("between barrier and op", all.between),
        ] {
            writeln!(out, "  {what:<50} {part:>10.1} {:>8.1}", share(part))?;
        }
        self.write_kinds(out, &kinds, total)?;
        longest.sort_by(|a, b| b.0.total_cmp(&a.0));
        writeln!(out, "\nlongest ops                                                us")?;
        for (time, i) in longest.iter().take(5) {
            let op = &self.ops[*i];
            writeln!(out, "  {:<50} {time:>10.2}", format!("{} {}", op.kind, op.label))?;
        }
        self.write_slowest(out)
    }

    fn write_kinds(
        &self,
        out: &mut String,
        kinds: &BTreeMap<&str, Kind>,
        total: f64,
    ) -> std::fmt::Result {
        let mut kinds: Vec<_> = kinds.iter().collect();
        kinds.sort_by(|a, b| b.1.losses.total().total_cmp(&a.1.losses.total()));
        writeln!(
            out,
            "\nus per op          count    all      %  of ceiling  start   work   tail barrier between"
        )?;
        for (name, kind) in kinds {
            let (losses, count) = (kind.losses, kind.count as f64);
            let time = losses.total();
            let reached = match self.rate {
                Some(rate) if kind.bytes > 0.0 && time > 0.0 => {
                    format!("{:.0} %", 1e8 * kind.bytes / time / rate)
                }
                _ => "-".to_owned(),
            };
            writeln!(
                out,
                "  {name:<16} {:>5} {:>6.2} {:>6.1} {reached:>11} {:>6.2} {:>6.2} {:>6.2} {:>7.2} {:>7.2}",
                kind.count,
                time / count,
                100.0 * time / total,
                (losses.ramp + losses.routing) / count,
                (losses.ceiling + losses.slow + losses.others) / count,
                losses.tail / count,
                losses.barrier / count,
                losses.between / count,
            )?;
        }
        Ok(())
    }

    /// The SMs that were the last to arrive most often.
    fn write_slowest(&self, out: &mut String) -> std::fmt::Result {
        let mut last: BTreeMap<u32, usize> = BTreeMap::new();
        for op in &self.ops {
            let slowest = op.blocks.iter().max_by(|a, b| a.arrived.total_cmp(&b.arrived));
            if let Some(span) = slowest {
                *last.entry(span.sm).or_default() += 1;
            }
        }
        let mut last: Vec<_> = last.into_iter().collect();
        last.sort_by_key(|(sm, count)| (std::cmp::Reverse(*count), *sm));
        let told: Vec<String> =
            last.iter().take(6).map(|(sm, count)| format!("SM {sm} ({count})")).collect();
        writeln!(out, "\nlast to arrive (ops): {}", told.join(", "))
    }
}
