//! Every record of every program, broken in every way that a record can be broken in: what changes a
//! result is found and blamed on the right op, and what changes nothing is known by name.

use std::collections::BTreeSet;
use std::path::Path;

use kilotok_kernels::abi::program as abi;
use kilotok_kernels::abi::{Shared, program::Op};

use super::super::arena::IMAGINED;
use super::super::lower::{Lowered, lower};
use super::super::synthetic::{Synthetic, share};
use super::super::vm::Vm;
use super::*;
use crate::backend::Limits;
use crate::config::presets;
use crate::model::Model;
use crate::testing::hollow_model;

/// Published models and how many ranks share them.
const MODELS: [(&str, usize); 6] = [
    ("mimo-v2.5-pro", 8),
    ("mimo-v2.5-pro-fp4-dflash", 8),
    ("mimo-v2.5", 1),
    ("mimo-v2-flash", 1),
    ("gpt-oss-20b", 1),
    ("gpt-oss-120b", 1),
];

fn demo() -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python/kilotok/demo/checkpoint");
    crate::weights::load(&dir, None).unwrap()
}

/// A published model without weights, its layers up to the first `layers`.
fn preset((name, ranks): (&str, usize), layers: usize) -> Model {
    let spec = presets::find(name).unwrap().spec().unwrap();
    let mut spec = share(spec, ranks).unwrap();
    if layers < spec.layers.len() {
        spec.layers.truncate(layers);
        if let Some(drafter) = &mut spec.drafter {
            drafter.taps = (0..drafter.taps.len().min(layers)).collect();
        }
    }
    hollow_model(spec, Synthetic::formats(name))
}

fn lowered(model: &Model) -> Lowered<'_> {
    const LIMITS: Limits = Limits {
        max_rows: 64,
        slots: 3,
        pages: 40,
        page_size: 16,
        max_positions: 256,
        snapshots: 0,
    };
    lower(model, LIMITS, 132, IMAGINED).unwrap()
}

/// All of them whole, the demo with its weights.
fn whole() -> impl Iterator<Item = (&'static str, Model)> {
    let published = MODELS.into_iter().map(|model| (model.0, preset(model, usize::MAX)));
    std::iter::once(("demo", demo())).chain(published)
}

/// The same with as many layers as have one of each kind in every order.
fn short() -> impl Iterator<Item = (&'static str, Model)> {
    let published = MODELS.into_iter().map(|model| (model.0, preset(model, 8)));
    std::iter::once(("demo", demo())).chain(published)
}

fn with_number(op: &Op, leaf: &fields::Leaf, change: impl Fn(u64) -> u64) -> Op {
    let mut bytes = Vec::new();
    op.payload.write(&mut bytes);
    let held = &mut bytes[leaf.offset..leaf.offset + leaf.size];
    let old = held.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
    held.copy_from_slice(&change(old).to_le_bytes()[..leaf.size]);
    Op { payload: <[u64; 31]>::read(&mut bytes.as_slice()).unwrap(), ..*op }
}

/// What is done to a number: another one in its last place, its sign or top bit, half, twice, none.
/// Of an address that is a shift by a byte, to another piece of memory, and no buffer at all.
const CHANGES: [fn(u64) -> u64; 6] = [
    |value| value.wrapping_add(1),
    |value| value ^ 1 << 31,
    |value| value / 2,
    |value| value.wrapping_mul(2),
    |value| value.wrapping_add(256),
    |_| 0,
];

/// Numbers that no device looks at, by op and how it is used.
const UNREAD: &[&str] = &[
    "`accept` reserved",
    "`attention` max_pages",
    "`attention` reserved",
    "`attention` scratch",
    "`draft_attention` reserved",
    "`draft_choose` kept",
    "`draft_context` reserved",
    "`embed` to.tap_stride",
    "`filter` reserved",
    "`lay_out` best",
    "`linear` activation.alpha",
    "`linear` activation.kind",
    "`linear` activation.limit",
    "`linear` activation.reserved",
    "`linear` norm.eps",
    "`linear` norm.parts",
    "`linear` norm.reserved",
    "`linear` norm.width",
    "`linear` out",
    "`linear` out_stride",
    "`linear` out_width",
    "`linear` to.fresh",
    "`linear` to.norm_weight",
    "`linear` to.residual",
    "`linear` to.squares",
    "`linear` to.stride",
    "`linear` to.tap",
    "`linear` to.tap_stride",
    "`linear` to.x",
    "`linear` to.x_stride",
    "`moe_down` to.tap_stride",
    "`moe_up` activation.alpha",
    "`moe_up` activation.limit",
    "`moe_up` activation.reserved",
    "`moe_up` norm.reserved",
    "`moe_up` reserved",
    "`router` norm.reserved",
];

