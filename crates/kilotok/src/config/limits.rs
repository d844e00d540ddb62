//! Upper bounds on configured sizes: far above any model, low enough that no product of two or
//! three of them overflows and no malformed file can ask for absurd memory.

/// Decoder layers.
pub(super) const LAYERS: usize = 1 << 12;
/// Width of the residual stream.
pub(super) const HIDDEN: usize = 1 << 20;
/// Intermediate width of a SwiGLU.
pub(super) const INTER: usize = 1 << 22;
/// Vocabulary rows.
pub(super) const VOCAB: usize = 1 << 24;
/// Attention heads.
pub(super) const HEADS: usize = 1 << 14;
/// Dimension of one head.
pub(super) const HEAD_DIM: usize = 1 << 12;
/// Routed experts of a layer.
pub(super) const EXPERTS: usize = 1 << 14;
/// Positions and windows.
pub(super) const POSITIONS: usize = 1 << 40;
/// Rows of a draft block.
pub(super) const BLOCK: usize = 1 << 10;
