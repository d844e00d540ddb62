//! Compiled images by the hash of everything that goes into them.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Hashes `parts` in order; each part is preceded by its length, so that no two lists look alike.
pub(crate) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `KILOTOK_KERNEL_CACHE`, else the user's cache folder; `None` where neither is known.
pub(crate) fn directory() -> Option<PathBuf> {
    if let Some(dir) = env::var_os("KILOTOK_KERNEL_CACHE") {
        return Some(PathBuf::from(dir));
    }
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))?;
    Some(base.join("kilotok/fatbin"))
}

/// Copies `from` to `to` by way of a neighbour that is renamed, so that a reader never sees half a file.
///
/// # Errors
/// Those of the file system.
pub(crate) fn publish(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    let partial = to.with_extension(format!("partial-{}", std::process::id()));
    fs::copy(from, &partial)?;
    fs::rename(&partial, to)
}
