//! The public entry points on whatever machine runs the tests: a GPU works exactly, or there is a typed error.

use kilotok_gpu::{Context, GpuError, Probe, probe, report, run_probe};

#[test]
fn every_entry_point_answers_with_a_result_and_never_panics() {
    let answers = std::panic::catch_unwind(|| (probe(), report().to_string(), run_probe(0)));
    let (probe, text, run) = answers.expect("no panic leaves the crate");
    assert!(text.starts_with("driver: "), "{text}");
    let has_kernels = kilotok_kernels::build_info().toolchain.is_some();
    match probe {
        Probe::Ready { devices, .. } if has_kernels => {
            let report = run.expect("the probe kernel runs on a GPU that the driver offers");
            assert_eq!(report.device, devices[0]);
            assert!(report.kernel_us > 0.0 && report.gbytes_per_s > 0.0, "{report:?}");
        }
        Probe::Ready { .. } => assert!(matches!(run, Err(GpuError::NoImage { .. })), "{run:?}"),
        other => assert_eq!(run.unwrap_err(), other.devices().unwrap_err()),
    }
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let error = Context::new(usize::MAX).unwrap_err();
    match probe() {
        Probe::Ready { devices, .. } => {
            assert_eq!(error, GpuError::DeviceIndex { index: usize::MAX, count: devices.len() });
        }
        other => assert_eq!(error, other.devices().unwrap_err()),
    }
}

#[test]
fn asking_twice_gives_the_same_answer() {
    assert!(std::ptr::eq(probe(), probe()));
}
