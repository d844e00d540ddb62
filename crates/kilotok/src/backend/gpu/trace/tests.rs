//! Traces of records that were made up.

use kilotok_kernels::abi::program as abi;
use serde_json::Value;

use super::super::arena::IMAGINED;
use super::super::lower::lower;
use super::{Losses, OpList, Trace};
use crate::backend::Limits;
use crate::testing::{Formats, hollow_model};

const LIMITS: Limits =
    Limits { max_rows: 8, slots: 1, pages: 64, page_size: 16, max_positions: 1024, snapshots: 0 };

/// Cycles of an SM per nanosecond.
const CYCLES: f64 = 1.75;
const BLOCKS: usize = 3;

fn program() -> (OpList, Vec<u32>) {
    let spec = crate::config::presets::find("gpt-oss-20b").unwrap().spec().unwrap();
    let model = hollow_model(spec, Formats::gpt_oss());
    let lowered = lower(&model, LIMITS, BLOCKS as u32, IMAGINED).unwrap();
    let target = lowered.stretches.target.clone();
    let kinds = target.map(|op| lowered.ops[op as usize].kind).collect();
    (OpList::new(&lowered), kinds)
}

/// Nanoseconds at which a block did what in an op: (entered, routed, weights, arrived, passed), 0 for never.
type Times = [u64; 5];

/// Records of blocks whose counters start far apart.
fn records(ops: &[(u32, [Times; BLOCKS])], command: u32) -> Vec<Vec<abi::TraceRecord>> {
    let of = |block: usize| {
        let offset = 1u64 << (40 + block);
        let cycle = |ns: u64| if ns == 0 { 0 } else { offset + (ns as f64 * CYCLES) as u64 };
        let record = |(i, (op, times)): (usize, &(u32, [Times; BLOCKS]))| {
            let [entered, routed, weights, arrived, passed] = times[block];
            abi::TraceRecord {
                number: i as u32 + 1,
                op: *op,
                rows: 2,
                sequences: 1,
                context: 100,
                experts: 7,
                command,
                sm: 10 + block as u32,
                nanoseconds: 1_000_000_000 + passed,
                entered: cycle(entered),
                routed: cycle(routed),
                weights: cycle(weights),
                arrived: cycle(arrived),
                passed: cycle(passed),
                ..abi::TraceRecord::default()
            }
        };
        ops.iter().enumerate().map(record).collect()
    };
    (0..BLOCKS).map(of).collect()
}

/// A linear op and an op over experts; the second block is late in both.
fn two_ops(kinds: &[u32]) -> Vec<(u32, [Times; BLOCKS])> {
    let find = |kind| kinds.iter().position(|k| *k == kind).unwrap() as u32;
    vec![
        (
            find(abi::OP_LINEAR),
            [
                [4_000, 0, 6_000, 14_000, 19_000],
                [4_000, 0, 8_000, 18_000, 19_000],
                [4_000, 0, 6_000, 12_000, 19_000],
            ],
        ),
        (
            find(abi::OP_MOE_UP),
            [
                [20_000, 22_000, 26_000, 36_000, 41_000],
                [20_000, 22_000, 28_000, 40_000, 41_000],
                [21_000, 23_000, 27_000, 36_000, 41_000],
            ],
        ),
    ]
}

fn trace() -> Trace {
    let (list, kinds) = program();
    list.assemble(&records(&two_ops(&kinds), 5), "a GPU".into(), Some(4e12))
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 2e-3
}

#[test]
fn blocks_with_clocks_of_their_own_share_one_timeline() {
    let trace = trace();
    let [linear, up] = trace.ops.as_slice() else { panic!("{trace:?}") };
    assert_eq!((linear.kind, linear.experts), ("linear", None));
    assert_eq!((up.kind, up.experts, up.rows), ("moe_up", Some(7), 2));
    assert!(up.label.ends_with("experts.gate_up"), "{}", up.label);
    for (op, times) in [(linear, [0.0, 10.0, 15.0]), (up, [16.0, 32.0, 37.0])] {
        let span = op.blocks[0];
        let found = [span.entered, span.arrived, span.passed];
        assert!(found.iter().zip(times).all(|(a, b)| near(*a, b)), "{found:?}");
        assert_eq!(span.sm, 10);
    }
    assert!(near(up.blocks[2].routed.unwrap(), 19.0));
    assert_eq!(linear.blocks[0].routed, None);
    // 7 experts of gate and up, 2880 x 2880 each in 4.25 bits, and their bias.
    let each = 2 * 2880 * 2880 * 17 / 32 + 2 * 2880 * 4;
    assert_eq!(up.bytes, f64::from(7 * each));
}

#[test]
fn the_coarseness_of_the_global_timer_averages_out() {
    let (list, kinds) = program();
    let op = kinds.iter().position(|k| *k == abi::OP_LINEAR).unwrap() as u32;
    // An op every 2.3 us.
    let many: Vec<_> = (0..400)
        .map(|i| {
            let at = 10_000 + 2_300 * i;
            (op, [[at, 0, at + 500, at + 1_500, at + 2_000]; BLOCKS])
        })
        .collect();
    let mut coarse = records(&many, 1);
    for record in coarse.iter_mut().flatten() {
        record.nanoseconds -= record.nanoseconds % 1024;
    }
    let trace = list.assemble(&coarse, String::new(), None);
    for op in &trace.ops {
        for span in &op.blocks {
            assert!((span.entered - op.blocks[0].entered).abs() < 0.05);
            assert!((span.passed - span.entered - 2.0).abs() < 0.05);
        }
    }
}

