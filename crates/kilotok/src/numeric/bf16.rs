//! bfloat16: the upper half of an f32.

/// Value of a bfloat16; exact.
pub fn decode(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Nearest bfloat16, ties to even; NaN stays NaN.
pub fn encode(value: f32) -> u16 {
    half::bf16::from_f32(value).to_bits()
}

/// Decodes little-endian bfloat16 bytes, two per value of `out`.
pub fn decode_row(data: &[u8], out: &mut [f32]) {
    for (value, bytes) in out.iter_mut().zip(data.chunks_exact(2)) {
        *value = decode(u16::from_le_bytes([bytes[0], bytes[1]]));
    }
}

/// Encodes values to little-endian bytes.
pub fn encode_row(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| encode(*v).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_pattern_survives_a_roundtrip() {
        for bits in 0..=u16::MAX {
            let value = decode(bits);
            if value.is_nan() {
                assert!(decode(encode(value)).is_nan());
            } else {
                assert_eq!(encode(value), bits);
            }
        }
    }

    #[test]
    fn ties_go_to_the_even_mantissa() {
        let half_step = |bits: u16| f32::from_bits((u32::from(bits) << 16) | 0x8000);
        assert_eq!(encode(half_step(0x3f80)), 0x3f80);
        assert_eq!(encode(half_step(0x3f81)), 0x3f82);
    }
}
