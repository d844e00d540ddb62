//! The vector operations every SIMD path provides.
#![allow(unsafe_code, reason = "the operations are CPU instructions behind runtime detection")]

/// A register of f32 lanes and the decoders of the stored formats into it.
///
/// # Safety
/// Every method requires that the CPU has the path's features (only the wrappers in `kernels.rs`
/// call in, after detection), and, where it takes a pointer, that the stated number of bytes is
/// readable or writable there. No alignment is required.
pub(crate) trait Vector: Copy {
    /// Number of f32 lanes; divides 16.
    const LANES: usize;
    /// Whether there are registers for 16 accumulators beside the operands.
    const WIDE: bool;
    /// `LANES` 32-bit words of e2m1 codes.
    type Word: Copy;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self;
    /// `LANES` floats at `p`.
    unsafe fn load(p: *const f32) -> Self;
    /// Writes `LANES` floats to `p`.
    unsafe fn store(self, p: *mut f32);
    /// `self + other`
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`
    unsafe fn sub(self, other: Self) -> Self;
    /// `self * other`
    unsafe fn mul(self, other: Self) -> Self;
    /// `self / other`
    unsafe fn div(self, other: Self) -> Self;
    /// The smaller of each lane.
    unsafe fn min(self, other: Self) -> Self;
    /// The larger of each lane.
    unsafe fn max(self, other: Self) -> Self;
    /// `self * b + c`, fused on every path but the scalar one.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// Nearest integers, ties to even.
    unsafe fn round(self) -> Self;
    /// `2^self` of integers in `-126..=127`.
    unsafe fn pow2(self) -> Self;
    /// Asks for the cache line at `p`, which need not be readable.
    unsafe fn prefetch(p: *const u8);
    /// Sum of all lanes in a fixed order: halves are added until one lane is left.
    unsafe fn sum(self) -> f32;
    /// [`Vector::sum`] of each.
    #[inline(always)]
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4] {
        // SAFETY: passed on from the caller.
        vectors.map(|v| unsafe { v.sum() })
    }

    /// `LANES` little-endian bfloat16 (`2 * LANES` bytes).
    unsafe fn bf16(p: *const u8) -> Self;
    /// `LANES` e4m3 bytes, each value times `E4M3_FACTOR`.
    unsafe fn e4m3(p: *const u8) -> Self;
    /// What [`Vector::e4m3`] leaves to be folded into the block's scale.
    const E4M3_FACTOR: f32;

    /// `LANES` words of eight e2m1 codes (`4 * LANES` bytes).
    unsafe fn codes(p: *const u8) -> Self::Word;
    /// Values of the lowest code of every word.
    unsafe fn e2m1(word: Self::Word) -> Self;
    /// Drops the lowest code of every word.
    unsafe fn next(word: Self::Word) -> Self::Word;
    /// e8m0 scales: lane `i` gets the scale at `p + i / 4` (`LANES / 4` bytes).
    unsafe fn e8m0(p: *const u8) -> Self;
}
