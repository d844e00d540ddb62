//! UTF-8 decoding of a byte stream that arrives in arbitrary pieces.

const MAX_PARTIAL: usize = 3;

/// Incremental form of [`String::from_utf8_lossy`].
///
/// The concatenation of everything written by `push` and `finish` equals the lossy decoding of the
/// concatenated input, however it is cut; between calls at most three bytes (an unfinished
/// character) are held back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Utf8Decoder {
    partial: [u8; MAX_PARTIAL],
    partial_len: usize,
}

impl Utf8Decoder {
    /// Appends the characters completed by `bytes` to `out`; invalid sequences become U+FFFD.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut String) {
        if self.partial_len == 0 {
            self.decode(bytes, out);
        } else {
            let mut joined = Vec::with_capacity(self.partial_len + bytes.len());
            joined.extend_from_slice(&self.partial[..self.partial_len]);
            joined.extend_from_slice(bytes);
            self.partial_len = 0;
            self.decode(&joined, out);
        }
    }

    /// Ends the stream: a truncated character becomes one U+FFFD.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if self.partial_len > 0 {
            out.push(char::REPLACEMENT_CHARACTER);
            self.partial_len = 0;
        }
    }

    fn decode(&mut self, mut bytes: &[u8], out: &mut String) {
        loop {
            match std::str::from_utf8(bytes) {
                Ok(text) => {
                    out.push_str(text);
                    return;
                }
                Err(error) => {
                    let (valid, rest) = bytes.split_at(error.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(valid));
                    let Some(invalid) = error.error_len() else {
                        self.partial[..rest.len()].copy_from_slice(rest);
                        self.partial_len = rest.len();
                        return;
                    };
                    out.push(char::REPLACEMENT_CHARACTER);
                    bytes = &rest[invalid..];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes biased towards lead and continuation bytes, where cutting matters.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            any::<u8>(),
            0x80u8..0xC0,
            Just(0xC3),
            Just(0xE2),
            Just(0xED),
            Just(0xF0),
            Just(0xF4)
        ];
        let text = any::<char>().prop_map(|c| c.to_string().into_bytes());
        let piece = prop_oneof![byte.prop_map(|b| vec![b]), text];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn equals_lossy_decoding_at_any_cut(input in bytes(), cuts in prop::collection::vec(0usize..7, 1..50)) {
            let mut decoder = Utf8Decoder::default();
            let mut out = String::new();
            let mut rest = input.as_slice();
            for cut in cuts.iter().cycle().take(200) {
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                decoder.push(piece, &mut out);
                rest = tail;
            }
            decoder.push(rest, &mut out);
            decoder.finish(&mut out);
            prop_assert_eq!(out, String::from_utf8_lossy(&input).into_owned());
        }
    }

    #[test]
    fn holds_back_an_unfinished_character_only() {
        let mut decoder = Utf8Decoder::default();
        let mut out = String::new();
        decoder.push(&[b'a', 0xF0, 0x9F, 0x99], &mut out);
        assert_eq!(out, "a");
        decoder.push(&[0x82], &mut out);
        assert_eq!(out, "a🙂");
        decoder.push(&[0xE2, 0x82], &mut out);
        decoder.finish(&mut out);
        assert_eq!(out, "a🙂\u{FFFD}");
    }
}
