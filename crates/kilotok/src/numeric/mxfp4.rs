//! MXFP4 (OCP MX v1.0): blocks of 32 e2m1 elements that share one e8m0 scale.

/// Elements per scale.
pub const BLOCK: usize = 32;

/// Values of the 16 e2m1 codes; bit 3 is the sign.
pub const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Value of an e8m0 scale, `2^(code - 127)`; exact, with code 0 an f32 subnormal and 255 NaN.
pub const fn e8m0(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        _ => f32::from_bits((code as u32) << 23),
    }
}

/// Nearest e2m1 code, ties to the even code, saturating at 6; the sign of zero is kept.
pub fn encode_e2m1(value: f64) -> u8 {
    let magnitude = value.abs();
    // Upper ends of the rounding intervals; the flag says whether the end itself belongs to it.
    const ENDS: [(f64, bool); 7] = [
        (0.25, true),
        (0.75, false),
        (1.25, true),
        (1.75, false),
        (2.5, true),
        (3.5, false),
        (5.0, true),
    ];
    let code = ENDS
        .iter()
        .position(|(end, inclusive)| magnitude < *end || (*inclusive && magnitude == *end))
        .unwrap_or(ENDS.len()) as u8;
    code | if value.is_sign_negative() { 8 } else { 0 }
}

/// Scale code of a block: `floor(log2(amax)) - 2 + 127`, clamped to `0..=254`; 255 where an
/// element is NaN.
pub fn encode_scale(block: &[f32]) -> u8 {
    if block.iter().any(|v| v.is_nan()) {
        return 255;
    }
    let amax = block.iter().fold(0f32, |a, v| a.max(v.abs()));
    let exponent = (amax.to_bits() >> 23) as i32; // biased by 127; 0 for subnormals
    (exponent - 2).clamp(0, 254) as u8
}

/// Codes at a scale: nearest, ties to even, saturating at 6; the sign of zero is kept.
///
/// In f32, which the compiler turns into vector code: scaling by a power of two is exact but for
/// results so small that they round to zero. A NaN gives code 0 or 8; its block's scale is 255.
pub fn encode_block(block: &[f32], scale: u8) -> [u8; BLOCK] {
    let factor = if scale >= 254 { f32::from_bits(0x0040_0000) } else { e8m0(254 - scale) };
    let mut codes = [0; BLOCK];
    for (code, value) in codes.iter_mut().zip(block) {
        let m = value.abs() * factor;
        let magnitude = u8::from(m > 0.25)
            + u8::from(m >= 0.75)
            + u8::from(m > 1.25)
            + u8::from(m >= 1.75)
            + u8::from(m > 2.5)
            + u8::from(m >= 3.5)
            + u8::from(m > 5.0);
        *code = magnitude | (u8::from(value.is_sign_negative()) << 3);
    }
    codes
}

/// Encodes a row (length a multiple of 32) to `(nibbles, scales)`, low nibble first.
pub fn encode_row(values: &[f32]) -> (Vec<u8>, Vec<u8>) {
    let mut nibbles = Vec::with_capacity(values.len() / 2);
    let mut scales = Vec::with_capacity(values.len() / BLOCK);
    for block in values.chunks_exact(BLOCK) {
        let scale = encode_scale(block);
        let codes = encode_block(block, scale);
        nibbles.extend(codes.chunks_exact(2).map(|pair| pair[0] | (pair[1] << 4)));
        scales.push(scale);
    }
    (nibbles, scales)
}

/// Decodes a row: `out.len() / 2` bytes of nibbles and `out.len() / 32` scales.
pub fn decode_row(nibbles: &[u8], scales: &[u8], out: &mut [f32]) {
    for ((block, bytes), scale) in
        out.chunks_exact_mut(BLOCK).zip(nibbles.chunks_exact(BLOCK / 2)).zip(scales)
    {
        let scale = e8m0(*scale);
        for (pair, byte) in block.chunks_exact_mut(2).zip(bytes) {
            pair[0] = E2M1[usize::from(byte & 15)] * scale;
            pair[1] = E2M1[usize::from(byte >> 4)] * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_bytes_at_the_extreme_scales() {
        for scale in [0u8, 1, 127, 254, 255] {
            for byte in 0..=255u8 {
                let mut out = [0f32; BLOCK];
                decode_row(&[byte; 16], &[scale], &mut out);
                let expected = |code: u8| {
                    let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
                    let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
                    (sign * magnitude * 2f64.powi(i32::from(scale) - 127)) as f32
                };
                for (i, value) in out.iter().enumerate() {
                    let code = if i % 2 == 0 { byte & 15 } else { byte >> 4 };
                    if scale == 255 {
                        assert!(value.is_nan());
                    } else {
                        assert_eq!(value.to_bits(), expected(code).to_bits(), "{byte} {scale}");
                    }
                }
            }
        }
    }

    #[test]
    fn midpoints_go_to_the_even_code() {
        for code in 0..7u8 {
            let (low, high) =
                (f64::from(E2M1[usize::from(code)]), f64::from(E2M1[usize::from(code) + 1]));
            let middle = f64::midpoint(low, high);
            assert_eq!(encode_e2m1(middle), if code % 2 == 0 { code } else { code + 1 });
            assert_eq!(encode_e2m1(middle - 1e-9), code);
            assert_eq!(encode_e2m1(-middle - 1e-9), 8 | (code + 1));
        }
        assert_eq!(encode_e2m1(1e30), 7);
    }

    #[test]
    fn scale_is_the_exponent_of_the_largest_element() {
        let scale = |amax: f32| encode_scale(&[0.0, -amax]);
        assert_eq!(scale(0.0), 0);
        assert_eq!(scale(4.0), 127);
        assert_eq!(scale(7.99), 127);
        assert_eq!(scale(8.0), 128);
        assert_eq!(scale(f32::MIN_POSITIVE), 0);
        assert_eq!(scale(f32::MAX), 252);
        assert_eq!(encode_scale(&[1.0, f32::NAN]), 255);
    }

    proptest! {
        #[test]
        fn blocks_are_encoded_by_the_definition(
            bits in prop::collection::vec(any::<u32>(), BLOCK),
            scale in 0u8..=254,
        ) {
            let block: Vec<f32> = bits
                .iter()
                .map(|bits| f32::from_bits(*bits))
                .map(|v| if v.is_nan() { 0.0 } else { v })
                .collect();
            let factor = 2f64.powi(127 - i32::from(scale));
            for (code, value) in encode_block(&block, scale).iter().zip(&block) {
                prop_assert_eq!(*code, encode_e2m1(f64::from(*value) * factor));
            }
        }

        #[test]
        fn encoding_is_idempotent_and_close(values in prop::collection::vec(-1e4f32..1e4, 64)) {
            let (nibbles, scales) = encode_row(&values);
            let mut decoded = vec![0.0; 64];
            decode_row(&nibbles, &scales, &mut decoded);
            for (block, scale) in scales.iter().enumerate() {
                let step = e8m0(*scale);
                for i in block * BLOCK..(block + 1) * BLOCK {
                    // Half the widest step inside the range; saturation adds up to 2 steps.
                    let bound = if values[i].abs() > 6.0 * step { 2.0 } else { 1.0 };
                    prop_assert!((values[i] - decoded[i]).abs() <= bound * step);
                }
            }
            prop_assert_eq!(encode_row(&decoded).0.len(), nibbles.len());
            let mut again = vec![0.0; 64];
            let (n, s) = encode_row(&decoded);
            decode_row(&n, &s, &mut again);
            prop_assert_eq!(again, decoded);
        }
    }
}
