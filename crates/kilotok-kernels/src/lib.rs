//! The GPU code of kilotok, compiled at build time and embedded, and the structs it shares with the host.
//!
//! This crate knows no CUDA library and contains no unsafe code: it hands out bytes. `kilotok-gpu` loads them.
//!
//! ```
//! for image in kilotok_kernels::images() {
//!     println!("{}: {} bytes for {:?}", image.family, image.bytes.len(), image.archs);
//! }
//! println!("{}", kilotok_kernels::build_info());
//! ```

pub mod abi;
mod info;
mod target;

pub use info::{BuildInfo, Toolchain};
pub use target::Coverage;

/// One fatbin: a kernel family compiled for several GPU targets.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    /// The name of the source file in `cuda/kernels`, without extension.
    pub family: &'static str,
    /// Targets inside, for example `["sm_90a", "sm_100f", "compute_90"]`.
    pub archs: &'static [&'static str],
    /// The fatbin, aligned to 64 bytes.
    pub bytes: &'static [u8],
}

/// The driver wants images aligned; `include_bytes!` alone promises nothing.
#[allow(dead_code, reason = "a build without kernels has nothing to align")]
#[repr(C, align(64))]
struct Aligned<const N: usize>([u8; N]);

mod table {
    #[allow(unused_imports, reason = "a build without kernels has nothing to align")]
    use super::{Aligned, Image, Toolchain};
    include!(concat!(env!("OUT_DIR"), "/table.rs"));

    pub(super) const fn images() -> &'static [Image] {
        IMAGES
    }

    pub(super) const fn toolchain() -> Option<&'static Toolchain> {
        TOOLCHAIN.as_ref()
    }
}

/// All embedded images, sorted by family; empty when built with `KILOTOK_CUDA=0`.
pub const fn images() -> &'static [Image] {
    table::images()
}

/// The image of one kernel family.
pub fn image(family: &str) -> Option<&'static Image> {
    images().iter().find(|image| image.family == family)
}

/// How the embedded images were made.
pub const fn build_info() -> BuildInfo {
    BuildInfo { toolchain: table::toolchain(), images: images() }
}
