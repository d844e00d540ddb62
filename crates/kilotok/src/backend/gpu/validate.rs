//! Proves of op records, before a device sees them, that every address lies in the region it is
//! meant for and that an op reads only what stands there: weights and caches, or what an earlier op
//! of the line wrote. `order` proves that no op waits for what nobody publishes, `intent` that every
//! record says what the model's numbers ask for. Whoever breaks a record, swaps two ops or shrinks a
//! buffer is told which op, which field and why.

mod access;
mod fields;
mod intent;
mod lines;
mod order;
mod results;
#[cfg(test)]
mod tests;

use std::ops::Range;

use kilotok_gpu::pool::Component;
use kilotok_kernels::abi::program as abi;

use super::arena::Region;
use super::lower::{Lowered, Upload};
use access::{Access, Around, Mode, accesses};
use lines::lines;
use results::Results;

/// What is wrong with a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// The op's index.
    pub(super) op: u32,
    /// Field and reason.
    pub(super) reason: String,
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "op {}: {}", self.op, self.reason)
    }
}

/// A set of bytes.
#[derive(Default)]
struct Bytes(Vec<Range<u64>>);

impl Bytes {
    fn add(&mut self, range: &Range<u64>) {
        if self.covers(range) {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        self.0.retain(|other| {
            let is_apart = other.end < start || end < other.start;
            if !is_apart {
                start = start.min(other.start);
                end = end.max(other.end);
            }
            is_apart
        });
        self.0.push(start..end);
    }

    fn covers(&self, range: &Range<u64>) -> bool {
        range.is_empty()
            || self.0.iter().any(|held| held.start <= range.start && range.end <= held.end)
    }

    /// What of the set lies in `ranges`.
    fn within(&self, ranges: &[Range<u64>]) -> Self {
        let mut kept = Self::default();
        for (held, range) in self.0.iter().flat_map(|held| ranges.iter().map(move |r| (held, r))) {
            let both = held.start.max(range.start)..held.end.min(range.end);
            if !both.is_empty() {
                kept.add(&both);
            }
        }
        kept
    }

    /// The part of `range` up to the first byte that is not in the set.
    fn covered_from(&self, start: u64) -> u64 {
        self.0.iter().find(|held| held.contains(&start)).map_or(start, |held| held.end)
    }

    /// The first byte of the set from `start` on.
    fn next_from(&self, start: u64) -> u64 {
        let ahead = self.0.iter().filter(|held| held.end > start);
        ahead.map(|held| held.start.max(start)).min().unwrap_or(u64::MAX)
    }
}

/// The region that holds `range`, or which one it starts in.
fn region<'r>(regions: &'r [Region], range: &Range<u64>) -> Result<&'r Region, String> {
    let at = regions.partition_point(|region| region.address <= range.start);
    let Some(found) = at.checked_sub(1).and_then(|at| regions.get(at)) else {
        return Err(format!("{:#x} is in no region", range.start));
    };
    if range.end > found.end() || range.start >= found.end() {
        let past = range.end.saturating_sub(found.end());
        return Err(format!("reaches {past} bytes past the end of `{}`", found.name));
    }
    Ok(found)
}

/// Weights have to be uploaded without a gap; zeros fill a vector up to a whole tile.
fn check_uploads(lowered: &Lowered) -> Result<(), Flaw> {
    const FILLING: u64 = 128;
    let flaw = |reason: String| Flaw { op: 0, reason };
    let mut uploads: Vec<(Range<u64>, Option<&str>)> = lowered
        .uploads
        .iter()
        .map(|Upload { address, content }| (*address..address + content.bytes(), content.name()))
        .collect();
    uploads.sort_by_key(|(range, _)| range.start);
    let mut uploads = uploads.into_iter().peekable();
    for weights in lowered.regions.iter().filter(|r| r.component == Component::Weights) {
        let mut end = weights.address;
        while let Some((range, name)) = uploads.next_if(|(at, _)| at.start < weights.end()) {
            // An expert's name has a number behind the region's.
            let region = &*weights.name;
            let whose = region.strip_suffix(".bias").unwrap_or(region);
            let is_it = |name: &str| whose.starts_with(name) || name.starts_with(whose);
            if let Some(name) = name.filter(|name| !is_it(name)) {
                return Err(flaw(format!("`{name}` is uploaded to `{region}`")));
            }
            if range.start != end || range.end > weights.end() {
                let reason = format!("an upload to `{}` does not fit", weights.name);
                return Err(flaw(reason));
            }
            end = range.end;
        }
        if end + FILLING <= weights.end() || end == weights.address && weights.bytes > 0 {
            return Err(flaw(format!("`{}` is not uploaded as a whole", weights.name)));
        }
    }
    match uploads.next() {
        Some((range, _)) => Err(flaw(format!("an upload goes to {:#x}, no weights", range.start))),
        None => Ok(()),
    }
}

/// Checks every line of a program, that every weight is uploaded, and what every record says.
pub(super) fn validate(lowered: &Lowered) -> Result<(), Flaw> {
    let wanted = intent::records(lowered).map_err(|reason| Flaw { op: 0, reason })?;
    let pairs = wanted.iter().zip(&lowered.ops);
    for (op, (wanted, found)) in (0..).zip(pairs) {
        if let Some(reason) = intent::difference(wanted, found, &lowered.regions) {
            return Err(Flaw { op, reason });
        }
    }
    let (wanted, found) = (wanted.len(), lowered.ops.len());
    if wanted != found {
        let reason = format!("there are {found} ops, expected {wanted}");
        return Err(Flaw { op: wanted.min(found) as u32, reason });
    }
    soundness(lowered)
}

