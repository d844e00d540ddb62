//! The packed bytes hold every code and scale once, where the GPU's decoder finds it.

use proptest::prelude::*;

use super::{BITS, Mxfp4Matrix, STEP_BYTES, pack_rows, pack_up, position, spread};

/// What `format/mxfp4.cuh` computes: 8 codes as bf16 bits, code value * 2^-126.
fn device_decode(word: u32) -> [u16; 8] {
    let registers = [
        (word & 0x8180_8180) | ((word >> 8) & 0x0040_0040),
        (word << 2) & 0x81C0_81C0,
        (word << 6) & 0x81C0_81C0,
        word.rotate_right(4) & 0x81C0_81C0,
    ];
    std::array::from_fn(|i| (registers[i / 2] >> (16 * (i % 2))) as u16)
}

/// The e2m1 code whose value a bf16 holds, up to the factor 2^-126.
fn code_of(bf16: u16) -> u8 {
    let value = f64::from(f32::from_bits(u32::from(bf16) << 16)) * 2f64.powi(126);
    let code = crate::numeric::mxfp4::encode_e2m1(value);
    let exact = f64::from(crate::numeric::mxfp4::E2M1[usize::from(code)]);
    assert_eq!(value, exact);
    code
}

/// Codes `[rows, cols]` and scales `[rows, cols / 32]`, read back the way a warp reads them.
fn unpack(steps: &[u8], rows: usize, cols: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut codes, mut scales) = (vec![99; rows * cols], vec![0; rows * cols / 32]);
    for (at, step) in steps.chunks_exact(STEP_BYTES).enumerate() {
        let (row0, col0) = (at / (cols / 64) * 32, at % (cols / 64) * 64);
        for half in 0..2 {
            for lane in 0..32 {
                let (g, t) = (lane / 4, lane % 4);
                for product in 0..4 {
                    let start = 512 * half + 16 * lane + 4 * product;
                    let word = u32::from_le_bytes(step[start..start + 4].try_into().unwrap());
                    for (i, bf16) in device_decode(word).into_iter().enumerate() {
                        // PTX ISA: register a(i / 2) of m16n8k16 is row g or g + 8, k 2t or 2t + 8 on; the eight k of
                        // a lane in a K block are consecutive in memory.
                        let row = row0 + 16 * half + g + 8 * (i / 2 % 2);
                        let k = product / 2 * 32 + 8 * t + product % 2 * 4 + i / 4 * 2 + i % 2;
                        codes[row * cols + col0 + k] = code_of(bf16);
                    }
                }
                for block in 0..2 {
                    for tile_row in [0, 8] {
                        let row = row0 + 16 * half + g + tile_row;
                        let code = step[1024 + 8 * g + 4 * block + 2 * half + tile_row / 8];
                        scales[row * (cols / 32) + col0 / 32 + block] = code;
                    }
                }
            }
        }
    }
    (codes, scales)
}

fn codes(nibbles: &[u8]) -> Vec<u8> {
    nibbles.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect()
}

/// Random bytes of a matrix.
fn bytes(rows: usize, cols: usize) -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    (
        proptest::collection::vec(any::<u8>(), rows * cols / 2),
        proptest::collection::vec(0..255u8, rows * cols / 32),
    )
}

#[test]
fn the_places_of_a_word_are_all_its_bits() {
    let used = BITS.iter().flatten().fold(0u32, |seen, place| {
        assert_eq!(seen >> place & 1, 0);
        seen | 1 << place
    });
    assert_eq!(used, u32::MAX);
}

#[test]
fn every_code_decodes_to_itself_in_every_place() {
    for (i, places) in BITS.iter().enumerate() {
        for code in 0..16 {
            let decoded = device_decode(spread(code, places));
            assert_eq!(u32::from(code_of(decoded[i])), code);
        }
    }
}

#[test]
fn the_words_of_a_step_hold_every_element_once() {
    let mut seen = [false; 2048];
    for half in 0..2 {
        for lane in 0..32 {
            for product in 0..4 {
                for i in 0..8 {
                    let (row, col) = position(half, lane, product, i);
                    assert!(!std::mem::replace(&mut seen[row * 64 + col], true));
                }
            }
        }
    }
    assert!(seen.iter().all(|s| *s));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn packed_rows_decode_to_the_source(
        (shape, matrix) in (1..3usize, 1..4usize)
            .prop_map(|(r, c)| (32 * r, 64 * c))
            .prop_flat_map(|shape| (Just(shape), bytes(shape.0, shape.1)))
    ) {
        let (rows, cols) = shape;
        let (nibbles, scales) = &matrix;
        let steps = pack_rows(&Mxfp4Matrix { nibbles, scales, rows, cols }).unwrap();
        prop_assert_eq!(steps.len(), rows * cols / 2048 * STEP_BYTES);
        prop_assert_eq!(unpack(&steps, rows, cols), (codes(nibbles), scales.clone()));
    }

    #[test]
    fn packed_up_alternates_sixteen_rows_of_gate_and_of_up(
        (gate, up) in (bytes(32, 128), bytes(32, 128))
    ) {
        let (rows, cols) = (32, 128);
        let [gate_matrix, up_matrix] =
            [&gate, &up].map(|(nibbles, scales)| Mxfp4Matrix { nibbles, scales, rows, cols });
        let steps = pack_up(&gate_matrix, &up_matrix).unwrap();
        let (got, got_scales) = unpack(&steps, 64, cols);
        for row in 0..64 {
            let (nibbles, scales) = if row % 32 < 16 { &gate } else { &up };
            let from = row / 32 * 16 + row % 16;
            prop_assert_eq!(&got[row * cols..][..cols], &codes(nibbles)[from * cols..][..cols]);
            prop_assert_eq!(&got_scales[row * 4..][..4], &scales[from * 4..][..4]);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let matrix =
        |rows: usize, cols: usize, scale| (vec![0; rows * cols / 2], vec![scale; rows * cols / 32]);
    let reason = |rows, cols, scale, cut: usize| {
        let (nibbles, scales) = matrix(rows, cols, scale);
        let nibbles = &nibbles[cut..];
        pack_rows(&Mxfp4Matrix { nibbles, scales: &scales, rows, cols }).unwrap_err().to_string()
    };
    assert!(reason(16, 64, 120, 0).contains("multiple of 32"));
    assert!(reason(32, 96, 120, 0).contains("of 64"));
    assert!(reason(32, 64, 255, 0).contains("row 0 is NaN"));
    assert!(reason(32, 64, 120, 1).contains("1023 bytes of codes"));
    let (nibbles, scales) = matrix(32, 64, 120);
    let gate = Mxfp4Matrix { nibbles: &nibbles, scales: &scales, rows: 32, cols: 64 };
    let up = Mxfp4Matrix { nibbles: &nibbles, scales: &scales, rows: 16, cols: 128 };
    assert!(pack_up(&gate, &up).unwrap_err().to_string().contains("shape of gate"));
}
