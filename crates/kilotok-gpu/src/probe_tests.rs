//! The probe against drivers that do not exist, or are broken, old, empty or doubled.

use std::ffi::OsStr;

use super::{DriverVersion, Probe, look, probe};
use crate::error::GpuError;
use crate::stand_in::{WORKING, source, with_driver, with_libraries};

/// The sentence of a driver that cannot be used. Nothing else may panic then either.
fn detail() -> &'static str {
    let Probe::NoDriver { detail } = probe() else { panic!("{:?}", probe()) };
    assert!(crate::report().to_string().contains(detail));
    assert_eq!(crate::run_probe(0).unwrap_err(), probe().devices().unwrap_err());
    detail
}

#[test]
fn an_absent_library_is_no_driver_and_names_the_file() {
    let probe = look(OsStr::new("libkilotok_no_such_driver.so.1")).probe;
    let Probe::NoDriver { detail } = &probe else { panic!("{probe:?}") };
    assert!(detail.contains("libkilotok_no_such_driver.so.1"), "{detail}");
    assert!(matches!(probe.devices(), Err(GpuError::NoDriver { .. })));
}

#[test]
fn a_working_driver_is_described_device_by_device() {
    with_driver(&source(WORKING, &[]), || {
        let Probe::Ready { driver, devices } = probe() else { panic!("{:?}", probe()) };
        assert_eq!(*driver, DriverVersion { major: 13, minor: 2 });
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        assert_eq!(names, ["first", "second"]);
        let second = &devices[1];
        assert_eq!((second.index, second.capability, second.num_sms), (1, (9, 1), 132));
        assert_eq!((second.memory_bytes, second.l2_bytes), (80 << 30, 50 << 20));
        assert!(second.has_cooperative_launch);
        assert_eq!(second.shared_bytes_per_block, 232_448);
    });
}

#[test]
fn an_old_driver_is_too_old_and_says_both_versions() {
    let old = WORKING.replace("13020", "12080");
    // Old drivers also lack functions that this build uses.
    with_driver(&source(&old, &["cuLibraryLoadData", "cuEventElapsedTime_v2"]), || {
        let error = probe().devices().unwrap_err();
        let have = DriverVersion { major: 12, minor: 8 };
        let need = DriverVersion { major: 13, minor: 0 };
        assert_eq!(error, GpuError::DriverTooOld { have, need });
        assert!(error.to_string().contains("12.8"), "{error}");
    });
}

#[test]
fn no_visible_gpu_at_the_start_is_no_device() {
    let none = WORKING.replace("return flags == 0 ? 0 : 1;", "return 100;");
    with_driver(&source(&none, &[]), || assert_eq!(probe(), &Probe::NoDevice));
}

#[test]
fn a_count_of_no_gpus_is_no_device() {
    let none = WORKING.replace("*n = 2", "*n = 0");
    with_driver(&source(&none, &[]), || assert_eq!(probe(), &Probe::NoDevice));
}

#[test]
fn a_driver_that_does_not_start_is_no_driver_with_its_own_words() {
    let broken = WORKING.replace("return flags == 0 ? 0 : 1;", "return 803;")
        + "int cuGetErrorName(int e, const char **s) { *s = \"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH\"; return 0; }\n";
    with_driver(&source(&broken, &[]), || {
        for part in ["cuInit", "803", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"] {
            assert!(detail().contains(part), "{}", detail());
        }
    });
}

#[test]
fn a_stub_library_is_no_driver() {
    let stub = WORKING.replace("*v = 13020; return 0;", "return 34;");
    with_driver(&source(&stub, &[]), || assert!(detail().contains("34"), "{}", detail()));
}

#[test]
fn a_library_without_a_needed_function_is_no_driver_and_names_it() {
    with_driver(&source(WORKING, &["cuLaunchKernelEx"]), || {
        assert!(detail().contains("cuLaunchKernelEx"), "{}", detail());
    });
}

#[test]
fn a_second_library_that_the_binding_would_open_is_no_driver() {
    let working = source(WORKING, &[]);
    let stub = source("int cuInit(unsigned flags) { return 34; }\n", &[]);
    with_libraries(&[("libcuda.so.1", &working), ("libcuda.so", &stub)], || {
        assert!(detail().contains("different libraries"), "{}", detail());
    });
}

#[test]
fn a_second_library_without_a_needed_function_is_no_driver_and_names_it() {
    let working = source(WORKING, &[]);
    let partial = source(WORKING, &["cuCtxGetCurrent"]);
    with_libraries(&[("libcuda.so.1", &working), ("libcuda.so", &partial)], || {
        assert!(detail().contains("cuCtxGetCurrent"), "{}", detail());
    });
}

#[test]
fn a_device_that_cannot_be_described_is_no_driver_and_names_the_call() {
    let mute = WORKING.replace("case 16: *v = 132; return 0;", "case 16: return 999;");
    with_driver(&source(&mute, &[]), || {
        assert!(detail().contains("cuDeviceGetAttribute") && detail().contains("999"));
    });
}
