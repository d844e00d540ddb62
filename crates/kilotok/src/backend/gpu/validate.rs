//! Proves of op records, before a device sees them, that every address lies in the region it is
//! meant for and that an op reads only what stands there: weights and caches, or what an earlier op
//! of the line wrote. Whoever breaks a record, swaps two ops or shrinks a buffer is told which op,
//! which field and why.

mod access;

use std::ops::Range;

use kilotok_gpu::pool::Component;
use kilotok_kernels::abi::program as abi;

use super::arena::Region;
use super::lower::{Lowered, Stretch};
use access::{Access, Mode, accesses};

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
    let mut uploads: Vec<Range<u64>> = lowered
        .uploads
        .iter()
        .map(|upload| upload.address..upload.address + upload.content.bytes())
        .collect();
    uploads.sort_by_key(|range| range.start);
    let mut uploads = uploads.into_iter().peekable();
    for weights in lowered.regions.iter().filter(|r| r.component == Component::Weights) {
        let mut end = weights.address;
        while let Some(range) = uploads.next_if(|range| range.start < weights.end()) {
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
        Some(range) => Err(flaw(format!("an upload goes to {:#x}, no weights", range.start))),
        None => Ok(()),
    }
}

/// Checks every line of a program, and that every weight is uploaded.
pub(super) fn validate(lowered: &Lowered) -> Result<(), Flaw> {
    let Lowered { stretches, ops, regions, .. } = lowered;
    if regions.windows(2).any(|pair| pair[0].end() > pair[1].address) {
        return Err(Flaw { op: 0, reason: "regions overlap".into() });
    }
    check_uploads(lowered)?;
    let all: Vec<Vec<Access>> = ops
        .iter()
        .zip(0..)
        .map(|(record, op)| accesses(record, lowered.blocks).map_err(|reason| Flaw { op, reason }))
        .collect::<Result<_, _>>()?;
    let mut ever = Bytes::default();
    for access in all.iter().flatten().filter(|access| access.mode != Mode::Read) {
        ever.add(&access.range);
    }
    let (rows, taps) = (abi::ROWS as u64, &lowered.buffers.taps);
    let taps = taps.address..taps.address + rows * u64::from(taps.stride) * 2;
    let lines: [(&Stretch, bool); 5] = [
        (&stretches.target, false),
        // The target's line ran before it, in a command of its own.
        (&stretches.context, true),
        (&stretches.draft, false),
        (&stretches.round, false),
        (&stretches.plain_round, false),
    ];
    for (line, has_taps) in lines {
        let mut written = Bytes::default();
        if has_taps {
            written.add(&taps);
        }
        for op in line.clone() {
            let accesses = all
                .get(op as usize)
                .ok_or_else(|| Flaw { op, reason: "is beyond the last one".into() })?;
            check_op(accesses, regions, &ever, &mut written)
                .map_err(|(field, reason)| Flaw { op, reason: format!("`{field}` {reason}") })?;
        }
    }
    Ok(())
}

fn check_op(
    accesses: &[Access],
    regions: &[Region],
    ever: &Bytes,
    written: &mut Bytes,
) -> Result<(), (&'static str, String)> {
    for Access { field, range, mode } in accesses {
        let region = region(regions, range).map_err(|reason| (*field, reason))?;
        if region.component == Component::Weights && *mode != Mode::Read {
            return Err((field, format!("writes the weights `{}`", region.name)));
        }
        if *mode == Mode::Write || region.is_persistent {
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
    for access in accesses.iter().filter(|access| access.mode != Mode::Read) {
        written.add(&access.range);
    }
    Ok(())
}
