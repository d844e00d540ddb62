//! The probe against drivers that do not exist, or are broken, old or empty: small C libraries made by g++.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DriverVersion, Found, Probe, look};
use crate::error::GpuError;

/// Every function that `driver.rs` looks for; each answers "not supported" unless replaced.
const FUNCTIONS: &str = include_str!("driver.rs");

fn symbols() -> Vec<&'static str> {
    FUNCTIONS
        .split("b\"")
        .filter_map(|part| part.split_once("\\0\" (").map(|(name, _)| name))
        .filter(|name| name.starts_with("cu"))
        .collect()
}

/// Compiles a stand-in driver: `special` defines some functions, all others return 801.
fn stand_in(name: &str, special: &str, absent: &[&str]) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("kilotok-probe-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let source = dir.join(format!("{name}.c"));
    let library = dir.join(format!("lib{name}.so"));
    let plain = symbols()
        .into_iter()
        .filter(|symbol| !special.contains(&format!(" {symbol}(")) && !absent.contains(symbol));
    let rest: Vec<String> =
        plain.map(|symbol| format!("int {symbol}(void) {{ return 801; }}\n")).collect();
    let text = format!("#include <string.h>\n{special}{}", rest.concat());
    std::fs::write(&source, text).unwrap();
    let output = Command::new("gcc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .output()
        .expect("gcc is needed for this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

fn probe_of(library: &Path) -> Probe {
    let Found { driver, probe } = look(library.as_os_str());
    // A stand-in may be unloaded, but a driver must not be: keep to the driver's rule.
    if let Some(driver) = driver {
        Box::leak(Box::new(driver));
    }
    probe
}

const WORKING: &str = "
int cuInit(unsigned flags) { return flags == 0 ? 0 : 1; }
int cuDriverGetVersion(int *v) { *v = 13020; return 0; }
int cuDeviceGetCount(int *n) { *n = 2; return 0; }
int cuDeviceGet(int *d, int i) { *d = 70 + i; return i < 2 ? 0 : 101; }
int cuDeviceGetName(char *s, int n, int d) { if (n < 16) return 1; strcpy(s, d == 70 ? \"first\" : \"second\"); return 0; }
int cuDeviceTotalMem_v2(unsigned long *b, int d) { *b = 80ul << 30; return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) {
  switch (a) {
    case 16: *v = 132; return 0;
    case 38: *v = 50 << 20; return 0;
    case 75: *v = 9; return 0;
    case 76: *v = d == 70 ? 0 : 1; return 0;
    case 95: *v = 1; return 0;
    case 97: *v = 232448; return 0;
    default: return 1;
  }
}
";

#[test]
fn an_absent_library_is_no_driver_and_names_the_file() {
    let probe = probe_of(Path::new("libkilotok_no_such_driver.so.1"));
    let Probe::NoDriver { detail } = &probe else { panic!("{probe:?}") };
    assert!(detail.contains("libkilotok_no_such_driver.so.1"), "{detail}");
    assert!(matches!(probe.devices(), Err(GpuError::NoDriver { .. })));
}

#[test]
fn a_working_driver_is_described_device_by_device() {
    let probe = probe_of(&stand_in("working", WORKING, &[]));
    let Probe::Ready { driver, devices } = probe else { panic!("{probe:?}") };
    assert_eq!(driver, DriverVersion { major: 13, minor: 2 });
    let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    let second = &devices[1];
    assert_eq!((second.index, second.capability, second.num_sms), (1, (9, 1), 132));
    assert_eq!((second.memory_bytes, second.l2_bytes), (80 << 30, 50 << 20));
    assert!(second.has_cooperative_launch);
    assert_eq!(second.shared_bytes_per_block, 232_448);
}

#[test]
fn an_old_driver_is_too_old_and_says_both_versions() {
    let old = WORKING.replace("13020", "12080");
    // Old drivers also lack functions that this build uses.
    let probe = probe_of(&stand_in("old", &old, &["cuLibraryLoadData", "cuEventElapsedTime_v2"]));
    let error = probe.devices().unwrap_err();
    let have = DriverVersion { major: 12, minor: 8 };
    let need = DriverVersion { major: 13, minor: 0 };
    assert_eq!(error, GpuError::DriverTooOld { have, need });
    assert!(error.to_string().contains("12.8"), "{error}");
}

#[test]
fn no_visible_gpu_is_no_device_whichever_way_the_driver_says_it() {
    let none_at_init = WORKING.replace("return flags == 0 ? 0 : 1;", "return 100;");
    assert_eq!(probe_of(&stand_in("none_at_init", &none_at_init, &[])), Probe::NoDevice);
    let none_counted = WORKING.replace("*n = 2", "*n = 0");
    assert_eq!(probe_of(&stand_in("none_counted", &none_counted, &[])), Probe::NoDevice);
}

#[test]
fn a_driver_that_does_not_start_is_no_driver_with_its_own_words() {
    let broken = WORKING.replace("return flags == 0 ? 0 : 1;", "return 803;")
        + "int cuGetErrorName(int e, const char **s) { *s = \"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH\"; return 0; }\n";
    let probe = probe_of(&stand_in("broken", &broken, &[]));
    let Probe::NoDriver { detail } = probe else { panic!("{probe:?}") };
    for part in ["cuInit", "803", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"] {
        assert!(detail.contains(part), "{detail}");
    }
}

#[test]
fn a_stub_library_is_no_driver() {
    let stub = WORKING.replace("*v = 13020; return 0;", "return 34;");
    let probe = probe_of(&stand_in("stub", &stub, &[]));
    let Probe::NoDriver { detail } = probe else { panic!("{probe:?}") };
    assert!(detail.contains("34"), "{detail}");
}

#[test]
fn a_library_without_a_needed_function_is_no_driver_and_names_it() {
    let probe = probe_of(&stand_in("partial", WORKING, &["cuLaunchKernelEx"]));
    let Probe::NoDriver { detail } = probe else { panic!("{probe:?}") };
    assert!(detail.contains("cuLaunchKernelEx"), "{detail}");
}

#[test]
fn a_device_that_cannot_be_described_is_no_driver_and_names_the_call() {
    let mute = WORKING.replace("case 16: *v = 132; return 0;", "case 16: return 999;");
    let probe = probe_of(&stand_in("mute", &mute, &[]));
    let Probe::NoDriver { detail } = probe else { panic!("{probe:?}") };
    assert!(detail.contains("cuDeviceGetAttribute") && detail.contains("999"), "{detail}");
}
