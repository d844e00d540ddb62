//! Matrix times rows through tiles: sixteen outputs and up to fifteen rows at a time.
#![allow(clippy::wildcard_imports, reason = "the names are the architecture's")]
#![allow(unsafe_code, reason = "CPU instructions behind runtime detection")]

use std::arch::x86_64::*;
use std::cell::UnsafeCell;
use std::ops::Range;

use super::super::super::simd::Avx512;
use super::super::kernel::{LinearJob, Store, Weights, linear};
use super::super::pack::{PARTS, TILE_ROWS, TILE_VALUES};
use super::decode::{BLOCK, Decoded, STEP, Tiled, Tiles};
use super::tile::{self, Config};

/// Tiles of rows that share decoded weights.
const ROW_TILES: usize = 3;
/// Outputs of a tile.
const OUTPUTS: usize = 16;

/// Products of one tile of rows: even and odd blocks, `[outputs, 3 * rows]`.
#[repr(C, align(64))]
struct Products([[[f32; 16]; OUTPUTS]; 2]);

/// Sums of a tile of rows, `[outputs, 3 * rows]`.
#[repr(C, align(64))]
struct Sums([[f32; 16]; OUTPUTS]);

/// What a thread works in: zeroed once, since most calls are too short to do it anew.
struct Buffers {
    decoded: [Decoded; 2],
    products: Products,
    sums: [Sums; ROW_TILES],
}

thread_local! {
    static BUFFERS: UnsafeCell<Buffers> = const {
        UnsafeCell::new(Buffers {
            decoded: [const { Decoded([[0; STEP]; 16]) }; 2],
            products: Products([[[0.0; 16]; OUTPUTS]; 2]),
            sums: [const { Sums([[0.0; 16]; OUTPUTS]) }; ROW_TILES],
        })
    };
}

/// See `Kernels::linear`.
///
/// # Safety
/// As for [`linear`]; AMX with permission, AVX-512.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(crate) unsafe fn linear_amx(job: &LinearJob) {
    // SAFETY: passed on from the caller.
    unsafe {
        match &job.weights {
            Weights::F32(_) => linear::<Avx512>(job),
            Weights::Bf16(d) => rows(d, job),
            Weights::Fp8(d) => rows(d, job),
            Weights::Mxfp4(d) => rows(d, job),
        }
    }
}

/// Cuts the job's rows into pieces for which accumulators suffice.
///
/// # Safety
/// As for [`linear_amx`].
#[inline(always)]
unsafe fn rows<D: Tiled>(weights: &D, job: &LinearJob) {
    let mut first = 0;
    if job.source.count == 0 {
        return; // tiles without columns cannot be configured
    }
    // SAFETY: passed on from the caller.
    unsafe {
        Config::new(PARTS * job.source.count.min(TILE_ROWS)).load();
        while first < job.source.count {
            let count = (job.source.count - first).min(TILE_ROWS * ROW_TILES);
            let piece = first..first + count;
            match count.div_ceil(TILE_ROWS) {
                1 => outputs::<D, 1>(weights, job, piece),
                2 => outputs::<D, 2>(weights, job, piece),
                _ => outputs::<D, 3>(weights, job, piece),
            }
            first += count;
        }
        tile::release();
    }
}

/// # Safety
/// As for [`linear_amx`]; tiles are configured.
#[inline(always)]
unsafe fn outputs<D: Tiled, const T: usize>(weights: &D, job: &LinearJob, piece: Range<usize>) {
    let steps = weights.cols().div_ceil(STEP);
    let blocks = weights.cols().div_ceil(BLOCK);
    let stride = job.source.split_stride;
    // Two steps in flight: tiles are loaded when their stores have long left for the cache.
    // SAFETY: this thread's, and nothing below comes back here.
    let Buffers { decoded, products, sums } = unsafe { &mut *BUFFERS.with(UnsafeCell::get) };
    let sums = &mut sums[..T];
    for start in job.outputs.clone().step_by(OUTPUTS) {
        let some = OUTPUTS.min(job.outputs.end - start);
        // Outputs beyond the last repeat it and are dropped.
        let mut rows = [start; OUTPUTS];
        for (n, row) in rows.iter_mut().enumerate() {
            *row = start + n.min(some - 1);
        }
        // SAFETY: weight rows are inside the job, tiles of the piece's rows inside the pack.
        unsafe {
            let factors = weights.factors(&rows);
            zero::<T>();
            let [now, next] = &mut *decoded;
            let (mut now, mut next) = (now, next);
            let mut tiles = weights.step(&rows, 0, now);
            for step in 0..steps {
                let mut following = tiles;
                if step + 1 < steps {
                    following = weights.step(&rows, step + 1, next);
                }
                let x = job.source.split.add(step * STEP / 2 * stride);
                let x = x.add(piece.start / TILE_ROWS * TILE_VALUES);
                let x = Pairs { x, stride };
                let left = blocks - 4 * step;
                for b in 0..left.min(4) {
                    // Beyond the job's last too: another thread's next rows leave memory early.
                    weights.prefetch(start + OUTPUTS, 4 * step + b);
                    if b % 2 == 0 {
                        block::<T, 0>(tiles, x, b);
                    } else {
                        block::<T, 1>(tiles, x, b);
                    }
                }
                if D::SCALED {
                    for (t, sums) in sums.iter_mut().enumerate() {
                        store(t, products);
                        for (n, sum) in sums.0.iter_mut().enumerate() {
                            let factor = _mm512_set1_ps(weights.factor(factors[n], step));
                            let product = product(products, n);
                            let new = if step == 0 {
                                _mm512_mul_ps(product, factor)
                            } else {
                                _mm512_fmadd_ps(product, factor, _mm512_load_ps(sum.as_ptr()))
                            };
                            _mm512_store_ps(sum.as_mut_ptr(), new);
                        }
                    }
                    if step + 1 < steps {
                        zero::<T>();
                    }
                }
                tiles = following;
                std::mem::swap(&mut now, &mut next);
            }
            for (t, sums) in sums.iter_mut().enumerate() {
                let first = piece.start + t * TILE_ROWS;
                let some_rows = TILE_ROWS.min(piece.end - first);
                if !D::SCALED {
                    store(t, products);
                    if some_rows <= 2 {
                        for r in 0..some_rows {
                            let [even, odd] = parts_of(products, r);
                            let parts = [0, 1, 2].map(|i| _mm512_add_ps(even[i], odd[i]));
                            put(job, first + r, start, some, parts);
                        }
                        continue;
                    }
                    for (n, sum) in sums.0.iter_mut().enumerate() {
                        _mm512_store_ps(sum.as_mut_ptr(), product(products, n));
                    }
                }
                for r in 0..some_rows {
                    put(job, first + r, start, some, parts(&sums.0, r));
                }
            }
        }
    }
}

