//! The host's side of a machine, against one on the host that answers as the device does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kilotok_kernels::Image;
use kilotok_kernels::abi::program as abi;

use super::{Debug, Machine, MachineOptions, Mode, Places};
use crate::pool::{Component, MemoryPlan, MemoryPool};
use crate::stand_in::{WORKING, source, with_driver};
use crate::{Context, GpuError, Library, Stream};

const DEVICE: &str = include_str!("../stand_in_device.c");
const MACHINE: &str = include_str!("../stand_in_machine.c");
const PROGRAM: &str = include_str!("../../../../cuda/include/kilotok/program.h");
static IMAGE: Image = Image { family: "stand-in", archs: &["sm_90"], bytes: b"image" };

/// Kinds of the stand-in's ops.
const ADD: u32 = 1;
const FAIL: u32 = 97;
const GIVE_UP: u32 = 98;
const HANG: u32 = 99;

const MODES: [Mode; 2] = [Mode::Graph, Mode::Persistent];

fn driver() -> String {
    let program = PROGRAM
        .replace("#pragma once", "#include <stdint.h>")
        .replace("#include \"kilotok/abi.h\"", "");
    let free = "#define FREE_BYTES (1ul << 30)\n";
    source(&format!("{free}{WORKING}{program}{DEVICE}{MACHINE}"), &[])
}

/// A machine over `count` words and the ops that `make` gives for their addresses.
fn machine(options: MachineOptions, make: impl Fn(&[u64]) -> Vec<abi::Op>) -> (Machine, Vec<u64>) {
    let context = Context::new(0).unwrap();
    let mut plan = MemoryPlan::default();
    let mut region = |component, bytes| plan.region(component, bytes, 256).unwrap();
    let words = region(Component::Exchange, 64);
    let ops = region(Component::Mailboxes, 64 * abi::OP_BYTES as u64);
    let command = region(Component::Mailboxes, size_of::<abi::Command>() as u64);
    let barrier = region(Component::Mailboxes, 128);
    let pool = MemoryPool::new(Arc::clone(&context), &plan, 1.0).unwrap();
    let at = |id| pool.region(id).unwrap().address;
    let places = Places { ops: at(ops), command: at(command), barrier: at(barrier) };
    let words: Vec<u64> = (0..8).map(|i| at(words) + 8 * i).collect();
    let stream = Stream::new(&context).unwrap();
    pool.clear(&stream).unwrap();
    stream.synchronize().unwrap();
    let library = Library::load(&context, &IMAGE).unwrap();
    // SAFETY: the stand-in's ops write words of the pool.
    let mut machine =
        unsafe { Machine::with_library(&library, pool, &make(&words), places, options) }.unwrap();
    machine.tracing.library = Some(library);
    (machine, words)
}

fn op(kind: u32, flags: u32, address: u64, value: u64) -> abi::Op {
    let mut op = abi::Op { kind, flags, payload: [0; 31] };
    op.payload[..2].copy_from_slice(&[address, value]);
    op
}

fn read(machine: &Machine, words: &[u64]) -> Vec<u64> {
    let mut values = vec![0u64; words.len()];
    machine.pool().read(machine.copies(), words[0], &mut values).unwrap();
    values
}

fn command(first_op: u32, num_ops: u32, rounds: u32, skip: u32) -> abi::Command {
    abi::Command { first_op, num_ops, rounds, skip, ..abi::Command::default() }
}

fn four_adds(words: &[u64]) -> Vec<abi::Op> {
    let flags = [0, abi::FLAG_LOGITS, abi::FLAG_DRAFT, 0];
    (0..4).map(|i| op(ADD, flags[i], words[i], 1)).collect()
}

