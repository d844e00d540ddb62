//! The demo checkpoint that the program carries.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

mod files {
    include!(concat!(env!("OUT_DIR"), "/demo.rs"));
}

/// The demo checkpoint as a directory, unpacked into the user's cache at first use.
///
/// # Errors
/// Where the program was built without it, or it cannot be written.
pub(crate) fn unpack() -> super::Outcome<PathBuf> {
    if files::FILES.is_empty() {
        return Err("this build carries no demo checkpoint; name a model directory".into());
    }
    // Named by its content, so that another build's checkpoint is never taken for this one's.
    let name = format!("demo-{:016x}", fingerprint());
    let cache = cache_dir().join(&name);
    let place = if usable(&cache) {
        cache
    } else {
        env::temp_dir().join(format!("kilotok-{name}-{}", user()))
    };
    write_missing(&place).map_err(|error| {
        format!("the demo checkpoint cannot be written to {}: {error}", place.display())
    })?;
    Ok(place)
}

fn usable(dir: &Path) -> bool {
    fs::create_dir_all(dir).is_ok()
}

fn user() -> String {
    env::var("USER").unwrap_or_else(|_| process::id().to_string())
}

fn cache_dir() -> PathBuf {
    let named = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
    cache.unwrap_or_else(env::temp_dir).join("kilotok")
}

/// FNV-1a over names, sizes and contents.
fn fingerprint() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for chunk in bytes.chunks(8) {
            let word = chunk.iter().fold(0_u64, |word, &byte| (word << 8) | u64::from(byte));
            hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for (name, bytes) in files::FILES {
        add(name.as_bytes());
        add(&bytes.len().to_le_bytes());
        add(bytes);
    }
    hash
}

/// Each file appears whole or not at all: two programs may unpack at the same time.
fn write_missing(dir: &Path) -> io::Result<()> {
    for (name, bytes) in files::FILES {
        let path = dir.join(name);
        let present = fs::metadata(&path).is_ok_and(|found| found.len() == bytes.len() as u64);
        if present {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let part = path.with_extension(format!("part-{}", process::id()));
        let mut file = fs::File::create(&part)?;
        file.write_all(bytes)?;
        drop(file);
        fs::rename(&part, &path)?;
    }
    Ok(())
}
