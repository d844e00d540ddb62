//! Ops `attention_norm`, `mlp_norm`, `final_norm` and their drafter twins: RMSNorm of rows.
#![allow(unsafe_code, reason = "generic over the vector operations of a SIMD path")]

use super::linear::Shared;
use super::simd::Vector;
use super::workers::Compute;

/// One row: `out = x / sqrt(mean(x^2) + eps) * weight`.
pub(super) struct NormJob {
    x: *const f32,
    weight: *const f32,
    out: *mut f32,
    len: usize,
    eps: f32,
}

/// # Safety
/// The path's features; the three pointers cover `len` floats (`x` and `out` may be the same).
#[inline(always)]
pub(super) unsafe fn norm<V: Vector>(job: &mut NormJob) {
    let whole = job.len / V::LANES * V::LANES;
    let mut tail = [0f32; 16];
    // SAFETY: offsets stay below `len`; the tail array holds a whole vector.
    unsafe {
        let mut squares = V::splat(0.0);
        for i in (0..whole).step_by(V::LANES) {
            let x = V::load(job.x.add(i));
            squares = x.fma(x, squares);
        }
        if whole < job.len {
            std::ptr::copy_nonoverlapping(job.x.add(whole), tail.as_mut_ptr(), job.len - whole);
            let x = V::load(tail.as_ptr());
            squares = x.fma(x, squares);
        }
        let factor = 1.0 / (squares.sum() / job.len as f32 + job.eps).sqrt();
        for i in (0..whole).step_by(V::LANES) {
            let x = V::load(job.x.add(i)).mul(V::splat(factor));
            x.mul(V::load(job.weight.add(i))).store(job.out.add(i));
        }
        for i in whole..job.len {
            *job.out.add(i) = *job.x.add(i) * factor * *job.weight.add(i);
        }
    }
}

/// Norms `rows` rows of `[rows, weight.len()]`.
pub(super) fn run(
    compute: &Compute,
    rows: usize,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    let len = weight.len();
    assert!(x.len() >= rows * len && out.len() >= rows * len);
    let (from, to) = (Shared(x.as_ptr()), Shared(out.as_mut_ptr()));
    compute.over(rows, 1, rows * len, |range, _| {
        let (from, to) = (&from, &to);
        for row in range {
            // SAFETY: `kernels` were handed out after feature detection; rows are inside the
            // buffers (checked above), which stay borrowed; every row is one task's.
            unsafe {
                let (x, out) = (from.0.add(row * len), to.0.add(row * len));
                (compute.kernels.norm)(&mut NormJob { x, weight: weight.as_ptr(), out, len, eps });
            }
        }
    });
}

/// Norms heads of `weight.len()` floats in place: in each of `rows` rows of `stride` floats, the
/// `heads` heads from `col` on (queries and keys of the drafter).
pub(super) fn heads(
    compute: &Compute,
    x: &mut [f32],
    (rows, stride): (usize, usize),
    (col, heads): (usize, usize),
    weight: &[f32],
    eps: f32,
) {
    let len = weight.len();
    for row in 0..rows {
        for head in x[row * stride + col..][..heads * len].chunks_exact_mut(len) {
            let (x, out) = (head.as_ptr(), head.as_mut_ptr());
            let mut job = NormJob { x, weight: weight.as_ptr(), out, len, eps };
            // SAFETY: `kernels` were handed out after feature detection; both pointers cover
            // the head, which is borrowed mutably here.
            unsafe { (compute.kernels.norm)(&mut job) };
        }
    }
}
