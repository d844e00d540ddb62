//! Packed bytes read back the way a warp reads them.

use super::fp8_step::split;
use super::{StepFormat, StepShape};
use crate::numeric::{bf16, fp8, mxfp4};

/// What `format/mxfp4.cuh` computes: 8 codes as bf16 bits, code value * 2^-126.
pub(super) fn device_decode(word: u32) -> [u16; 8] {
    let registers = [
        (word & 0x8180_8180) | ((word >> 8) & 0x0040_0040),
        (word << 2) & 0x81C0_81C0,
        (word << 6) & 0x81C0_81C0,
        word.rotate_right(4) & 0x81C0_81C0,
    ];
    std::array::from_fn(|i| (registers[i / 2] >> (16 * (i % 2))) as u16)
}

/// The e2m1 code whose value a bf16 holds, up to the factor 2^-126.
pub(super) fn code_of(bf16: u16) -> u8 {
    let value = f64::from(f32::from_bits(u32::from(bf16) << 16)) * 2f64.powi(126);
    let code = mxfp4::encode_e2m1(value);
    assert_eq!(value, f64::from(mxfp4::E2M1[usize::from(code)]));
    code
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// PTX ISA, mma.m16n8k16: register a(r) of lane l is row l / 4 or that + 8, elements 2 (l % 4) or
/// that + 8 on; K is assigned so that the eight elements of a lane in 32 columns are consecutive.
fn places(lane: usize, product: usize) -> [(usize, usize); 8] {
    std::array::from_fn(|i| {
        let (g, t, r) = (lane / 4, lane % 4, i / 2);
        let in_block = 8 * t + 4 * (product % 2) + 2 * (r / 2) + i % 2;
        (g + 8 * (r % 2), product / 2 * 32 + in_block)
    })
}

/// Values `[tiles * 32][steps * cols]` read back the way a warp reads them.
pub(crate) fn unpack(shape: &StepShape, packed: &[u8]) -> Vec<Vec<f32>> {
    let cols = shape.format.cols();
    let mut values = vec![vec![f32::NAN; shape.steps * cols]; shape.tiles * 32];
    for (at, step) in packed.chunks_exact(shape.format.bytes()).enumerate() {
        let (row0, col0) = (at / shape.steps * 32, at % shape.steps * cols);
        let mut put = |half: usize, (row, col): (usize, usize), value: f32| {
            let place = &mut values[row0 + 16 * half + row][col0 + col];
            assert!(place.is_nan(), "written twice");
            *place = value;
        };
        for (half, lane) in (0..64).map(|i| (i / 32, i % 32)) {
            for product in 0..cols / 16 {
                let places = places(lane, product);
                match shape.format {
                    StepFormat::Bf16 => {
                        let start = 2048 * half + 512 * product + 16 * lane;
                        for (i, place) in places.into_iter().enumerate() {
                            let bits = word(step, start + i / 2 * 4) >> (16 * (i % 2));
                            put(half, place, bf16::decode(bits as u16));
                        }
                    }
                    StepFormat::Fp8 => {
                        let start = 2048 * half + 512 * (product / 2) + 16 * lane;
                        for j in 0..2 {
                            let bits = word(step, start + 8 * (product % 2) + 4 * j);
                            for h in 0..2 {
                                let (low, high) = split((bits >> (16 * h)) as u16);
                                for (code, register) in [(low, j), (high, j + 2)] {
                                    let place = places[2 * register + h];
                                    let at = 4096 + 4 * (16 * half + place.0);
                                    let factor = f32::from_bits(word(step, at));
                                    put(half, place, fp8::decode(code) * factor);
                                }
                            }
                        }
                    }
                    StepFormat::Mxfp4 => {
                        let bits = word(step, 512 * half + 16 * lane + 4 * product);
                        for (place, bits) in places.into_iter().zip(device_decode(bits)) {
                            let (g, block) = (place.0 % 8, place.1 / 32);
                            let at = 1024 + 8 * g + 4 * block + 2 * half + place.0 / 8;
                            let value = mxfp4::E2M1[usize::from(code_of(bits))];
                            put(half, place, value * mxfp4::e8m0(step[at]));
                        }
                    }
                }
            }
        }
    }
    values
}
