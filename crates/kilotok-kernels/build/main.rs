//! Compiles every `cuda/kernels/*.cu` to one fatbin and writes the table that `lib.rs` includes.
//!
//! Environment: `KILOTOK_CUDA=0` (no kernels), `KILOTOK_FATBIN_DIR` (ready-made `<family>.fatbin` with
//! `<family>.archs`), `KILOTOK_NVCC`, `KILOTOK_ALLOW_NVCC=1`, `KILOTOK_CUDA_ARCHS`, `KILOTOK_KERNEL_CACHE`.

#![allow(clippy::print_stdout, reason = "cargo reads a build script's stdout")]

mod archs;
mod cache;
mod toolchain;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Numerics have to match the CPU: no fast math, and every warning is an error.
const FLAGS: [&str; 6] = [
    "--fatbin",
    "-std=c++20",
    "-O3",
    "--compress-mode=size",
    "-Werror=all-warnings",
    "--expt-relaxed-constexpr",
];

/// The line in a `.cu` file whose kernel is bound by its registers: what it spills is a matter of record
/// (the catalogue in cuda/README.md), not an error.
const TIGHT_MARK: &str = "// kilotok: tight registers";
const SPILL_WARNINGS: &str = "-Xptxas=-warn-spills,-warn-lmem-usage";

/// Not `PATH` and `PYO3_PYTHON`: they only help to find nvcc, and they change with every virtual environment.
const VARIABLES: [&str; 8] = [
    "KILOTOK_CUDA",
    "KILOTOK_FATBIN_DIR",
    "KILOTOK_NVCC",
    "KILOTOK_ALLOW_NVCC",
    "KILOTOK_CUDA_ARCHS",
    "KILOTOK_KERNEL_CACHE",
    "CUDA_HOME",
    "CUDA_PATH",
];

/// One compiled kernel family.
struct Built {
    family: String,
    archs: Vec<String>,
}

