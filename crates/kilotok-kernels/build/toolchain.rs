//! Finds nvcc and checks its version.
//!
//! Only the 13.0 line is accepted: its code runs on every driver from 580 on, while PTX of a newer compiler cannot be
//! translated there.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The PyPI requirement that brings a matching nvcc; its parts are pinned to each other.
pub(crate) const REQUIREMENT: &str = "cuda-toolkit[nvcc,cccl]==13.0.*";

/// A compiler that may be used.
#[derive(Debug)]
pub(crate) struct Nvcc {
    /// The executable.
    pub(crate) path: PathBuf,
    /// For example `13.0.88`.
    pub(crate) version: String,
}

/// Looks for nvcc in `KILOTOK_NVCC`, `CUDA_HOME`, `CUDA_PATH`, `PATH`, `/usr/local/cuda` and the Python environment.
///
/// # Errors
/// A text for the person who builds: what was looked for, what was found, what to do.
pub(crate) fn find() -> Result<Nvcc, String> {
    if let Some(path) = env::var_os("KILOTOK_NVCC").map(PathBuf::from) {
        if !path.is_file() {
            return Err(format!("KILOTOK_NVCC names {}, which is no file", path.display()));
        }
        return check(path);
    }
    let found = candidates().into_iter().find(|path| path.is_file()).or_else(from_python);
    let Some(path) = found else {
        return Err(format!(
            "no nvcc found (KILOTOK_NVCC, CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda, Python package \
             nvidia.cu13).\nEither: python3 -m pip install \"{REQUIREMENT}\" (needs g++ too)\nor, for a build \
             without GPU kernels: set KILOTOK_CUDA=0"
        ));
    };
    check(path)
}

fn candidates() -> Vec<PathBuf> {
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let search = env::var_os("PATH").unwrap_or_default();
    let mut paths: Vec<PathBuf> = homes.map(|home| Path::new(&home).join("bin/nvcc")).collect();
    paths.extend(env::split_paths(&search).map(|dir| dir.join("nvcc")));
    paths.push(PathBuf::from("/usr/local/cuda/bin/nvcc"));
    paths
}

/// The nvcc wheel installs to `site-packages/nvidia/cu13`. maturin names the building interpreter in `PYO3_PYTHON`;
/// under pip's build isolation that one sees the isolated environment.
fn from_python() -> Option<PathBuf> {
    let pythons = [env::var_os("PYO3_PYTHON"), Some(OsString::from("python3"))];
    pythons.into_iter().flatten().find_map(|python| {
        let output = Command::new(python)
            .args(["-c", "import nvidia.cu13 as m; print(list(m.__path__)[0])"])
            .output()
            .ok()?;
        let root = String::from_utf8(output.stdout).ok()?;
        let path = Path::new(root.trim()).join("bin/nvcc");
        (output.status.success() && path.is_file()).then_some(path)
    })
}

fn check(path: PathBuf) -> Result<Nvcc, String> {
    let output = Command::new(&path)
        .arg("--version")
        .output()
        .map_err(|error| format!("{} does not start: {error}", path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(version) = parse_version(&text) else {
        return Err(format!("{} --version says nothing understood:\n{text}", path.display()));
    };
    let is_allowed = env::var("KILOTOK_ALLOW_NVCC").is_ok_and(|value| value == "1");
    if !is_allowed && !is_supported(&version) {
        return Err(format!(
            "{} is version {version}; expected 13.0.*\nEither: python3 -m pip install \"{REQUIREMENT}\" and set \
             KILOTOK_NVCC to its nvcc\nor: set KILOTOK_ALLOW_NVCC=1 to use this one at your own risk",
            path.display()
        ));
    }
    Ok(Nvcc { path, version })
}

/// The `V13.0.88` in the output of `nvcc --version`, without the letter.
pub(crate) fn parse_version(text: &str) -> Option<String> {
    text.split_whitespace()
        .filter_map(|word| word.strip_prefix('V'))
        .find(|word| word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
        .map(str::to_owned)
}

/// At least 13.0 and below 13.1.
pub(crate) fn is_supported(version: &str) -> bool {
    let mut parts = version.split('.');
    parts.next() == Some("13") && parts.next() == Some("0")
}