#[test]
fn both_modes_run_the_ops_of_a_command_without_those_it_skips() {
    with_driver(&driver(), || {
        for mode in MODES {
            let (mut machine, words) = machine(MachineOptions::new(mode), four_adds);
            machine.run(&command(0, 4, 1, 0)).unwrap();
            machine.run(&command(1, 3, 2, abi::FLAG_LOGITS)).unwrap();
            machine.run(&command(0, 4, 1, abi::FLAG_LOGITS | abi::FLAG_DRAFT)).unwrap();
            machine.run(&command(3, 1, 1, 0)).unwrap();
            assert_eq!(read(&machine, &words), [2, 1, 3, 5, 0, 0, 0, 0], "{mode}");
            for wrong in [command(0, 5, 1, 0), command(4, 1, 1, 0), command(0, 1, 0, 0)] {
                let error = machine.run(&wrong).unwrap_err();
                assert!(matches!(error, GpuError::Shape { .. }), "{error}");
            }
            // A command that is refused is no failure.
            machine.run(&command(0, 1, 1, 0)).unwrap();
        }
    });
}

#[test]
fn rounds_end_with_the_run_and_are_told_one_by_one() {
    with_driver(&driver(), || {
        for mode in MODES {
            let (mut machine, words) = machine(MachineOptions::new(mode), |words| {
                vec![op(ADD, 0, words[0], 1), op(0, abi::FLAG_DECIDES, 0, 0)]
            });
            let mut run = command(0, 2, 100, 0);
            run.num_runs = 1;
            run.run[0] = abi::Run { anchor: 40, remaining: 5, ..abi::Run::default() };
            machine.run(&run).unwrap();
            let tokens: Vec<u32> = machine.rounds().map(|round| round.tokens[0]).collect();
            assert_eq!(tokens, [41, 42, 43, 44, 45], "{mode}");
            assert_eq!(machine.rounds().last().unwrap().ended, 2);
            assert_eq!(read(&machine, &words)[0], 5);
            // The next command tells its own rounds only.
            run.rounds = 2;
            machine.run(&run).unwrap();
            assert_eq!(machine.rounds().count(), 2);
        }
    });
}

#[test]
fn a_resident_kernel_parks_and_is_started_again() {
    with_driver(&driver(), || {
        let options = MachineOptions { idle_ms: 3, ..MachineOptions::new(Mode::Persistent) };
        let (mut machine, words) = machine(options, four_adds);
        for i in 0..40u64 {
            machine.run(&command(0, 1, 1, 0)).unwrap();
            // Around the idle time: some commands meet a kernel that is just leaving.
            std::thread::sleep(Duration::from_micros(2000 + 60 * i));
        }
        assert_eq!(read(&machine, &words)[0], 40);
        machine.run(&command(0, 1, 1, 0)).unwrap();
        machine.park().unwrap();
        machine.park().unwrap();
        machine.run(&command(0, 1, 1, 0)).unwrap();
        assert_eq!(read(&machine, &words)[0], 42);
    });
}

#[test]
fn a_device_that_does_not_answer_is_given_up_within_a_second() {
    with_driver(&driver(), || {
        let (mut machine, _) =
            machine(MachineOptions::new(Mode::Persistent), |_| vec![op(HANG, 0, 0, 0)]);
        let started = Instant::now();
        let error = machine.run(&command(0, 1, 1, 0)).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        let GpuError::Machine { command: 1, reason, .. } = &error else { panic!("{error}") };
        assert!(reason.contains("no sign of life"), "{reason}");
        // It stays given up, at once.
        let started = Instant::now();
        assert_eq!(machine.run(&command(0, 1, 1, 0)).unwrap_err(), error);
        assert!(started.elapsed() < Duration::from_millis(100));
        drop(machine);
    });
}

#[test]
fn what_the_device_says_of_its_failure_is_told() {
    with_driver(&driver(), || {
        for mode in MODES {
            let (mut machine, _) =
                machine(MachineOptions::new(mode), |_| vec![op(GIVE_UP, 0, 0, 0)]);
            let error = machine.run(&command(0, 1, 1, 0)).unwrap_err();
            let GpuError::Machine { waiting, .. } = &error else { panic!("{mode}: {error}") };
            assert_eq!(waiting[..2], [7, 3], "{mode}");
            drop(machine);
            // The stand-in's failures stick to the stream, as a driver's do to the context.
            let _ = Stream::new(&Context::new(0).unwrap()).unwrap().synchronize();
        }
    });
}

