//! Published models, lowered from their configurations alone, and programs that were broken on
//! purpose.

use std::path::Path;

use kilotok_kernels::abi::program as abi;

use super::arena::IMAGINED;
use super::lower::{Lowered, lower};
use super::validate::validate;
use crate::backend::Limits;
use crate::config::presets;
use crate::model::Model;
use crate::testing::{Formats, Stored, hollow_model};
use crate::weights;

mod prefixes;
mod records;
mod updates;

const LIMITS: Limits = Limits {
    max_rows: 64,
    slots: 8,
    pages: 1024,
    page_size: 16,
    max_positions: 4096,
    snapshots: 0,
};
const BLOCKS: u32 = 132;

fn lowered(model: &Model) -> Lowered<'_> {
    lower(model, LIMITS, BLOCKS, IMAGINED).unwrap()
}

/// The demo, lowered.
pub(super) fn demo_lowered(look: impl FnOnce(&Lowered<'_>)) {
    look(&lowered(&demo()));
}

fn demo() -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python/kilotok/demo/checkpoint");
    weights::load(&dir, None).unwrap()
}

fn preset(name: &str) -> Model {
    let formats =
        if name.starts_with("gpt-oss") { Formats::gpt_oss() } else { Formats::mimo_fp4() };
    hollow_model(presets::find(name).unwrap().spec().unwrap(), formats)
}

fn kinds(lowered: &Lowered, range: std::ops::Range<u32>) -> Vec<u32> {
    range.map(|op| lowered.ops[op as usize].kind).collect()
}

#[test]
fn the_demo_and_every_preset_are_sound() {
    validate(&lowered(&demo())).unwrap();
    let model = demo();
    let with_saved = Limits { snapshots: 5, ..LIMITS };
    validate(&lower(&model, with_saved, BLOCKS, IMAGINED).unwrap()).unwrap();
    for preset_ in presets::ALL {
        let model = preset(preset_.name);
        let lowered = lowered(&model);
        validate(&lowered).unwrap_or_else(|flaw| panic!("{}: {flaw}", preset_.name));
        assert_eq!(lowered.pass_rows, 8, "{}", preset_.name);
    }
}

#[test]
fn what_lies_on_the_card_is_what_the_weights_weigh() {
    let model = preset("gpt-oss-20b");
    let lowered = lowered(&model);
    // 24 layers of 32 experts, 3 matrices of 2880 x 2880 in 4.25 bits.
    let experts = 24 * 32 * 3 * 2880 * 2880 * 17 / 32;
    let named = |part: &str| -> u64 {
        lowered.regions.iter().filter(|r| r.name.ends_with(part)).map(|r| r.bytes).sum()
    };
    assert_eq!(named("experts.gate_up") + named("experts.down"), experts);
    assert_eq!(named("lm_head"), 201_088 * 2880 * 2);
    let weights = lowered.sizes[0];
    assert!((experts..experts + (5 << 30)).contains(&weights), "{weights}");
}

#[test]
fn a_dense_layer_is_five_ops_and_a_routed_one_six() {
    let model = demo();
    let lowered = lowered(&model);
    let kinds = kinds(&lowered, lowered.stretches.target.clone());
    let layers = &model.spec.layers;
    let moe = layers.iter().filter(|l| matches!(l.mlp, crate::MlpSpec::Moe(_))).count();
    let count = |kind: u32| kinds.iter().filter(|k| **k == kind).count();
    assert_eq!(count(abi::OP_ATTENTION), layers.len());
    assert_eq!([count(abi::OP_ROUTER), count(abi::OP_MOE_UP), count(abi::OP_MOE_DOWN)], [moe; 3]);
    // qkv and o_proj of every layer, two of a dense feed-forward, the head.
    assert_eq!(count(abi::OP_LINEAR), 2 * layers.len() + 2 * (layers.len() - moe) + 1);
    assert_eq!((kinds[0], kinds[1]), (abi::OP_EMBED, abi::OP_ROPE));
}