/// What the table says about how it came to be.
struct Origin {
    compiler: String,
    flags: String,
    hash: String,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines() {
                println!("cargo:error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    for name in VARIABLES {
        println!("cargo:rerun-if-env-changed={name}");
    }
    for file in ["main.rs", "archs.rs", "cache.rs", "toolchain.rs"] {
        println!("cargo:rerun-if-changed=build/{file}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let manifest = env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?;
    let cuda = Path::new(&manifest).join("../../cuda");
    // The whole folders: a dependency file would add the toolkit's headers, which lie in a temporary folder when pip
    // brings nvcc, and so would rebuild everything at every install.
    println!("cargo:rerun-if-changed={}", cuda.join("kernels").display());
    println!("cargo:rerun-if-changed={}", cuda.join("include").display());

    if env::var("KILOTOK_CUDA").is_ok_and(|value| value == "0") {
        println!("cargo:warning=KILOTOK_CUDA=0: building without GPU kernels");
        return write_table(&out, &[], None);
    }
    let sources = files_below(&cuda.join("kernels"), "cu")?;
    if sources.is_empty() {
        return Err(format!("no kernels in {}", cuda.join("kernels").display()));
    }
    if let Some(dir) = env::var_os("KILOTOK_FATBIN_DIR") {
        let (built, origin) = take_prebuilt(Path::new(&dir), &sources, &out)?;
        return write_table(&out, &built, Some(&origin));
    }
    let nvcc = toolchain::find()?;
    let include = cuda.join("include");
    let mut headers = Vec::new();
    for header in files_below(&include, "")? {
        headers.push((header.clone(), read(&header)?));
    }
    let mut built = Vec::new();
    let mut hashes = Vec::new();
    for source in &sources {
        let (image, hash) = compile(&nvcc, source, &include, &headers, &out)?;
        built.push(image);
        hashes.push(hash);
    }
    let origin = Origin {
        compiler: format!("nvcc {}", nvcc.version),
        flags: format!("{} {SPILL_WARNINGS}", FLAGS.join(" ")),
        hash: cache::digest(hashes.iter().map(String::as_bytes)),
    };
    write_table(&out, &built, Some(&origin))
}

fn compile(
    nvcc: &toolchain::Nvcc,
    source: &Path,
    include: &Path,
    headers: &[(PathBuf, Vec<u8>)],
    out: &Path,
) -> Result<(Built, String), String> {
    let family = stem(source)?;
    let text = read(source)?;
    let chosen = env::var("KILOTOK_CUDA_ARCHS").ok();
    let archs = archs::targets(&String::from_utf8_lossy(&text), chosen.as_deref())?;
    let gencodes: Vec<String> = archs.iter().map(|arch| archs::gencode(arch)).collect();

    // Every header counts for every kernel: coarser than a preprocessed source, and never stale.
    let mut parts: Vec<&[u8]> = vec![nvcc.version.as_bytes(), family.as_bytes(), &text];
    parts.extend(FLAGS.iter().map(|flag| flag.as_bytes()));
    parts.extend(gencodes.iter().map(String::as_bytes));
    let names: Vec<String> = headers
        .iter()
        .map(|(path, _)| path.strip_prefix(include).unwrap_or(path).display().to_string())
        .collect();
    for (name, (_, bytes)) in names.iter().zip(headers) {
        parts.extend([name.as_bytes(), bytes.as_slice()]);
    }
    let hash = cache::digest(parts);

    let file = out.join(format!("{family}.fatbin"));
    let cached = cache::directory().map(|dir| dir.join(format!("{hash}.fatbin")));
    if let Some(cached) = cached.as_deref().filter(|path| path.is_file()) {
        cache::publish(cached, &file).map_err(|e| format!("{}: {e}", cached.display()))?;
    } else {
        let is_tight = text.split(|b| *b == b'\n').any(|line| line == TIGHT_MARK.as_bytes());
        let extra = if is_tight { &[][..] } else { &[SPILL_WARNINGS][..] };
        run_nvcc(nvcc, source, include, (&gencodes, extra), &file)?;
        if let Some(cached) = cached {
            if let Err(error) = cache::publish(&file, &cached) {
                println!("cargo:warning=kernel cache {}: {error}", cached.display());
            }
        }
    }
    fs::write(out.join(format!("{family}.archs")), archs.join(" "))
        .map_err(|e| format!("{family}.archs: {e}"))?;
    Ok((Built { family, archs }, hash))
}

fn run_nvcc(
    nvcc: &toolchain::Nvcc,
    source: &Path,
    include: &Path,
    (gencodes, extra): (&[String], &[&str]),
    file: &Path,
) -> Result<(), String> {
    let output = Command::new(&nvcc.path)
        .args(FLAGS)
        .args(gencodes)
        .args(extra)
        .args(["--threads", "2"])
        .arg("-I")
        .arg(include)
        .arg("-o")
        .arg(file)
        .arg(source)
        .output()
        .map_err(|e| format!("{} does not start: {e}", nvcc.path.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let heard = String::from_utf8_lossy(&output.stdout);
        return Err(format!("nvcc failed on {}\n{heard}{said}", source.display()));
    }
    Ok(())
}

fn take_prebuilt(
    dir: &Path,
    sources: &[PathBuf],
    out: &Path,
) -> Result<(Vec<Built>, Origin), String> {
    let mut built = Vec::new();
    let mut contents = Vec::new();
    for source in sources {
        let family = stem(source)?;
        let image = dir.join(format!("{family}.fatbin"));
        let archs = dir.join(format!("{family}.archs"));
        contents.push(read(&image)?);
        let list = String::from_utf8_lossy(&read(&archs)?).into_owned();
        let file = out.join(format!("{family}.fatbin"));
        cache::publish(&image, &file).map_err(|e| format!("{}: {e}", image.display()))?;
        println!("cargo:rerun-if-changed={}", image.display());
        println!("cargo:rerun-if-changed={}", archs.display());
        built.push(Built { family, archs: list.split_whitespace().map(str::to_owned).collect() });
    }
    let hash = cache::digest(contents.iter().map(Vec::as_slice));
    let origin = Origin { compiler: "prebuilt images".into(), flags: String::new(), hash };
    Ok((built, origin))
}

/// Writes `table.rs`: the statics and the build information.
fn write_table(out: &Path, built: &[Built], origin: Option<&Origin>) -> Result<(), String> {
    let mut statics = Vec::new();
    let mut entries = Vec::new();
    for (i, Built { family, archs }) in built.iter().enumerate() {
        let file = out.join(format!("{family}.fatbin"));
        let len = fs::metadata(&file).map_err(|e| format!("{}: {e}", file.display()))?.len();
        statics.push(format!(
            "#[allow(clippy::unreadable_literal, reason = \"generated\")]\nstatic IMAGE_{i}: Aligned<{len}> =\n    \
             Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{family}.fatbin\")));\n"
        ));
        entries.push(format!(
            "    Image {{ family: {family:?}, archs: &{archs:?}, bytes: &IMAGE_{i}.0 }},\n"
        ));
    }
    let info = origin.map_or("None".to_owned(), |Origin { compiler, flags, hash }| {
        format!(
            "Some(Toolchain {{ compiler: {compiler:?}, flags: {flags:?}, source_hash: {hash:?} }})"
        )
    });
    let text = format!(
        "{}static IMAGES: &[Image] = &[\n{}];\nstatic TOOLCHAIN: Option<Toolchain> = {info};\n",
        statics.concat(),
        entries.concat()
    );
    fs::write(out.join("table.rs"), text).map_err(|e| format!("table.rs: {e}"))
}

/// Files below `dir` with extension `ext` (all files when empty), sorted.
fn files_below(dir: &Path, ext: &str) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        let entries = fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        for entry in entries {
            let path = entry.map_err(|e| format!("{}: {e}", dir.display()))?.path();
            if path.is_dir() {
                pending.push(path);
            } else if ext.is_empty() || path.extension().is_some_and(|found| found == ext) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn stem(path: &Path) -> Result<String, String> {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    stem.map(str::to_owned).ok_or_else(|| format!("{}: name is not UTF-8", path.display()))
}