#[test]
fn the_parts_of_an_ops_time_are_told_apart_and_add_up() {
    let trace = trace();
    let parts: Vec<Losses> = trace.losses().map(|(_, losses)| losses).collect();
    let [linear, up] = parts.as_slice() else { panic!("{parts:?}") };
    // Means of three blocks.
    assert!(near(linear.ramp, 8.0 / 3.0), "{linear:?}");
    assert!(near(linear.tail, 10.0 / 3.0), "{linear:?}");
    assert!(near(linear.barrier, 1.0), "{linear:?}");
    assert!(near(linear.routing + linear.between + linear.others, 0.0), "{linear:?}");
    assert!(near(linear.ceiling + linear.slow, 24.0 / 3.0), "{linear:?}");
    assert!(near(linear.total(), 15.0), "{linear:?}");
    assert!(near(up.routing, 20.0 / 3.0) && near(up.ramp, 0.0), "{up:?}");
    // The last one entered a microsecond later.
    assert!(near(up.between, 4.0 / 3.0), "{up:?}");
    assert!(near(up.total(), 22.0), "{up:?}");
    // 62 MB at 4 TB/s are 15.5 us: more than any block took.
    assert!(near(up.slow, 0.0) && near(up.ceiling, 31.0 / 3.0), "{up:?}");
    let slow = Trace { rate: Some(4e13), ..trace };
    let (_, up) = slow.losses().nth(1).unwrap();
    let floor = 1e6 * slow.ops[1].bytes / 4e13;
    assert!(near(up.ceiling, floor) && near(up.slow, 31.0 / 3.0 - floor), "{up:?}");
}

#[test]
fn the_timeline_is_json_with_every_op_of_every_block() {
    let trace = trace();
    let mut bytes = Vec::new();
    trace.write_json(&mut bytes).unwrap();
    let json: Value = serde_json::from_slice(&bytes).unwrap();
    let events = json["traceEvents"].as_array().unwrap();
    let named = |name: &str| -> Vec<&Value> {
        events.iter().filter(|event| event["name"] == name).collect()
    };
    assert_eq!(named("thread_name").len(), BLOCKS);
    assert_eq!(named("thread_name")[1]["args"]["name"], "SM 11 (block 1)");
    assert_eq!(named("wait").len(), 2 * BLOCKS);
    assert_eq!(named("first weights").len(), 2 * BLOCKS);
    assert_eq!(named("select experts").len(), BLOCKS);
    let up = named("moe_up");
    assert_eq!(up.len(), BLOCKS);
    assert_eq!(up[2]["tid"], 2);
    assert_eq!(up[2]["args"]["experts"], 7);
    assert_eq!(up[2]["args"]["bytes"].as_f64().unwrap(), trace.ops[1].bytes);
    assert!(near(up[2]["ts"].as_f64().unwrap(), 17.0));
    assert!(near(up[2]["dur"].as_f64().unwrap(), 15.0));
    // What is within an op lies within it.
    for event in named("first weights") {
        let (from, length) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
        let is_within = |op: &&Value| {
            let (start, dur) = (op["ts"].as_f64().unwrap(), op["dur"].as_f64().unwrap());
            op["tid"] == event["tid"] && start <= from && from + length <= start + dur + 1e-6
        };
        assert!(events.iter().filter(|e| e["args"]["bytes"].is_number()).any(|e| is_within(&e)));
    }
    let rate = named("read")[1]["args"]["TB/s"].as_f64().unwrap();
    assert!((rate - trace.ops[1].bytes / 20.0 / 1e6).abs() < 1e-2, "{rate}");
}

#[test]
fn the_summary_is_a_page_that_names_the_causes() {
    let trace = trace();
    let text = trace.summary();
    assert!(text.lines().count() < 60 && text.lines().all(|line| line.len() < 100), "{text}");
    assert!(text.contains("a GPU, 3 blocks: 2 ops of 1 commands, 37.0 us on the device"), "{text}");
    let bytes: f64 = trace.ops.iter().map(|op| op.bytes).sum();
    let share = 1e8 * bytes / 37.0 / 4e12;
    assert!(text.contains(&format!("{share:.1} % of the ceiling of 4.00 TB/s")), "{text}");
    for cause in ["ramp", "routing bubble", "tail", "barrier", "last to arrive (ops): SM 11 (2)"] {
        assert!(text.contains(cause), "{cause}: {text}");
    }
    let nothing = Trace { ops: Vec::new(), ..trace };
    assert!(nothing.summary().contains("0 ops"), "{}", nothing.summary());
}

#[test]
fn an_op_that_a_block_has_forgotten_is_left_out() {
    let (list, kinds) = program();
    let mut records = records(&two_ops(&kinds), 5);
    records[1].remove(0);
    let trace = list.assemble(&records, String::new(), None);
    assert_eq!(trace.ops.len(), 1);
    assert_eq!(trace.ops[0].kind, "moe_up");
    assert!(list.assemble(&[], String::new(), None).ops.is_empty());
}
