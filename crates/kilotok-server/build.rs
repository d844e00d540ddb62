//! Lists the files of the demo checkpoint, so that the binary can carry them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

const DEMO: &str = "../../python/kilotok/demo/checkpoint";

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    let mut source = String::from("pub(super) static FILES: &[(&str, &[u8])] = &[\n");
    if env::var_os("CARGO_FEATURE_DEMO").is_some() {
        println!("cargo:rerun-if-changed={DEMO}");
        let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join(DEMO);
        let mut files = Vec::new();
        if root.is_dir() {
            collect(&root, Path::new(""), &mut files)?;
        }
        files.sort();
        for file in files {
            let path = root.join(&file);
            let (name, path) = (file.to_string_lossy(), path.to_string_lossy());
            // Formatting into a string cannot fail.
            let _ = writeln!(source, "({name:?}, include_bytes!({path:?})),");
        }
    }
    source.push_str("];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("demo.rs");
    fs::write(out, source)
}

/// Paths below `root`, which are the names they are unpacked under.
fn collect(root: &Path, below: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(root, &path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
