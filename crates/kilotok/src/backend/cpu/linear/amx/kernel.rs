//! MXFP4 matrix times rows through tiles: sixteen outputs and up to fifteen rows at a time.
#![allow(unsafe_code, reason = "CPU instructions behind runtime detection")]

use std::arch::x86_64::{__m512, _mm512_add_ps, _mm512_load_ps, _mm512_storeu_ps};

use super::super::super::simd::Avx512;
use super::super::decode::Mxfp4;
use super::super::kernel::{LinearJob, Weights, linear};
use super::super::pack::{PARTS, split_stride};
use super::decode::{STEP, Tiles};
use super::tile::{self, Config};

/// Rows of a tile: three parts of five rows of activations.
const TILE_ROWS: usize = 5;
/// Tiles of rows that share decoded weights.
const ROW_TILES: usize = 3;
/// Outputs of a tile.
const OUTPUTS: usize = 16;

/// Products of one tile of rows: even and odd blocks, `[3 * rows, outputs]`.
#[repr(C, align(64))]
struct Products([[[f32; OUTPUTS]; 16]; 2]);

/// See `Kernels::linear`.
///
/// # Safety
/// As for [`linear`]; AMX with permission, AVX-512.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(crate) unsafe fn linear_amx(job: &LinearJob) {
    // SAFETY: passed on from the caller.
    unsafe {
        match &job.weights {
            Weights::Mxfp4(weights) => rows(weights, job),
            _ => linear::<Avx512>(job),
        }
    }
}

/// Cuts the job's rows into pieces for which accumulators suffice.
///
/// # Safety
/// As for [`linear_amx`].
#[inline(always)]
unsafe fn rows(weights: &Mxfp4, job: &LinearJob) {
    let mut first = 0;
    while first < job.source.count {
        let count = (job.source.count - first).min(TILE_ROWS * ROW_TILES);
        let tiles = count.div_ceil(TILE_ROWS);
        let each = count.div_ceil(tiles);
        let piece = Piece { first, count, each };
        // SAFETY: passed on from the caller.
        unsafe {
            Config::new(3 * each).load();
            match tiles {
                1 => outputs::<1>(weights, job, piece),
                2 => outputs::<2>(weights, job, piece),
                _ => outputs::<3>(weights, job, piece),
            }
            tile::release();
        }
        first += count;
    }
}

/// Rows `first .. first + count` of a job, `each` of them to a tile.
#[derive(Clone, Copy)]
struct Piece {
    first: usize,
    count: usize,
    each: usize,
}

/// # Safety
/// As for [`linear_amx`]; tiles are configured.
#[inline(always)]
unsafe fn outputs<const T: usize>(weights: &Mxfp4, job: &LinearJob, piece: Piece) {
    let Piece { first, count, each } = piece;
    let steps = weights.cols.div_ceil(STEP);
    let stride = split_stride(job.source.stride);
    // Two steps in flight: tiles are loaded when their stores have long left for the cache.
    let mut tiles = [const { Tiles([[[0; 16]; 16]; 4]) }; 2];
    let mut spare = [[0; STEP / 2]; 16];
    let mut products = Products([[[0.0; OUTPUTS]; 16]; 2]);
    for start in job.outputs.clone().step_by(OUTPUTS) {
        let some = OUTPUTS.min(job.outputs.end - start);
        // Outputs beyond the last repeat it and are dropped.
        let mut rows = [start; OUTPUTS];
        for (n, row) in rows.iter_mut().enumerate() {
            *row = start + n.min(some - 1);
        }
        // SAFETY: weight rows are inside the job; split blocks of the piece's rows are inside
        // the pack, and the rows that fill up its last tile are inside its slack.
        unsafe {
            zero::<T>();
            weights.tiles(&rows, 0, &mut spare, &mut tiles[0]);
            for step in 0..steps {
                if step + 1 < steps {
                    weights.tiles(&rows, step + 1, &mut spare, &mut tiles[(step + 1) % 2]);
                }
                for (b, weights) in tiles[step % 2].0.iter().enumerate() {
                    tile::load::<7>(weights.as_ptr().cast(), tile::ROW);
                    for t in 0..T {
                        let row = (job.source.first + first + t * each) * PARTS;
                        let x = job.source.split.add(row * stride + (4 * step + b) * 32);
                        tile::load::<6>(x.cast(), 2 * stride);
                        multiply(2 * t + b % 2);
                    }
                }
            }
            for t in 0..T {
                store(t, &mut products);
                for row in (0..each).take_while(|r| t * each + r < count) {
                    let part = |p: usize| product(&products, 3 * row + p);
                    let sum = _mm512_add_ps(_mm512_add_ps(part(0), part(1)), part(2));
                    let mut y = [0f32; OUTPUTS];
                    _mm512_storeu_ps(y.as_mut_ptr(), sum);
                    job.put(first + t * each + row, start, &y[..some]);
                }
            }
        }
    }
}

/// Zeroes the accumulators of `T` tiles of rows.
///
/// # Safety
/// Tiles are configured.
#[inline(always)]
unsafe fn zero<const T: usize>() {
    // SAFETY: the caller vouches for the configuration.
    unsafe {
        tile::zero::<0>();
        tile::zero::<1>();
        if T > 1 {
            tile::zero::<2>();
            tile::zero::<3>();
        }
        if T > 2 {
            tile::zero::<4>();
            tile::zero::<5>();
        }
    }
}

/// Multiplies into accumulator `c`.
///
/// # Safety
/// Tiles are configured.
#[inline(always)]
unsafe fn multiply(c: usize) {
    // SAFETY: the caller vouches for the configuration.
    unsafe {
        match c {
            0 => tile::multiply::<0>(),
            1 => tile::multiply::<1>(),
            2 => tile::multiply::<2>(),
            3 => tile::multiply::<3>(),
            4 => tile::multiply::<4>(),
            _ => tile::multiply::<5>(),
        }
    }
}

/// Writes both accumulators of tile of rows `t`.
///
/// # Safety
/// Tiles are configured.
#[inline(always)]
unsafe fn store(t: usize, products: &mut Products) {
    let [even, odd] = &mut products.0;
    let (even, odd) = (even.as_mut_ptr().cast(), odd.as_mut_ptr().cast());
    // SAFETY: the caller vouches for the configuration; a tile is 16 rows of 16 floats.
    unsafe {
        match t {
            0 => {
                tile::store::<0>(even);
                tile::store::<1>(odd);
            }
            1 => {
                tile::store::<2>(even);
                tile::store::<3>(odd);
            }
            _ => {
                tile::store::<4>(even);
                tile::store::<5>(odd);
            }
        }
    }
}

/// Row `r` of even and odd blocks together.
///
/// # Safety
/// AVX-512 F.
#[inline(always)]
unsafe fn product(products: &Products, r: usize) -> __m512 {
    // SAFETY: rows are sixteen floats.
    unsafe {
        let even = _mm512_load_ps(products.0[0][r].as_ptr());
        _mm512_add_ps(even, _mm512_load_ps(products.0[1][r].as_ptr()))
    }
}
