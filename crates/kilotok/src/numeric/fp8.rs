//! FP8 e4m3 (the "fn" variant): no infinities, `0x7f` and `0xff` are NaN, largest value 448.

/// Side of the square blocks that share one f32 factor.
pub const BLOCK: usize = 128;

/// Largest finite value.
pub const MAX: f32 = 448.0;

/// Values of all 256 codes.
pub static DECODE: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = decode(code as u8);
        code += 1;
    }
    table
};

/// Value of one code; exact.
pub const fn decode(code: u8) -> f32 {
    let (exponent, mantissa) = ((code >> 3) & 15, (code & 7) as u32);
    let sign = ((code >> 7) as u32) << 31;
    let magnitude = if code & 0x7f == 0x7f {
        f32::NAN.to_bits()
    } else if exponent == 0 {
        (mantissa as f32 / 512.0).to_bits()
    } else {
        ((exponent as u32 + 120) << 23) | (mantissa << 20)
    };
    f32::from_bits(sign | magnitude)
}

/// Nearest code, ties to even; saturates at 448; NaN gives `0x7f`.
pub fn encode(value: f32) -> u8 {
    if value.is_nan() {
        return 0x7f;
    }
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = f64::from(value.abs().min(MAX));
    // Spacing of the codes around the value: 2^-9 for subnormals, else three mantissa bits.
    let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(-6);
    let step = 2f64.powi(exponent - 3);
    let steps = (magnitude / step).round_ties_even() as u8; // 0..=16
    let biased = (exponent + 6) as u8; // 0 for subnormals and for exponent -6
    // `steps` carries the implicit bit (8) into the exponent field, 16 carries once more.
    sign | (biased * 8 + steps)
}

/// Factor of a block: the smallest power of two that keeps `amax` within [`MAX`]; 1 for zeros.
/// Values that have such a factor already are encoded without loss.
pub fn block_scale(amax: f32) -> f32 {
    if amax == 0.0 || !amax.is_finite() {
        return 1.0;
    }
    // 448 is 1.75 x 2^8, so the exponent of amax less 8 is enough, or one more.
    let amax = f64::from(amax);
    let exponent = (amax.to_bits() >> 52) as i32 - 1023 - 8;
    let scale = 2f64.powi(exponent);
    let scale = if amax > scale * f64::from(MAX) { scale * 2.0 } else { scale };
    // The smallest f32 normal: e4m3 has nothing below 2^-9 of it that a weight could need.
    (scale as f32).max(f32::MIN_POSITIVE)
}

/// Scale index of element `[row, col]` in the grid of [`crate::Format::Fp8`].
pub fn scale_index(row: usize, col: usize, cols: usize, rows_per_chunk: usize) -> usize {
    scale_row(row, rows_per_chunk) * cols.div_ceil(BLOCK) + col / BLOCK
}

/// Row of the scale grid that covers `row`.
pub fn scale_row(row: usize, rows_per_chunk: usize) -> usize {
    (row / rows_per_chunk) * rows_per_chunk.div_ceil(BLOCK) + (row % rows_per_chunk) / BLOCK
}

/// Number of scales of a `[rows, cols]` matrix.
pub fn scale_count(rows: usize, cols: usize, rows_per_chunk: usize) -> usize {
    if rows == 0 || rows_per_chunk == 0 {
        return 0;
    }
    (scale_row(rows - 1, rows_per_chunk) + 1) * cols.div_ceil(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        for (code, value) in [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x07, 7.0 * 2f32.powi(-9)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x3c, 1.5),
            (0x7e, 448.0),
            (0xb8, -1.0),
        ] {
            assert_eq!(decode(code), value, "{code:#x}");
        }
        assert!(decode(0x7f).is_nan() && decode(0xff).is_nan());
        assert!(decode(0x80).is_sign_negative());
    }

    #[test]
    fn encoding_inverts_decoding() {
        for code in 0..=255u8 {
            if code & 0x7f != 0x7f {
                assert_eq!(encode(decode(code)), code, "{code:#x}");
            }
        }
        assert_eq!(encode(f32::NAN), 0x7f);
        assert_eq!(encode(f32::INFINITY), 0x7e);
        assert_eq!(encode(-1e9), 0xfe);
    }

    #[test]
    fn midpoints_go_to_the_even_code() {
        for code in 0..0x7eu8 {
            let (low, high) = (decode(code), decode(code + 1));
            let even = if code % 2 == 0 { code } else { code + 1 };
            assert_eq!(encode(f32::midpoint(low, high)), even, "{code:#x}");
            assert_eq!(encode(low + (high - low) * 0.49), code);
            assert_eq!(encode(low + (high - low) * 0.51), code + 1);
        }
    }

    #[test]
    fn chunked_grid_starts_anew_in_every_chunk() {
        // MiMo-V2.5-Pro: 8 chunks of 3392 rows, 27 scale rows each (mimo_spec 3.2).
        assert_eq!(scale_count(27136, 6144, 3392), 216 * 48);
        assert_eq!(scale_row(3391, 3392), 26);
        assert_eq!(scale_row(3392, 3392), 27);
    }
}
