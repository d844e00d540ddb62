//! Matrix times rows for every stored format and SIMD path.
#![allow(unsafe_code, reason = "hands disjoint outputs of one buffer to several threads")]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod decode;
mod dots;
mod input;
mod kernel;
mod pack;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use amx::{linear_amx, permission, split_amx};
pub(super) use input::{Input, Packs, Unpacked};
pub(super) use kernel::{LinearJob, Source, Store, Target, Weights, linear};
pub(super) use pack::{Orders, Packed, Split};

use std::ops::Range;

use super::workers::Compute;
use crate::matrix::{Format, Matrix};
use crate::numeric::{fp8, mxfp4};

/// Outputs of one task: a multiple of [`OUTPUTS`], small enough to balance the threads and large
/// enough to amortise a claim and the first reads of every task, which nobody asked for ahead.
fn task_outputs(outputs: usize, threads: usize) -> usize {
    (outputs / (8 * threads)).next_multiple_of(32).clamp(32, 256)
}

/// Multiply-adds below which a job runs on the calling thread alone.
pub(super) const INLINE_WORK: usize = 1 << 15;

/// Number of element bytes `matrix` must have.
pub(super) fn data_bytes(matrix: &Matrix) -> Option<usize> {
    let elements = matrix.stored_rows().checked_mul(matrix.cols)?;
    match matrix.format {
        Format::F32 => elements.checked_mul(4),
        Format::Bf16 => elements.checked_mul(2),
        Format::Fp8 { .. } => Some(elements),
        Format::Mxfp4 { .. } => Some(elements / 2),
    }
}

/// Number of scales `matrix` must have.
pub(super) fn scale_len(matrix: &Matrix) -> usize {
    match &matrix.format {
        Format::F32 | Format::Bf16 => 0,
        Format::Fp8 { rows_per_chunk, .. } => {
            fp8::scale_count(matrix.rows, matrix.cols, *rows_per_chunk)
        }
        Format::Mxfp4 { .. } => matrix.stored_rows() * (matrix.cols / mxfp4::BLOCK),
    }
}

/// The kernels' view of a matrix, whose extents are checked here once and for all.
pub(super) fn weights(matrix: &Matrix) -> Weights {
    let bytes = matrix.data.as_slice();
    assert_eq!(Some(bytes.len()), data_bytes(matrix), "matrix bytes do not match its shape");
    let (data, cols, step) = (bytes.as_ptr(), matrix.cols, matrix.row_step);
    match &matrix.format {
        Format::F32 => Weights::F32(decode::F32 { data, cols, pitch: cols * 4 * step }),
        Format::Bf16 => Weights::Bf16(decode::Bf16 { data, cols, pitch: cols * 2 * step }),
        Format::Fp8 { scales, rows_per_chunk } => {
            assert!(step == 1, "FP8 rows are contiguous");
            assert!(scales.len() >= scale_len(matrix), "too few FP8 scales");
            let (scales, rows_per_chunk) = (scales.as_ptr(), *rows_per_chunk);
            Weights::Fp8(decode::Fp8 { data, cols, scales, rows_per_chunk })
        }
        Format::Mxfp4 { scales } => {
            let scales = scales.as_slice();
            assert!(scales.len() >= scale_len(matrix), "too few MXFP4 scales");
            let pitch = (cols / 2 * step, cols / mxfp4::BLOCK * step);
            Weights::Mxfp4(decode::Mxfp4 { data, scales: scales.as_ptr(), cols, pitch })
        }
    }
}

/// Some packed rows, all or a group of them, in the order `matrix` takes.
pub(super) fn source(matrix: &Matrix, x: &Packed, rows: Range<usize>) -> Source {
    assert_eq!(x.cols, matrix.cols, "activations do not fit the matrix");
    assert!(rows.start <= rows.end && rows.end <= x.rows, "row out of range");
    let (split, split_stride) = x.split(&rows, &matrix.format);
    Source {
        base: x.rows_for(&matrix.format).as_ptr(),
        stride: x.stride,
        split: split.as_ptr(),
        split_stride,
        first: rows.start,
        count: rows.len(),
    }
}

/// A buffer whose disjoint parts several threads write during one job.
#[derive(Clone, Copy)]
pub(super) struct Output {
    base: *mut f32,
    len: usize,
}

