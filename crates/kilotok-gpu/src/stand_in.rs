//! Stand-in drivers for tests: small C libraries, each met by a process of its own.
//!
//! A process opens one driver and keeps it, so every test that needs a driver runs itself once more as a child whose
//! loader finds the stand-in as `libcuda.so.1`, ahead of any real one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::driver::FUNCTIONS;

/// Set in the child.
const IS_CHILD: &str = "KILOTOK_STAND_IN_CHILD";

/// A driver of CUDA 13.2 with two devices, `first` and `second`.
pub(crate) const WORKING: &str = "
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
    case 115: *v = 1; return 0;
    default: return 1;
  }
}
";

/// The source of a driver that has `special` and answers 801 ("not supported") to all other functions but `absent`.
pub(crate) fn source(special: &str, absent: &[&str]) -> String {
    let mut text = format!("#include <stdlib.h>\n#include <string.h>\n{special}");
    for name in FUNCTIONS {
        if !special.contains(&format!(" {name}(")) && !absent.contains(name) {
            text.extend(["int ", name, "(void) { return 801; }\n"]);
        }
    }
    text
}

/// Runs `check` where the driver is the one compiled from `source`.
pub(crate) fn with_driver<F: FnOnce()>(source: &str, check: F) {
    with_libraries(&[("libcuda.so.1", source), ("libcuda.so", source)], check);
}

/// Runs `check` where the loader finds `libraries`, (file name, source), first. Equal sources make one library.
pub(crate) fn with_libraries<F: FnOnce()>(libraries: &[(&str, &str)], check: F) {
    if std::env::var_os(IS_CHILD).is_some() {
        return check();
    }
    // A closure's type is named after the function it is written in: the path of the test.
    let closure = std::any::type_name::<F>();
    let test = closure.strip_suffix("::{{closure}}").unwrap_or(closure);
    let test = test.split_once("::").map_or(test, |(_crate, path)| path);
    let dir = std::env::temp_dir().join(format!(
        "kilotok-stand-in-{}-{}",
        std::process::id(),
        test.replace(':', "_")
    ));
    std::fs::create_dir_all(&dir).unwrap();
    for (i, (name, source)) in libraries.iter().enumerate() {
        match libraries[..i].iter().find(|(_, other)| other == source) {
            Some((other, _)) => std::os::unix::fs::symlink(other, dir.join(name)).unwrap(),
            None => compile(source, &dir.join(name)),
        }
    }

    let mut path = dir.clone().into_os_string();
    if let Some(rest) = std::env::var_os("LD_LIBRARY_PATH") {
        path.push(":");
        path.push(rest);
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(IS_CHILD, "1")
        .env("LD_LIBRARY_PATH", path)
        .output()
        .unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    let complained = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}{complained}");
    assert!(said.contains("test result: ok. 1 passed"), "no test is called {test}: {said}");
}

fn compile(source: &str, library: &Path) {
    let file: PathBuf = library.with_extension("c");
    std::fs::write(&file, source).unwrap();
    let output = Command::new("gcc")
        .args(["-shared", "-fPIC", "-o"])
        .args([library, &file])
        .output()
        .expect("gcc is needed for this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
