//! Exponential and the functions made of it, the same polynomial on every path.
#![allow(unsafe_code, reason = "generic over the vector operations of a SIMD path")]

use super::vector::Vector;

/// `exp(x)` within 2 ulp; arguments are clamped to `-87.33..=88.37`, so that the result is
/// always a normal, finite number.
///
/// # Safety
/// The CPU has the path's features.
#[inline(always)]
pub(crate) unsafe fn exp<V: Vector>(x: V) -> V {
    // SAFETY: the caller vouches for the features; nothing here touches memory.
    unsafe {
        let x = x.max(V::splat(-87.336_54)).min(V::splat(88.376_26));
        let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
        // x - n ln 2 with ln 2 in two parts, so that the difference stays exact.
        let r = n.fma(V::splat(-0.693_359_4), x);
        let r = n.fma(V::splat(2.121_944_4e-4), r);
        // Minimax polynomial of (exp(r) - 1 - r) / r^2 on |r| <= ln 2 / 2 (Cephes expf).
        let mut p = V::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
            p = p.fma(r, V::splat(c));
        }
        let y = p.fma(r.mul(r), r.add(V::splat(1.0)));
        // 2^n in two factors: n may be 128 (or, scaled at once, underflow).
        let half = n.mul(V::splat(0.5)).round();
        y.mul(half.pow2()).mul(n.sub(half).pow2())
    }
}

/// `1 / (1 + exp(-x))` of every element, in place.
///
/// # Safety
/// The CPU has the path's features.
#[inline(always)]
pub(crate) unsafe fn sigmoid<V: Vector>(values: &mut [f32]) {
    let mut lanes = [0f32; 16];
    for chunk in values.chunks_mut(V::LANES) {
        lanes[..chunk.len()].copy_from_slice(chunk);
        // SAFETY: `lanes` holds at least `LANES` floats.
        unsafe {
            let one = V::splat(1.0);
            let e = exp(V::splat(0.0).sub(V::load(lanes.as_ptr())));
            one.div(one.add(e)).store(lanes.as_mut_ptr());
        }
        chunk.copy_from_slice(&lanes[..chunk.len()]);
    }
}

/// `gate = silu(gate) * up`, element by element.
///
/// # Safety
/// The CPU has the path's features.
#[inline(always)]
pub(crate) unsafe fn silu_mul<V: Vector>(gate: &mut [f32], up: &[f32]) {
    let (mut g, mut u) = ([0f32; 16], [0f32; 16]);
    for (gate, up) in gate.chunks_mut(V::LANES).zip(up.chunks(V::LANES)) {
        g[..gate.len()].copy_from_slice(gate);
        u[..up.len()].copy_from_slice(up);
        // SAFETY: both arrays hold at least `LANES` floats.
        unsafe {
            let x = V::load(g.as_ptr());
            let e = exp(V::splat(0.0).sub(x));
            let silu = x.div(V::splat(1.0).add(e));
            silu.mul(V::load(u.as_ptr())).store(g.as_mut_ptr());
        }
        gate.copy_from_slice(&g[..gate.len()]);
    }
}

/// `gate = g * sigmoid(alpha * g) * (u + 1)` with `g = min(gate, limit)` and
/// `u = clamp(up, -limit, limit)`, element by element.
///
/// # Safety
/// The CPU has the path's features.
#[inline(always)]
pub(crate) unsafe fn clamped_swiglu<V: Vector>(
    gate: &mut [f32],
    up: &[f32],
    alpha: f32,
    limit: f32,
) {
    let (mut g, mut u) = ([0f32; 16], [0f32; 16]);
    for (gate, up) in gate.chunks_mut(V::LANES).zip(up.chunks(V::LANES)) {
        g[..gate.len()].copy_from_slice(gate);
        u[..up.len()].copy_from_slice(up);
        // SAFETY: both arrays hold at least `LANES` floats.
        unsafe {
            let (one, limit) = (V::splat(1.0), V::splat(limit));
            let x = V::load(g.as_ptr()).min(limit);
            let linear = V::load(u.as_ptr()).min(limit).max(V::splat(0.0).sub(limit));
            let e = exp(V::splat(-alpha).mul(x));
            let glu = x.div(one.add(e));
            glu.mul(linear.add(one)).store(g.as_mut_ptr());
        }
        gate.copy_from_slice(&g[..gate.len()]);
    }
}