#[test]
fn a_round_is_draft_target_choice_and_context() {
    let model = demo();
    let lowered = lowered(&model);
    let s = &lowered.stretches;
    let lines = [&s.draft, &s.target, &s.context].map(|line| kinds(&lowered, line.clone()));
    let [draft, target, context] = lines;
    let expected = [
        vec![abi::OP_LAY_OUT],
        draft,
        vec![abi::OP_LAY_OUT],
        target,
        vec![abi::OP_ADJUST, abi::OP_FILTER, abi::OP_CHOOSE, abi::OP_ACCEPT],
        context,
    ];
    assert_eq!(kinds(&lowered, s.round.clone()), expected.concat());
    assert_eq!((s.target.end, s.plain_round.end), (s.context.start, s.round.end));
    let flags = |op: u32| lowered.ops[op as usize].flags;
    assert!((s.round.start..s.plain_round.start).all(|op| flags(op) & abi::FLAG_DRAFT != 0));
    let decides: Vec<u32> =
        s.round.clone().filter(|op| flags(*op) & abi::FLAG_DECIDES != 0).collect();
    assert_eq!(decides.len(), 1);
    assert!((decides[0] + 1..s.round.end).all(|op| flags(op) & abi::FLAG_DRAFT != 0));
    let wanted = |line: &std::ops::Range<u32>| {
        line.clone().filter(|op| flags(*op) & abi::FLAG_LOGITS != 0).count()
    };
    assert_eq!((wanted(&s.target), wanted(&s.draft)), (1, 0));
}

/// A record with one field changed.
fn mutate<T: kilotok_kernels::abi::Shared>(op: &mut abi::Op, change: impl FnOnce(&mut T)) {
    let mut payload = op.payload();
    change(&mut payload);
    *op = abi::Op::new(op.kind, op.flags, &payload);
}

/// Whatever is done to one record is found, with the op's index.
#[test]
fn broken_programs_are_caught() {
    let model = demo();
    let sound = lowered(&model);
    let find = |kind: u32| {
        sound.stretches.target.clone().find(|op| sound.ops[*op as usize].kind == kind).unwrap()
    };
    type Change = Box<dyn Fn(&mut Vec<abi::Op>)>;
    let at = |kind: u32, change: fn(&mut abi::Op)| -> (u32, Change) {
        let op = find(kind);
        (op, Box::new(move |ops| change(&mut ops[op as usize])))
    };
    let nothing =
        abi::Rope { frequencies: IMAGINED[0], rotations: IMAGINED[3], pairs: 0, magnitude: 1.0 };
    let drop = move |op: &mut abi::Op| *op = abi::Op::new(abi::OP_ROPE, 0, &nothing);
    let mut cases: Vec<(u32, Change)> = vec![
        at(abi::OP_EMBED, |op| mutate(op, |e: &mut abi::Embed| e.to.x += 1 << 30)),
        at(abi::OP_EMBED, |op| mutate(op, |e: &mut abi::Embed| e.to.fresh = 0)),
        at(abi::OP_LINEAR, |op| mutate(op, |l: &mut abi::Linear| l.weights.tiles += 1)),
        at(abi::OP_LINEAR, |op| mutate(op, |l: &mut abi::Linear| l.weights.steps_per_tile += 1)),
        at(abi::OP_LINEAR, |op| mutate(op, |l: &mut abi::Linear| l.weights.format = 7)),
        at(abi::OP_LINEAR, |op| mutate(op, |l: &mut abi::Linear| l.x_stride *= 2)),
        at(abi::OP_LINEAR, |op| mutate(op, |l: &mut abi::Linear| l.out = l.x)),
        at(abi::OP_LINEAR, |op| mutate(op, |l: &mut abi::Linear| l.out = l.weights.steps)),
        at(abi::OP_LINEAR, |op| mutate(op, |l: &mut abi::Linear| l.out_width += 4096)),
        at(abi::OP_ATTENTION, |op| mutate(op, |a: &mut abi::Attention| a.heads *= 2)),
        at(abi::OP_ATTENTION, |op| mutate(op, |a: &mut abi::Attention| a.keys = 16)),
        at(abi::OP_ATTENTION, |op| mutate(op, |a: &mut abi::Attention| a.max_chunks = 0)),
        at(abi::OP_MOE_UP, |op| mutate(op, |u: &mut abi::MoeUp| u.experts += 1)),
        at(abi::OP_MOE_UP, |op| mutate(op, |u: &mut abi::MoeUp| u.hidden_stride *= 2)),
        at(abi::OP_MOE_DOWN, |op| mutate(op, |d: &mut abi::MoeDown| d.to.stride *= 2)),
    ];
    // An op that never ran: whoever reads its output is named.
    for kind in [abi::OP_EMBED, abi::OP_ATTENTION, abi::OP_ROUTER, abi::OP_MOE_UP] {
        let op = find(kind);
        cases.push((u32::MAX, Box::new(move |ops| drop(&mut ops[op as usize]))));
    }
    let router = find(abi::OP_ROUTER) as usize;
    cases.push((router as u32, Box::new(move |ops| ops.swap(router, router + 1))));
    for (i, (op, change)) in cases.into_iter().enumerate() {
        let mut broken = lowered(&model);
        change(&mut broken.ops);
        let flaw = validate(&broken).expect_err(&format!("case {i} passed"));
        assert!(op == u32::MAX || flaw.op == op, "case {i}: {flaw}, expected at {op}");
    }
}

