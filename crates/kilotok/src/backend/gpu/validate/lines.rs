//! The lines that commands run, and what becomes of what they leave.

use std::ops::Range;

use kilotok_gpu::pool::Component;
use kilotok_kernels::abi::program as abi;

use super::super::arena::Region;
use super::super::lower::{Lowered, Stretch};
use super::order::Rows;

/// One way to run a line.
pub(super) struct Line<'a> {
    pub(super) stretch: &'a Stretch,
    /// Flags of ops that are passed over.
    pub(super) skip: u32,
    pub(super) rows: Rows,
    /// Whether the target's line ran before, in a command of its own.
    pub(super) has_taps: bool,
    /// Whether taps become drafter context in this line.
    pub(super) commits: bool,
    /// What somebody reads when the line has run.
    pub(super) promises: Vec<Range<u64>>,
}

/// Every way in which commands run the lines of a program.
pub(super) fn lines<'l>(lowered: &'l Lowered<'_>) -> Vec<Line<'l>> {
    let (s, buffers) = (&lowered.stretches, &lowered.buffers);
    let region = |name: &str| {
        let found = lowered.regions.iter().find(|region| region.name == name);
        found.map_or(0..0, |region| region.address..region.end())
    };
    let caches = |prefix: &str| -> Vec<Range<u64>> {
        let is_cache = |region: &&Region| {
            let component = region.component;
            matches!(component, Component::Kv | Component::Rings) && region.name.starts_with(prefix)
        };
        lowered.regions.iter().filter(is_cache).map(|r| r.address..r.end()).collect()
    };
    let (layers, rings) = (caches("layers."), caches("drafter.layers."));
    let vocab = lowered.model.spec.vocab as u64 * 4;
    let logits = (0..abi::ROWS as u64).map(|row| {
        let at = buffers.logits.address + row * u64::from(buffers.logits.stride) * 4;
        at..at + vocab
    });
    let with_logits = [layers.clone(), logits.collect()].concat();
    let drafted = if s.draft.is_empty() { Vec::new() } else { vec![region("draft best")] };
    let has_drafter = !s.context.is_empty();
    let line = |stretch, skip, rows, has_taps, promises| Line {
        stretch,
        skip,
        rows,
        has_taps,
        commits: has_drafter && (has_taps || rows == Rows::None && skip & abi::FLAG_DRAFT == 0),
        promises,
    };
    let (host, none, draft) = (Rows::Host, Rows::None, abi::FLAG_DRAFT);
    let rules = abi::FLAG_RULES;
    let round = [layers.clone(), rings.clone(), vec![region("best")]].concat();
    let plain = [layers.clone(), vec![region("best")]].concat();
    vec![
        line(&s.target, 0, host, false, with_logits),
        line(&s.target, abi::FLAG_LOGITS, host, false, layers),
        line(&s.context, 0, host, true, rings),
        line(&s.draft, 0, host, false, drafted),
        line(&s.round, 0, none, false, round.clone()),
        line(&s.round, rules, none, false, round.clone()),
        line(&s.plain_round, 0, none, false, round.clone()),
        line(&s.plain_round, rules, none, false, round),
        line(&s.plain_round, draft, none, false, plain.clone()),
        line(&s.plain_round, draft | rules, none, false, plain),
    ]
}