// SAFETY: only kernels write through it, and jobs give every task outputs of its own; whoever
// makes one keeps the buffer borrowed until the job is done.
unsafe impl Sync for Output {}
// SAFETY: as for `Sync`.
unsafe impl Send for Output {}

impl Output {
    /// The whole of `buffer`.
    pub(super) fn new(buffer: &mut [f32]) -> Self {
        Self { base: buffer.as_mut_ptr(), len: buffer.len() }
    }

    /// `len` floats from `at` on.
    pub(super) fn part(self, at: usize, len: usize) -> Self {
        assert!(at + len <= self.len, "part beyond the buffer");
        // SAFETY: `at` is inside the buffer.
        Self { base: unsafe { self.base.add(at) }, len }
    }

    /// `len` floats from `at` on, to read and write.
    ///
    /// # Safety
    /// The buffer is still borrowed by whoever made this, and nobody else touches these floats
    /// for `'a`.
    pub(super) unsafe fn slice<'a>(self, at: usize, len: usize) -> &'a mut [f32] {
        let part = self.part(at, len);
        // SAFETY: inside the buffer; exclusive by the caller's word.
        unsafe { std::slice::from_raw_parts_mut(part.base, len) }
    }

    /// Output `first` of row `r` at `col` of row `rows[r]` of the buffer, whose rows are `stride`
    /// floats apart; `cols` outputs from there on are inside.
    pub(super) fn target(
        self,
        stride: usize,
        (col, cols): (usize, usize),
        first: usize,
        rows: &[u32],
    ) -> Target<'_> {
        assert!(col + cols <= stride, "columns beyond the row");
        let last = rows.iter().copied().max().map_or(0, |row| row as usize * stride + col + cols);
        assert!(last <= self.len && col <= self.len, "rows beyond the buffer");
        // SAFETY: `col` is inside the buffer.
        Target { base: unsafe { self.base.add(col) }, first, stride, rows }
    }
}

/// `out[to[i], col ..] (+)= W x[i]` for every packed row `i`; `out` is `(buffer, stride, col)`
/// with rows of `stride` floats. `to` names no row twice.
pub(super) fn apply(
    compute: &Compute,
    matrix: &Matrix,
    x: &Input,
    out: (&mut [f32], usize, usize),
    to: &[u32],
    store: Store,
) {
    assert_eq!(x.len(), to.len(), "as many targets as packed rows");
    let (buffer, stride, col) = out;
    let target = Output::new(buffer).target(stride, (col, matrix.rows), 0, to);
    let shared = Shared((weights(matrix), target));
    let work = to.len() * matrix.rows * matrix.cols;
    let kernel = compute.kernels.linear;
    let piece = task_outputs(matrix.rows, compute.workers.threads());
    compute.over(matrix.rows, piece, work, |outputs, thread| {
        let shared = &shared;
        let (weights, target) = shared.0;
        // SAFETY: `kernels` were handed out after feature detection; extents were checked above
        // and the borrows of matrix, activations and `buffer` outlive the call; tasks have
        // disjoint outputs.
        unsafe {
            let source = source(matrix, x.on(thread), 0..to.len());
            kernel(&LinearJob { weights, source, target, outputs, store });
        }
    });
}

/// `values += bias`, element by element.
pub(super) fn add_bias(values: &mut [f32], bias: &[f32]) {
    for (value, bias) in values.iter_mut().zip(bias) {
        *value += bias;
    }
}

/// Adds `bias` to the first `rows` rows of `out`, `[_, bias.len()]`.
pub(super) fn add_bias_rows(out: &mut [f32], rows: usize, bias: Option<&[f32]>) {
    let Some(bias) = bias else { return };
    for row in out.chunks_exact_mut(bias.len()).take(rows) {
        add_bias(row, bias);
    }
}

/// A job that several threads read; its pointers are to memory borrowed for the whole call.
#[derive(Clone, Copy)]
pub(super) struct Shared<T>(pub(super) T);

// SAFETY: whoever shares a job gives its tasks disjoint outputs and keeps the memory borrowed.
unsafe impl<T> Sync for Shared<T> {}
// SAFETY: as for `Sync`.
unsafe impl<T> Send for Shared<T> {}