#[test]
fn every_number_of_every_record_counts_or_is_known_to_be_unread() {
    let mut unread = BTreeSet::new();
    for (name, model) in whole() {
        let mut lowered = lowered(&model);
        let wanted = intent::records(&lowered).unwrap();
        let mut tried = 0;
        for (i, wanted) in wanted.iter().enumerate() {
            let sound = lowered.ops[i];
            for leaf in fields::leaves(sound.kind) {
                for change in CHANGES {
                    let broken = with_number(&sound, &leaf, change);
                    if broken == sound {
                        continue;
                    }
                    tried += 1;
                    let found = intent::difference(wanted, &broken, &lowered.regions);
                    let Some(reason) = found else {
                        unread.insert(format!("{} {}", fields::kind(sound.kind), leaf.name));
                        continue;
                    };
                    assert!(reason.contains(&leaf.name), "{name}: op {i}: {reason}");
                    // The whole way to the error, now and then.
                    if tried % 499 == 0 {
                        lowered.ops[i] = broken;
                        let flaw = validate(&lowered).unwrap_err();
                        assert_eq!((flaw.op, flaw.reason), (i as u32, reason), "{name}");
                        lowered.ops[i] = sound;
                    }
                }
            }
            for bit in 0..32 {
                let broken = Op { flags: sound.flags ^ 1 << bit, ..sound };
                assert!(intent::difference(wanted, &broken, &lowered.regions).is_some());
                let broken = Op { kind: sound.kind ^ 1 << bit, ..sound };
                assert!(intent::difference(wanted, &broken, &lowered.regions).is_some());
            }
        }
        validate(&lowered).unwrap();
        assert!(tried > 10_000, "{name}: {tried}");
    }
    assert_eq!(unread.iter().map(String::as_str).collect::<Vec<_>>(), UNREAD);
}

/// The second reader of the records does not look at them either: not a bit of memory is another one.
#[test]
fn unread_numbers_change_nothing() {
    let model = demo();
    let lowered = lowered(&model);
    let wanted = intent::records(&lowered).unwrap();
    let mut vm = Vm::new(&lowered);
    let mut command = abi::Command::default();
    command.pass.rows = 2;
    for (i, row) in command.pass.row.iter_mut().enumerate() {
        *row = abi::Row { slot: 0, position: i as u32, token: 7 + i as u32, run: 0 };
    }
    vm.set_command(&command);
    let mut done = BTreeSet::new();
    let s = &lowered.stretches;
    for i in [&s.target, &s.context, &s.draft].into_iter().flat_map(Clone::clone) {
        let sound = lowered.ops[i as usize];
        for leaf in fields::leaves(sound.kind) {
            let broken = with_number(&sound, &leaf, |value| value.wrapping_add(64));
            let found = intent::difference(&wanted[i as usize], &broken, &lowered.regions);
            if found.is_none() && done.insert((sound.kind, leaf.name)) {
                let before = vm.activations();
                vm.run_op(&broken);
                let got = vm.activations();
                vm.set_activations(before);
                vm.run_op(&sound);
                assert!(got == vm.activations(), "op {i}: {done:?}");
            }
        }
        vm.run_op(&sound);
    }
    assert!(done.len() > 20, "{done:?}");
}

/// The lines with op `at` gone.
fn without(lowered: &mut Lowered<'_>, at: u32) -> Op {
    let shift = |lowered: &mut Lowered<'_>, by: fn(u32) -> u32| {
        let s = &mut lowered.stretches;
        for line in [&mut s.target, &mut s.context, &mut s.draft, &mut s.round, &mut s.plain_round]
        {
            line.start = if line.start > at { by(line.start) } else { line.start };
            line.end = if line.end > at { by(line.end) } else { line.end };
        }
    };
    shift(lowered, |op| op - 1);
    lowered.ops.remove(at as usize)
}

/// Bytes of one op that meet those of another, at least one of them writing.
fn depend(a: &[Access], b: &[Access]) -> bool {
    a.iter().any(|a| {
        b.iter().any(|b| {
            (a.writes() || b.writes()) && a.range.start < b.range.end && b.range.start < a.range.end
        })
    })
}

#[test]
fn ops_that_are_dropped_are_missed() {
    for (name, model) in short() {
        let mut lowered = lowered(&model);
        let stretches = lowered.stretches.clone();
        for at in 0..lowered.ops.len() as u32 {
            let op = without(&mut lowered, at);
            let flaw = validate(&lowered).unwrap_err();
            assert_eq!(flaw.op, at, "{name}: {flaw}");
            // Without knowing what the model asks for: somebody waits for what is not published.
            let what = fields::kind(op.kind);
            assert!(soundness(&lowered).is_err(), "{name}: op {at}, {what}");
            lowered.ops.insert(at as usize, op);
            lowered.stretches = stretches.clone();
        }
        validate(&lowered).unwrap();
    }
}

