//! MXFP4 matrices through AMX bfloat16 tiles.
//!
//! The other formats stay with AVX-512: their bytes or their decoding cost more than the products.
//! MXFP4 weights are exact in bfloat16, and an f32 activation is exactly the sum of three
//! bfloat16 parts, so a tile product with the parts as rows is as
//! good as an f32 product. A tile instruction sums in an order of its own that does not depend on
//! the other rows of the tile, so batch invariance (law 1) holds: one output of one row has two
//! accumulators for each part (even and odd blocks of 32 columns), added in a fixed order.
//!
//! Tile arithmetic flushes subnormal bfloat16 inputs and f32 results to zero.

mod decode;
mod kernel;
mod split;
mod tile;

pub(crate) use kernel::linear_amx;
pub(crate) use split::split_amx;
pub(crate) use tile::permission;