#[test]
fn a_kernel_that_fails_is_an_error_and_not_an_answer() {
    with_driver(&driver(), || {
        for mode in MODES {
            let (mut machine, _) = machine(MachineOptions::new(mode), |_| vec![op(FAIL, 0, 0, 0)]);
            let error = machine.run(&command(0, 1, 1, 0)).unwrap_err();
            assert!(matches!(error, GpuError::Driver { code: 719, .. }), "{mode}: {error}");
            assert_eq!(machine.run(&command(0, 1, 1, 0)).unwrap_err(), error);
            drop(machine);
            let _ = Stream::new(&Context::new(0).unwrap()).unwrap().synchronize();
        }
    });
}

#[test]
fn a_trace_has_the_newest_ops_of_every_block_in_order() {
    with_driver(&driver(), || {
        let (mut machine, words) = machine(MachineOptions::new(Mode::Persistent), four_adds);
        machine.run(&command(0, 4, 1, 0)).unwrap();
        assert!(machine.end_trace().unwrap_err().to_string().contains("none is running"));
        machine.start_trace(6).unwrap();
        let error = machine.start_trace(6).unwrap_err();
        assert!(matches!(error, GpuError::Unsupported { what: "trace", .. }), "{error}");
        machine.run(&command(0, 4, 1, 0)).unwrap();
        // The kernel that comes after goes on counting.
        machine.park().unwrap();
        machine.run(&command(1, 3, 1, 0)).unwrap();
        let blocks = machine.end_trace().unwrap();
        assert_eq!(blocks.len(), 132);
        for (block, records) in blocks.iter().enumerate() {
            let told: Vec<_> = records.iter().map(|r| (r.number, r.op)).collect();
            assert_eq!(told, [(2, 1), (3, 2), (4, 3), (5, 1), (6, 2), (7, 3)]);
            assert!(records.iter().all(|r| r.sm as usize == block));
            assert_ne!(records[0].launch, records[5].launch);
        }
        // The usual kernel is back, and the work was done.
        machine.run(&command(0, 1, 1, 0)).unwrap();
        assert_eq!(read(&machine, &words)[..4], [3, 3, 3, 3]);
        for wrong in [0, super::trace::MOST_RECORDS + 1] {
            let error = machine.start_trace(wrong).unwrap_err();
            assert!(matches!(error, GpuError::Shape { op: "trace", .. }), "{error}");
        }
    });
}

#[test]
fn what_only_the_resident_kernel_can_do_is_refused_in_graph_mode() {
    with_driver(&driver(), || {
        let (mut machine, _) = machine(MachineOptions::new(Mode::Graph), four_adds);
        let error = machine.start_trace(6).unwrap_err();
        assert!(error.to_string().contains("use persistent mode"), "{error}");
        let debug = Debug { has_barriers: true, delay_seed: None };
        let error = debug.check(Mode::Graph).unwrap_err();
        assert!(error.to_string().contains("use persistent mode"), "{error}");
    });
}

#[test]
fn debugging_takes_the_traced_build_without_a_trace() {
    with_driver(&driver(), || {
        let debug = Debug { has_barriers: true, delay_seed: Some(7) };
        let options = MachineOptions { debug, ..MachineOptions::new(Mode::Persistent) };
        let (mut machine, words) = machine(options, four_adds);
        machine.run(&command(0, 4, 1, 0)).unwrap();
        assert_eq!(read(&machine, &words)[..4], [1, 1, 1, 1]);
        assert_eq!(machine.args.flags, abi::MACHINE_BARRIERS | abi::MACHINE_DELAYS);
    });
}
