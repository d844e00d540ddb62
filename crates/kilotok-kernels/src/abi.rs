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

    /// Arguments of `kilotok_moe_up`; shapes and layouts in `ops/moe_up.cuh`.
    KilotokMoeUpArgs as MoeUpArgs, 56 bytes {
        /// Device address of all experts' gate and up steps.
        weights: u64,
        /// Device address of `[rows, size]` bf16.
        x: u64,
        /// Device address of `[rows, top_k]` u32.
        experts: u64,
        /// Device address of `[rows, top_k, inter]` bf16, written.
        hidden: u64,
        /// From one expert's steps to the next one's.
        expert_bytes: u64,
        /// 1 to 8; `rows * top_k` is at most 64.
        rows: u32,
        /// Experts per row.
        top_k: u32,
        /// A multiple of 64.
        size: u32,
        /// A multiple of 16.
        inter: u32,
    }

    /// Arguments of `kilotok_moe_down`; shapes and layouts in `ops/moe_down.cuh`.
    KilotokMoeDownArgs as MoeDownArgs, 72 bytes {
        /// Device address of all experts' down steps.
        weights: u64,
        /// Device address of `[rows, top_k, inter]` bf16.
        hidden: u64,
        /// Device address of `[rows, top_k]` u32.
        experts: u64,
        /// Device address of `[rows, top_k]` f32.
        gates: u64,
        /// Device address of `[rows, size]` f32, read and written.
        residual: u64,
        /// From one expert's steps to the next one's.
        expert_bytes: u64,
        /// 1 to 8; `rows * top_k` is at most 64.
        rows: u32,
        /// Experts per row.
        top_k: u32,
        /// A multiple of 32.
        size: u32,
        /// A multiple of 64.
        inter: u32,
        /// Steps of K that one warp adds up before the slices are added; a function of `inter` alone.
        slice_steps: u32,
        /// Keeps the size a multiple of 8.
        reserved: u32,
    }
}
