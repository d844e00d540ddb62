//! Mirrors of the structs that host and device share: here those of `cuda/include/kilotok/abi.h`, in [`program`]
//! those of `program.h`.
//!
//! Sizes are asserted here; `tests/abi.rs` compiles the headers and compares every offset.

mod layout;
pub mod program;

pub use layout::{Field, Layout, Shared};

use layout::shared;

shared! {
    /// Arguments of `kilotok_probe`: `y = a * x + y`.
    KilotokProbeArgs as ProbeArgs, 40 bytes {
        /// Device address of `[n]` f32, read.
        x: u64,
        /// Device address of `[n]` f32, read and written.
        y: u64,
        /// Device address of one [`ProbeResult`], written.
        result: u64,
        /// Elements in `x` and `y`.
        n: u64,
        /// Factor.
        a: f32,
        /// Keeps the size a multiple of 8.
        reserved: u32,
    }

    /// What the device says about itself.
    KilotokProbeResult as ProbeResult, 32 bytes {
        /// SM cycles the first block needed.
        clock_cycles: u64,
        /// The same interval by the global timer, in nanoseconds.
        elapsed_ns: u64,
        /// PTX `%nsmid`: an upper bound of SM ids.
        num_sms: u32,
        /// `__CUDA_ARCH__` of the image that ran, for example 900.
        arch: u32,
        /// `__CUDA_ARCH_FAMILY_SPECIFIC__` of that image; 0 for portable code.
        arch_family: u32,
        /// Blocks in the grid.
        num_blocks: u32,
    }
}
