//! Memory maps of weight files.

#![allow(unsafe_code, reason = "mapping a file is unsafe by definition")]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps the file at `path` read-only.
///
/// # Errors
/// [`Error::Io`] where it cannot be opened or mapped.
pub(super) fn map(path: &Path) -> Result<Arc<Mmap>> {
    let io = |error: std::io::Error| Error::Io { path: path.to_owned(), reason: error.to_string() };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the map is read-only and owned by the returned `Arc`, which every `Bytes` view of
    // it clones. The operator keeps the file itself unchanged while it is in use, as with every
    // mapped checkpoint: cutting it short would fault on access, which no reader can prevent.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    Ok(Arc::new(map))
}

/// Asks the operating system to read `range` of the map ahead; failing to is harmless.
pub(super) fn read_ahead(map: &Mmap, range: std::ops::Range<usize>) {
    #[cfg(unix)]
    let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
    #[cfg(not(unix))]
    let _ = (map, range);
}
