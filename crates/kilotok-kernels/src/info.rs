//! What the build knows about the embedded images.

use std::fmt;

use crate::Image;

/// The compiler run behind the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Toolchain {
    /// For example `nvcc 13.0.88`.
    pub compiler: &'static str,
    /// Flags without the list of targets.
    pub flags: &'static str,
    /// SHA-256 over sources, headers, flags, targets and compiler version.
    pub source_hash: &'static str,
}

/// How the images of this build were made. `Display` gives lines fit for a terminal.
#[derive(Debug, Clone, Copy)]
pub struct BuildInfo {
    /// `None` when built with `KILOTOK_CUDA=0`.
    pub toolchain: Option<&'static Toolchain>,
    /// The same as [`crate::images`].
    pub images: &'static [Image],
}

impl fmt::Display for BuildInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Toolchain { compiler, source_hash, .. }) = self.toolchain else {
            return f.write_str("built without kernels (KILOTOK_CUDA=0)");
        };
        write!(f, "{compiler}, source {}", source_hash.get(..12).unwrap_or(source_hash))?;
        for Image { family, archs, bytes } in self.images {
            write!(f, "\n  {family}: {} bytes for {}", bytes.len(), archs.join(" "))?;
        }
        Ok(())
    }
}