fn around(lowered: &Lowered) -> Around {
    Around {
        blocks: u64::from(lowered.blocks),
        slots: lowered.limits.slots as u64,
        pages: lowered.limits.pages as u64,
        vocab: lowered.model.spec.vocab as u64,
        experts: 0,
    }
}

/// What can be said of the records without knowing the model: extents, waits, rows, results.
fn soundness(lowered: &Lowered) -> Result<(), Flaw> {
    let Lowered { ops, regions, .. } = lowered;
    if regions.windows(2).any(|pair| pair[0].end() > pair[1].address) {
        return Err(Flaw { op: 0, reason: "regions overlap".into() });
    }
    check_uploads(lowered)?;
    let (words, records) = (&lowered.buffers, (ops.len() * abi::OP_BYTES) as u64);
    for (name, address, bytes) in [
        ("command", words.command, size_of::<abi::Command>() as u64),
        ("barrier", words.barrier, 128),
        ("ops", words.ops, records),
    ] {
        let held = region(regions, &(address..address + bytes));
        if held.is_ok_and(|region| region.name == name) {
            continue;
        }
        return Err(Flaw { op: 0, reason: format!("`{name}` does not hold its {bytes} bytes") });
    }
    let mut all: Vec<Vec<Access>> = Vec::with_capacity(ops.len());
    let mut around = around(lowered);
    for (record, op) in ops.iter().zip(0..) {
        all.push(accesses(record, around).map_err(|reason| Flaw { op, reason })?);
        let is_up = record.kind == abi::OP_MOE_UP;
        around.experts = if is_up { record.payload::<abi::MoeUp>().experts.into() } else { 0 };
    }
    let mut ever = Bytes::default();
    for access in all.iter().flatten().filter(|access| access.writes()) {
        ever.add(&access.range);
    }
    let (rows, taps) = (abi::ROWS as u64, &lowered.buffers.taps);
    let taps = taps.address..taps.address + rows * u64::from(taps.stride) * 2;
    let drafts = lowered.buffers.draft_best;
    let drafts = drafts..drafts + u64::from(lowered.blocks) * rows * 8;
    for line in lines(lowered) {
        let executed: Vec<(u32, abi::Op)> = line
            .stretch
            .clone()
            .filter_map(|op| ops.get(op as usize).map(|record| (op, *record)))
            .filter(|(_, record)| record.flags & line.skip == 0)
            .collect();
        if line.stretch.end as usize > ops.len() {
            return Err(Flaw { op: line.stretch.end - 1, reason: "is beyond the last one".into() });
        }
        if executed.is_empty() && line.promises.is_empty() {
            continue;
        }
        order::check(&executed, line.rows).map_err(|(op, reason)| Flaw { op, reason })?;
        let is_looked_at = |mode: Mode| match mode {
            Mode::ReadIfDrafted => executed.iter().any(|(_, op)| op.kind == abi::OP_DRAFT_CHOOSE),
            Mode::ReadIfRules => line.skip & abi::FLAG_RULES == 0,
            Mode::Read | Mode::Write | Mode::Update => true,
        };
        let (mut written, mut done) = (Bytes::default(), Bytes::default());
        if line.has_taps {
            written.add(&taps);
        }
        let mut results = Results::default();
        for (op, record) in &executed {
            let touched = &all[*op as usize];
            results.pass(*op, touched)?;
            check_op(touched, regions, &ever, (&mut written, &is_looked_at)).map_err(
                |(field, reason)| Flaw { op: *op, reason: format!("`{field}` {reason}") },
            )?;
            touched.iter().filter(|access| access.writes()).for_each(|a| done.add(&a.range));
            // Other rows: of what was computed for the ones before, taps and drafts go on.
            if record.flags & abi::FLAG_NEW_PASS != 0 {
                written = written.within(&[taps.clone(), drafts.clone()]);
            }
        }
        results.end(&line)?;
        let last = executed.last().map_or(line.stretch.start, |(op, _)| *op);
        if let Some(promise) = line.promises.iter().find(|promise| !done.covers(promise)) {
            let name = region(regions, promise).map_or_else(|reason| reason, |r| r.name.clone());
            return Err(Flaw { op: last, reason: format!("the line ends without `{name}`") });
        }
    }
    Ok(())
}

fn check_op(
    accesses: &[Access],
    regions: &[Region],
    ever: &Bytes,
    (written, is_looked_at): (&mut Bytes, &dyn Fn(Mode) -> bool),
) -> Result<(), (&'static str, String)> {
    for access in accesses {
        let Access { field, range, mode } = access;
        let region = region(regions, range).map_err(|reason| (*field, reason))?;
        if region.component == Component::Weights && access.writes() {
            return Err((field, format!("writes the weights `{}`", region.name)));
        }
        // Drafts that stand there from another command are as good as any.
        if *mode == Mode::Write || !is_looked_at(*mode) || region.is_persistent {
            continue;
        }
        // What no op ever writes is zero from the start: the columns behind a row's last one.
        let mut at = range.start;
        while at < range.end {
            let next = written.covered_from(at).max(ever.next_from(at).min(range.end));
            if next == at {
                let reason = format!("reads `{}`, which no op before has written", region.name);
                return Err((field, reason));
            }
            at = next;
        }
    }
    // Blocks of one op do not wait for each other: what one writes no other may read. Updates in
    // place touch their own elements only.
    for write in accesses.iter().filter(|access| access.mode == Mode::Write) {
        let clash = accesses.iter().find(|other| {
            other.field != write.field
                && other.range.start < write.range.end
                && write.range.start < other.range.end
        });
        if let Some(other) = clash {
            return Err((write.field, format!("is written while `{}` is in use", other.field)));
        }
    }
    for access in accesses.iter().filter(|access| access.writes()) {
        written.add(&access.range);
    }
    Ok(())
}
