//! Weight rows as streams of vectors, one decoder per stored format.
//!
//! A decoder cuts a row into chunks. Lane `l` of the `j`-th vector of a chunk is one column;
//! which one is the decoder's business as long as the packed activations agree (`pack.rs`).
#![allow(unsafe_code, reason = "reads weights of unchecked alignment through pointers")]

use super::super::simd::Vector;
use crate::numeric::{fp8, mxfp4};

/// Largest number of bytes of a chunk.
pub(super) const CHUNK_BYTES: usize = 128;

/// Decodes the rows of one matrix.
///
/// # Safety
/// Implementations hold pointers whose memory the creator keeps alive for the decoder's life and
/// whose extent covers the `rows x cols` it was told. Methods require the path's CPU features, a
/// row below `rows`, and a chunk below `cols / CHUNK` (`tail` alone reads the rest).
pub(crate) trait Decoder<V: Vector>: Copy {
    /// Columns of one chunk.
    const CHUNK: usize;
    /// Vectors of one chunk, `CHUNK / LANES`.
    const VECTORS: usize = Self::CHUNK / V::LANES;
    /// A row.
    type Row: Copy;
    /// What is left to decode of a chunk.
    type Chunk: Copy;

    /// Number of columns.
    fn cols(&self) -> usize;
    /// The row's start.
    unsafe fn row(&self, row: usize) -> Self::Row;
    /// Chunk number `index` of a row.
    unsafe fn chunk(&self, row: Self::Row, index: usize) -> Self::Chunk;
    /// The last, incomplete chunk, completed with zeros in `buffer`.
    unsafe fn tail(&self, row: Self::Row, buffer: &mut [u8; CHUNK_BYTES]) -> Self::Chunk;
    /// The next vector of a chunk, unscaled.
    unsafe fn next(&self, chunk: &mut Self::Chunk) -> V;
    /// Whether chunks have factors.
    const SCALED: bool;
    /// The factor of every lane of a chunk; not asked for where chunks are not scaled.
    unsafe fn scale(&self, chunk: &Self::Chunk) -> V;
    /// Asks for the memory of chunk `index` of the row `ahead` rows further on, which need not
    /// exist.
    unsafe fn prefetch(&self, row: Self::Row, index: usize, ahead: usize);
}

/// Copies the `bytes` bytes at `from` into the zeroed `buffer`.
///
/// # Safety
/// `from` is readable for `bytes`, at most [`CHUNK_BYTES`].
#[inline(always)]
unsafe fn complete(from: *const u8, bytes: usize, buffer: &mut [u8; CHUNK_BYTES]) -> *const u8 {
    *buffer = [0; CHUNK_BYTES];
    // SAFETY: the caller vouches for `from`; the buffer is a distinct local array.
    unsafe { std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), bytes) };
    buffer.as_ptr()
}

/// Rows of f32.
#[derive(Clone, Copy)]
pub(crate) struct F32 {
    pub(super) data: *const u8,
    pub(super) cols: usize,
    /// Bytes from one row to the next.
    pub(super) pitch: usize,
}

impl<V: Vector> Decoder<V> for F32 {
    const CHUNK: usize = V::LANES;
    type Row = *const u8;
    type Chunk = *const u8;

    #[inline(always)]
    fn cols(&self) -> usize {
        self.cols
    }

    #[inline(always)]
    unsafe fn row(&self, row: usize) -> Self::Row {
        // SAFETY: `row` is below the number of rows.
        unsafe { self.data.add(row * self.pitch) }
    }

    #[inline(always)]
    unsafe fn chunk(&self, row: Self::Row, index: usize) -> Self::Chunk {
        // SAFETY: the chunk lies inside the row.
        unsafe { row.add(index * V::LANES * 4) }
    }

    #[inline(always)]
    unsafe fn tail(&self, row: Self::Row, buffer: &mut [u8; CHUNK_BYTES]) -> Self::Chunk {
        let done = self.cols / V::LANES * V::LANES;
        // SAFETY: the rest of the row is shorter than a chunk.
        unsafe { complete(row.add(done * 4), (self.cols - done) * 4, buffer) }
    }

    #[inline(always)]
    unsafe fn next(&self, chunk: &mut Self::Chunk) -> V {
        // SAFETY: a chunk is one vector.
        unsafe { V::load(chunk.cast()) }
    }