#[test]
fn ops_that_are_swapped_are_found_and_harmless_only_where_they_share_nothing() {
    for (name, model) in short() {
        let mut lowered = lowered(&model);
        let mut harmless = BTreeSet::new();
        let starts: BTreeSet<u32> = {
            let s = &lowered.stretches;
            [&s.target, &s.context, &s.draft, &s.round, &s.plain_round].map(|l| l.start).into()
        };
        for at in 0..lowered.ops.len() - 1 {
            let [a, b] = [lowered.ops[at], lowered.ops[at + 1]];
            if a == b || starts.contains(&(at as u32 + 1)) {
                continue;
            }
            let around = around(&lowered);
            let [experts_a, experts_b] = [a, b].map(|op| match op.kind {
                abi::OP_MOE_UP => u64::from(op.payload::<abi::MoeUp>().experts),
                _ => 0,
            });
            let of = |op: &Op, experts| accesses(op, Around { experts, ..around }).unwrap();
            let waits = b.kind == abi::OP_MOE_DOWN
                || [a, b].iter().any(|op| op.flags & abi::FLAG_NEW_PASS != 0);
            let depends = waits
                || b.kind != abi::OP_MOE_DOWN && depend(&of(&a, experts_b), &of(&b, experts_a));
            lowered.ops.swap(at, at + 1);
            let flaw = validate(&lowered).unwrap_err();
            assert_eq!(flaw.op, at as u32, "{name}: {flaw}");
            let result = soundness(&lowered);
            if depends {
                let kinds = [a, b].map(|op| fields::kind(op.kind));
                assert!(result.is_err(), "{name}: op {at}, {kinds:?}");
            } else {
                result.unwrap_or_else(|flaw| panic!("{name}: {flaw}"));
                harmless.insert([a, b].map(|op| fields::kind(op.kind)));
            }
            lowered.ops.swap(at, at + 1);
        }
        // Rotations wait for the rows of the pass alone.
        assert!(harmless.iter().flatten().any(|kind| *kind == "`rope`"), "{name}: {harmless:?}");
        assert!(harmless.iter().all(|kinds| kinds.contains(&"`rope`")), "{name}: {harmless:?}");
    }
}

#[test]
fn buffers_that_shrink_or_move_are_found() {
    for (name, model) in short() {
        let mut lowered = lowered(&model);
        for i in 0..lowered.regions.len() {
            let sound = lowered.regions[i].clone();
            for (address, bytes) in [(0, sound.bytes - 1), (0, sound.bytes / 2), (256, sound.bytes)]
            {
                lowered.regions[i].address += address;
                lowered.regions[i].bytes = bytes;
                let found = validate(&lowered);
                assert!(found.is_err(), "{name}: `{}` at +{address}: {bytes}", sound.name);
                lowered.regions[i] = sound.clone();
            }
        }
        for i in (0..lowered.uploads.len()).step_by(97) {
            let upload = lowered.uploads.remove(i);
            assert!(validate(&lowered).is_err(), "{name}: upload {i} dropped");
            lowered.uploads.insert(i, upload);
            lowered.uploads[i].address += 128;
            assert!(validate(&lowered).is_err(), "{name}: upload {i} moved");
            lowered.uploads[i].address -= 128;
        }
        validate(&lowered).unwrap();
    }
}

/// What the words name, one by one, and who is blamed.
#[test]
fn waits_without_a_publisher_are_named() {
    let model = preset(("gpt-oss-20b", 1), 4);
    let mut lowered = lowered(&model);
    let find = |lowered: &Lowered<'_>, kind: u32| {
        let ops = lowered.stretches.round.clone();
        ops.clone().find(|op| lowered.ops[*op as usize].kind == kind).unwrap() as usize
    };
    let mut blamed = |kind: u32, change: &dyn Fn(&mut Op), words: &str| {
        let at = find(&lowered, kind);
        let sound = lowered.ops[at];
        change(&mut lowered.ops[at]);
        let flaw = soundness(&lowered).unwrap_err().to_string();
        lowered.ops[at] = sound;
        assert!(flaw.contains(words), "{flaw}, expected {words}");
    };
    fn edit<T: Shared>(op: &mut Op, change: impl FnOnce(&mut T)) {
        let mut payload = op.payload();
        change(&mut payload);
        *op = Op::new(op.kind, op.flags, &payload);
    }
    let flags = |op: &mut Op| op.flags = 0;
    blamed(abi::OP_LAY_OUT, &flags, "rows that change");
    blamed(abi::OP_ACCEPT, &flags, "rows that change");
    let undecided = |op: &mut Op| op.flags &= !abi::FLAG_DECIDES;
    blamed(abi::OP_ACCEPT, &undecided, "the end of a run");
    let routes = |op: &mut Op| edit(op, |down: &mut abi::MoeDown| down.routes += 256);
    blamed(abi::OP_MOE_DOWN, &routes, "`moe_up`");
    let ring = |op: &mut Op| edit(op, |a: &mut abi::Attention| a.window = a.positions);
    blamed(abi::OP_ATTENTION, &ring, "a ring of");
    let chunks = |op: &mut Op| edit(op, |l: &mut abi::Linear| l.weights.chunk_steps = 3);
    blamed(abi::OP_LINEAR, &chunks, "chunks of 3 steps");
}