#[test]
fn shrunken_buffers_and_missing_uploads_are_caught() {
    let model = demo();
    for (i, region) in lowered(&model).regions.iter().enumerate() {
        // Nobody but the device's own loop looks at these.
        if ["command", "barrier", "ops"].contains(&region.name.as_str()) {
            continue;
        }
        let mut broken = lowered(&model);
        broken.regions[i].bytes /= 2;
        let is_cache =
            region.is_persistent && region.component != kilotok_gpu::pool::Component::Weights;
        // Of a cache one block is checked, its other blocks have the same extents.
        assert!(is_cache || validate(&broken).is_err(), "{}", region.name);
    }
    let mut broken = lowered(&model);
    broken.uploads.remove(7);
    assert!(validate(&broken).is_err());
}

#[test]
fn what_the_device_cannot_run_is_refused_by_name() {
    let spec = presets::find("gpt-oss-20b").unwrap().spec().unwrap();
    let refusal =
        |model: &Model| lower(model, LIMITS, BLOCKS, IMAGINED).map(drop).unwrap_err().to_string();
    let floats = Formats { qkv: Stored::F32, ..Formats::gpt_oss() };
    let text = refusal(&hollow_model(spec.clone(), floats));
    assert!(text.contains("layers.0.qkv") && text.contains("bfloat16"), "{text}");
    let floats = Formats { embed: Stored::F32, ..Formats::gpt_oss() };
    assert!(refusal(&hollow_model(spec.clone(), floats)).contains("embed"));
    let mut odd = spec.clone();
    odd.layers[3].attention.qk_dim = 60;
    odd.layers[3].attention.rope.dims = 32;
    assert!(refusal(&hollow_model(odd, Formats::gpt_oss())).contains("layers.3.attention"));
    let mut twice = spec;
    if let Some(drafter) = &mut twice.drafter {
        drafter.taps = vec![1, 6, 6];
    }
    assert!(refusal(&hollow_model(twice.clone(), Formats::gpt_oss())).contains("layer 6"));
    // A tap's filling would end up on what was written before.
    let mut shuffled = twice;
    shuffled.hidden = 2872;
    if let Some(drafter) = &mut shuffled.drafter {
        (drafter.hidden, drafter.taps) = (2872, vec![6, 1]);
    }
    for layer in &mut shuffled.layers {
        if let crate::MlpSpec::Moe(moe) = &mut layer.mlp {
            moe.inter = 2880;
        }
    }
    let formats = Formats { experts: Stored::Bf16, ..Formats::gpt_oss() };
    assert!(refusal(&hollow_model(shuffled, formats)).contains("[6, 1]"));
}

#[test]
fn only_a_gpu_that_was_tested_is_taken_unasked() {
    assert_eq!(super::untested_reason("NVIDIA H200", (9, 0)), None);
    for capability in [(8, 0), (10, 0), (12, 0)] {
        let reason = super::untested_reason("NVIDIA X", capability).unwrap();
        assert!(reason.contains(&format!("NVIDIA X (compute capability {}.0)", capability.0)));
    }
}
