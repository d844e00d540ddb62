//! Mirrors of the structs in `cuda/include/kilotok/abi.h`, the only header that both sides know.
//!
//! Sizes are asserted here and in the header; `tests/abi.rs` compiles the header and compares every offset.

/// Where one field of a shared struct lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The name, equal on both sides.
    pub name: &'static str,
    /// Bytes from the start of the struct.
    pub offset: usize,
    /// Bytes of the field.
    pub size: usize,
}

/// The layout of one shared struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The name in `abi.h`.
    pub c_name: &'static str,
    /// Bytes of the struct.
    pub size: usize,
    /// All fields, in order.
    pub fields: Vec<Field>,
}

macro_rules! shared {
    ($(
        $(#[$doc:meta])*
        $c_name:ident as $name:ident, $size:literal bytes {
            $($(#[$field_doc:meta])* $field:ident: $ty:ty,)*
        }
    )*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug, Clone, Copy, PartialEq, Default)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $ty,)*
            }
            const _: () = assert!(size_of::<$name>() == $size);
            // No hidden padding: every byte of the struct is a byte of some field.
            const _: () = assert!($size == 0 $(+ size_of::<$ty>())*);
        )*

        /// The layout of every shared struct as this side sees it.
        pub fn layouts() -> Vec<Layout> {
            vec![$(Layout {
                c_name: stringify!($c_name),
                size: size_of::<$name>(),
                fields: vec![$(Field {
                    name: stringify!($field),
                    offset: std::mem::offset_of!($name, $field),
                    size: size_of::<$ty>(),
                }),*],
            }),*]
        }
    };
}

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
