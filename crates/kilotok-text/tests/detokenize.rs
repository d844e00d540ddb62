//! Laws of incremental detokenising.
#![allow(clippy::unwrap_used, reason = "in tests a panic is a failure")]

mod tiny;

use std::sync::Arc;

use kilotok_text::{Detokenizer, EncodeOptions, Tokenizer};
use proptest::prelude::*;
use tiny::{byte_fallback_json, byte_level_json};

fn byte_level() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_json(byte_level_json().to_string().as_bytes()).unwrap())
}

/// Pieces of the stream in groups, with the tail released at the end.
fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip: bool) -> Vec<String> {
    let mut stream = Detokenizer::new(Arc::clone(tokenizer), skip);
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Any ids at all, unknown ones included.
    #[test]
    fn pieces_join_to_the_whole(ids in prop::collection::vec(0u32..280, 0..60), skip in any::<bool>()) {
        let tokenizer = byte_level();
        let pieces = stream(&tokenizer, &ids, skip);
        prop_assert_eq!(pieces.concat(), tokenizer.decode(&ids, skip).unwrap());
    }

    /// Of valid text, every prefix shown is a prefix of the text, at most three bytes behind.
    #[test]
    fn no_piece_shows_part_of_a_character(text in "[a-z é漢🙂\u{10FFFF}]{0,30}") {
        let tokenizer = byte_level();
        let ids = tokenizer.encode(&text, EncodeOptions::default()).unwrap();
        let mut shown = String::new();
        let mut bytes = 0;
        let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer), false);
        for id in ids {
            shown.push_str(&detokenizer.push(id).unwrap());
            bytes += tokenizer.token_bytes(id).unwrap().len();
            prop_assert!(text.starts_with(&shown));
            prop_assert!(shown.len() <= bytes && bytes - shown.len() <= 3);
        }
        prop_assert_eq!(detokenizer.finish().unwrap(), "");
        prop_assert_eq!(shown, text);
    }

    /// SentencePiece-style decoders work on windows; text they can express comes out the same.
    #[test]
    fn windowed_decoding_of_text(text in "[ab.é漢🙂 ]{0,30}") {
        let json = byte_fallback_json().to_string();
        let tokenizer = Arc::new(Tokenizer::from_json(json.as_bytes()).unwrap());
        let ids = tokenizer.encode(&text.replace(' ', "▁"), EncodeOptions::default()).unwrap();
        let pieces = stream(&tokenizer, &ids, false);
        prop_assert!(!pieces.concat().contains(char::REPLACEMENT_CHARACTER));
        prop_assert_eq!(pieces.concat(), tokenizer.decode(&ids, false).unwrap());
    }

    #[test]
    fn windowed_decoding_of_noise_neither_fails_nor_waits_forever(ids in prop::collection::vec(0u32..265, 0..80)) {
        let json = byte_fallback_json().to_string();
        let tokenizer = Arc::new(Tokenizer::from_json(json.as_bytes()).unwrap());
        let mut silent = 0;
        for (piece, id) in stream(&tokenizer, &ids, false).iter().zip(ids) {
            silent = if piece.is_empty() && id < 262 { silent + 1 } else { 0 };
            prop_assert!(silent <= 9, "{silent} tokens without text");
        }
    }
}

#[test]
fn a_truncated_character_is_replaced_at_the_end() {
    let tokenizer = byte_level();
    let emoji = tokenizer.encode("🙂", EncodeOptions::default()).unwrap();
    assert!(emoji.len() > 1);
    let pieces = stream(&tokenizer, &emoji[..emoji.len() - 1], false);
    assert!(pieces[..pieces.len() - 1].iter().all(String::is_empty));
    assert_eq!(pieces.last().unwrap(), "\u{FFFD}");
}
