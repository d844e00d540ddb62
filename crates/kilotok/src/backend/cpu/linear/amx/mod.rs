//! Matrices in BF16, FP8 and MXFP4 through AMX bfloat16 tiles.
//!
//! Weights of these formats are exact in bfloat16 (but for their scales), and an f32 activation
//! is exactly the sum of three bfloat16 parts, so a tile product with the parts beside each other
//! is as good as an f32 product. Weights are the first operand, whose rows are plain pieces of
//! weight rows: BF16 matrices are multiplied where they stand, narrower ones decoded row by row.
//! Activations are the second operand, packed once per op (`split.rs`). A tile instruction sums
//! in an order of its own that does not depend on other columns of that operand, so batch
//! invariance (law 1) holds: one output of one row has two accumulators for each part (even and
//! odd blocks of 32 columns), added in a fixed order.
//!
//! Tile arithmetic flushes subnormal bfloat16 inputs and f32 results to zero.

mod decode;
mod kernel;
mod split;
mod tile;

pub(crate) use kernel::linear_amx;
pub(crate) use split::split_amx;
pub(crate) use tile::permission;