    const SCALED: bool = false;

    #[inline(always)]
    unsafe fn scale(&self, _: &Self::Chunk) -> V {
        // SAFETY: register operations only.
        unsafe { V::splat(1.0) }
    }

    #[inline(always)]
    unsafe fn prefetch(&self, row: Self::Row, index: usize, ahead: usize) {
        // SAFETY: a prefetch reads nothing.
        unsafe { V::prefetch(row.wrapping_add(ahead * self.pitch + index * V::LANES * 4)) }
    }
}

/// Rows of bfloat16.
#[derive(Clone, Copy)]
pub(crate) struct Bf16 {
    pub(super) data: *const u8,
    pub(super) cols: usize,
    /// Bytes from one row to the next.
    pub(super) pitch: usize,
}

impl<V: Vector> Decoder<V> for Bf16 {
    const CHUNK: usize = V::LANES;
    type Row = *const u8;
    type Chunk = *const u8;

    #[inline(always)]
    fn cols(&self) -> usize {
        self.cols
    }

    #[inline(always)]
    unsafe fn row(&self, row: usize) -> Self::Row {
        // SAFETY: `row` is below the number of rows.
        unsafe { self.data.add(row * self.pitch) }
    }

    #[inline(always)]
    unsafe fn chunk(&self, row: Self::Row, index: usize) -> Self::Chunk {
        // SAFETY: the chunk lies inside the row.
        unsafe { row.add(index * V::LANES * 2) }
    }

    #[inline(always)]
    unsafe fn tail(&self, row: Self::Row, buffer: &mut [u8; CHUNK_BYTES]) -> Self::Chunk {
        let done = self.cols / V::LANES * V::LANES;
        // SAFETY: the rest of the row is shorter than a chunk.
        unsafe { complete(row.add(done * 2), (self.cols - done) * 2, buffer) }
    }

    #[inline(always)]
    unsafe fn next(&self, chunk: &mut Self::Chunk) -> V {
        // SAFETY: a chunk is one vector.
        unsafe { V::bf16(*chunk) }
    }

    const SCALED: bool = false;

    #[inline(always)]
    unsafe fn scale(&self, _: &Self::Chunk) -> V {
        // SAFETY: register operations only.
        unsafe { V::splat(1.0) }
    }

    #[inline(always)]
    unsafe fn prefetch(&self, row: Self::Row, index: usize, ahead: usize) {
        // SAFETY: a prefetch reads nothing.
        unsafe { V::prefetch(row.wrapping_add(ahead * self.pitch + index * V::LANES * 2)) }
    }
}

/// Rows of e4m3 with a factor per 128 x 128 block; a chunk is one block wide.
#[derive(Clone, Copy)]
pub(crate) struct Fp8 {
    pub(super) data: *const u8,
    pub(super) cols: usize,
    pub(super) scales: *const f32,
    pub(super) rows_per_chunk: usize,
}

impl<V: Vector> Decoder<V> for Fp8 {
    const CHUNK: usize = fp8::BLOCK;
    type Row = (*const u8, *const f32);
    type Chunk = (*const u8, V);

    #[inline(always)]
    fn cols(&self) -> usize {
        self.cols
    }

    #[inline(always)]
    unsafe fn row(&self, row: usize) -> Self::Row {
        let scales = fp8::scale_index(row, 0, self.cols, self.rows_per_chunk);
        // SAFETY: `row` is below the number of rows, of the scale grid too.
        unsafe { (self.data.add(row * self.cols), self.scales.add(scales)) }
    }

    #[inline(always)]
    unsafe fn chunk(&self, row: Self::Row, index: usize) -> Self::Chunk {
        // SAFETY: the chunk lies inside the row; there is one scale per chunk.
        unsafe {
            let scale = row.1.add(index).read_unaligned() * V::E4M3_FACTOR;
            (row.0.add(index * fp8::BLOCK), V::splat(scale))
        }
    }

    #[inline(always)]
    unsafe fn tail(&self, row: Self::Row, buffer: &mut [u8; CHUNK_BYTES]) -> Self::Chunk {
        let index = self.cols / fp8::BLOCK;
        let done = index * fp8::BLOCK;
        // SAFETY: the rest of the row is shorter than a chunk and has a scale of its own.
        unsafe {
            let scale = row.1.add(index).read_unaligned() * V::E4M3_FACTOR;
            (complete(row.0.add(done), self.cols - done, buffer), V::splat(scale))
        }
    }

