//! Weight matrices in the format they are stored in.

use std::ops::Range;
use std::sync::Arc;

/// A cheap, cloneable view of bytes whose owner (a memory map, a `Vec`) is kept alive.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Bytes {
    /// The whole of `owner`.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        let len = (*owner).as_ref().len();
        Self { owner, range: 0..len }
    }

    /// Takes ownership of a buffer.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self::new(Arc::new(bytes))
    }

    /// A sub-range, or `None` where it reaches past the end.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (range.start <= range.end && end <= self.range.end)
            .then(|| Self { owner: Arc::clone(&self.owner), range: start..end })
    }

    /// The bytes. They may start at any alignment: readers use unaligned loads.
    pub fn as_slice(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }

    /// Whether both are the same place in memory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        std::ptr::eq(self.as_slice(), other.as_slice())
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}

/// How the elements of a [`Matrix`] are stored.
#[derive(Clone, Debug)]
pub enum Format {
    /// 32-bit floats, little endian.
    F32,
    /// bfloat16, little endian.
    Bf16,
    /// e4m3 bytes with one f32 factor per 128 x 128 block.
    ///
    /// The factor of element `[r, c]` is
    /// `scales[((r / c0) * ceil(c0 / 128) + (r % c0) / 128) * ceil(cols / 128) + c / 128]` with
    /// `c0 = rows_per_chunk`: the fused qkv of MiMo-V2.5 tiles its grid per chunk
    /// (mimo_spec 3.2); ordinary matrices have one chunk (`rows_per_chunk == rows`).
    Fp8 {
        /// Factors, `[scale_rows, ceil(cols / 128)]`, row-major.
        scales: Arc<[f32]>,
        /// Rows after which the scale grid starts anew.
        rows_per_chunk: usize,
    },
    /// e2m1 nibbles (byte `b` of a row holds column `2b` low, `2b + 1` high), `[rows, cols / 2]`,
    /// with one e8m0 byte per 32 columns.
    Mxfp4 {
        /// e8m0 scales, `[rows, cols / 32]`; 255 (NaN) was rejected at load.
        scales: Bytes,
    },
}

/// A row-major weight matrix `[rows, cols]`, applied as `y = W x` (rows are outputs).
///
/// Its rows may be every `row_step`-th row of what is stored: gate and up of an expert whose rows
/// are interleaved are two views of the same bytes. `data` (and MXFP4 scales) then begin at the
/// first row and end with the last, with the rows in between that are not the matrix's.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Element bytes; length checked against shape and format at construction.
    pub data: Bytes,
    /// Element format.
    pub format: Format,
    /// Stored rows from one row of the matrix to the next, at least 1; always 1 for FP8.
    pub row_step: usize,
}

impl Matrix {
    /// Stored rows from the first row of the matrix to its last, both included.
    pub fn stored_rows(&self) -> usize {
        if self.rows == 0 { 0 } else { (self.rows - 1).saturating_mul(self.row_step) + 1 }
    }

    /// Bytes read when the whole matrix is used once, scales included.
    pub fn num_bytes(&self) -> usize {
        let elements = self.rows * self.cols;
        match &self.format {
            Format::F32 => elements * 4,
            Format::Bf16 => elements * 2,
            Format::Fp8 { scales, .. } => elements + scales.len() * 4,
            Format::Mxfp4 { .. } => elements / 2 + elements / 32,
        }
    }
}