/// Pairs of columns of the rows of all tiles, `stride` values apart.
#[derive(Clone, Copy)]
struct Pairs {
    x: *const u32,
    stride: usize,
}

/// Multiplies block `b` of a step with `T` tiles of rows into their even (`ODD` is 0) or odd
/// accumulators.
///
/// # Safety
/// Tiles are configured; the block is inside the tiles and the pairs.
#[inline(always)]
unsafe fn block<const T: usize, const ODD: usize>(tiles: Tiles, pairs: Pairs, b: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        tile::load::<7>(tiles.base.add(b * tile::ROW), tiles.stride);
        let x = pairs.x.add(b * BLOCK / 2 * pairs.stride);
        for t in 0..T {
            tile::load::<6>(x.add(t * TILE_VALUES).cast(), 4 * pairs.stride);
            multiply(2 * t + ODD);
        }
    }
}

/// [`parts`] of even and odd blocks.
///
/// # Safety
/// AVX-512 F.
#[inline(always)]
unsafe fn parts_of(products: &Products, r: usize) -> [[__m512; PARTS]; 2] {
    // SAFETY: the caller vouches for the features.
    unsafe { [parts(&products.0[0], r), parts(&products.0[1], r)] }
}

/// The three parts of row `r` of a tile, each for sixteen outputs.
///
/// # Safety
/// AVX-512 F.
#[inline(always)]
unsafe fn parts(sums: &[[f32; 16]; OUTPUTS], r: usize) -> [__m512; PARTS] {
    assert!(r < TILE_ROWS, "a tile has five rows");
    // SAFETY: four floats from a row's first part on are inside the tile's rows.
    unsafe {
        let part = |n: usize| _mm_loadu_ps(sums[n].as_ptr().add(PARTS * r));
        // Outputs `n`, `4 + n`, `8 + n` and `12 + n`, parts inside.
        let quarter = |n: usize| {
            let x = _mm512_castps128_ps512(part(n));
            let x = _mm512_insertf32x4::<1>(x, part(4 + n));
            let x = _mm512_insertf32x4::<2>(x, part(8 + n));
            _mm512_insertf32x4::<3>(x, part(12 + n))
        };
        let [a, b, c, d] = [quarter(0), quarter(1), quarter(2), quarter(3)];
        let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
        let third = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
        [
            _mm512_shuffle_ps::<0x44>(ab, cd),
            _mm512_shuffle_ps::<0xee>(ab, cd),
            _mm512_shuffle_ps::<0x44>(third.0, third.1),
        ]
    }
}

/// Adds the parts of job row `r` in order and stores the first `some` outputs from `start` on.
///
/// # Safety
/// As for [`LinearJob::put`]; AVX-512 F.
#[inline(always)]
unsafe fn put(job: &LinearJob, r: usize, start: usize, some: usize, parts: [__m512; PARTS]) {
    let mask = ((1u32 << some) - 1) as u16;
    // SAFETY: the caller vouches for the place; masked lanes are not touched.
    unsafe {
        let values = _mm512_add_ps(_mm512_add_ps(parts[0], parts[1]), parts[2]);
        let to = job.place(r, start);
        let values = match job.store {
            Store::Set => values,
            Store::Add => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), values),
        };
        _mm512_mask_storeu_ps(to, mask, values);
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

/// Output `n` of even and odd blocks together.
///
/// # Safety
/// AVX-512 F.
#[inline(always)]
unsafe fn product(products: &Products, n: usize) -> __m512 {
    // SAFETY: rows are sixteen floats.
    unsafe {
        let even = _mm512_load_ps(products.0[0][n].as_ptr());
        _mm512_add_ps(even, _mm512_load_ps(products.0[1][n].as_ptr()))
    }
}