    #[inline(always)]
    unsafe fn next(&self, chunk: &mut Self::Chunk) -> V {
        // SAFETY: a chunk holds `VECTORS` vectors of `LANES` bytes.
        unsafe {
            let value = V::e4m3(chunk.0);
            chunk.0 = chunk.0.add(V::LANES);
            value
        }
    }

    const SCALED: bool = true;

    #[inline(always)]
    unsafe fn scale(&self, chunk: &Self::Chunk) -> V {
        chunk.1
    }

    #[inline(always)]
    unsafe fn prefetch(&self, row: Self::Row, index: usize, ahead: usize) {
        let at = row.0.wrapping_add(ahead * self.cols + index * fp8::BLOCK);
        // SAFETY: a prefetch reads nothing.
        unsafe {
            V::prefetch(at);
            V::prefetch(at.wrapping_add(64));
        }
    }
}

/// Rows of e2m1 nibbles with an e8m0 scale per 32 columns.
///
/// A chunk is one vector of 32-bit words; word `l` holds columns `8 l .. 8 l + 8` of the chunk,
/// so the `j`-th decoded vector holds columns `8 l + j`.
#[derive(Clone, Copy)]
pub(crate) struct Mxfp4 {
    pub(super) data: *const u8,
    pub(super) scales: *const u8,
    pub(super) cols: usize,
    /// Bytes of `data` and of `scales` from one row to the next.
    pub(super) pitch: (usize, usize),
}

impl<V: Vector> Decoder<V> for Mxfp4 {
    const CHUNK: usize = 8 * V::LANES;
    type Row = (*const u8, *const u8);
    type Chunk = (V::Word, V);

    #[inline(always)]
    fn cols(&self) -> usize {
        self.cols
    }

    #[inline(always)]
    unsafe fn row(&self, row: usize) -> Self::Row {
        // SAFETY: `row` is below the number of rows.
        unsafe { (self.data.add(row * self.pitch.0), self.scales.add(row * self.pitch.1)) }
    }

    #[inline(always)]
    unsafe fn chunk(&self, row: Self::Row, index: usize) -> Self::Chunk {
        // SAFETY: the chunk lies inside the row: `4 LANES` bytes and `LANES / 4` scales.
        unsafe {
            let codes = V::codes(row.0.add(index * 4 * V::LANES));
            (codes, V::e8m0(row.1.add(index * (V::LANES / 4))))
        }
    }

    #[inline(always)]
    unsafe fn tail(&self, row: Self::Row, buffer: &mut [u8; CHUNK_BYTES]) -> Self::Chunk {
        let chunk = 8 * V::LANES;
        let index = self.cols / chunk;
        let left = self.cols - index * chunk;
        let mut scales = [0; CHUNK_BYTES];
        // SAFETY: the rest of the row is shorter than a chunk.
        unsafe {
            let from = row.1.add(index * (V::LANES / 4));
            let scales = complete(from, left / mxfp4::BLOCK, &mut scales);
            let codes = complete(row.0.add(index * 4 * V::LANES), left / 2, buffer);
            (V::codes(codes), V::e8m0(scales))
        }
    }

    #[inline(always)]
    unsafe fn next(&self, chunk: &mut Self::Chunk) -> V {
        // SAFETY: register operations only.
        unsafe {
            let value = V::e2m1(chunk.0);
            chunk.0 = V::next(chunk.0);
            value
        }
    }

    const SCALED: bool = true;

    #[inline(always)]
    unsafe fn scale(&self, chunk: &Self::Chunk) -> V {
        chunk.1
    }

    #[inline(always)]
    unsafe fn prefetch(&self, row: Self::Row, index: usize, ahead: usize) {
        // SAFETY: a prefetch reads nothing.
        unsafe {
            V::prefetch(row.0.wrapping_add(ahead * self.pitch.0 + index * 4 * V::LANES));
            if index % 16 == 0 {
                let scales = ahead * self.pitch.1 + index * (V::LANES / 4);
                V::prefetch(row.1.wrapping_add(scales));
            }
        }
    }
}
