//! Loading, encoding and decoding.
#![allow(clippy::unwrap_used, reason = "in tests a panic is a failure")]

mod tiny;

use kilotok_text::{EncodeOptions, TextError, Tokenizer, eos_token_ids};
use proptest::prelude::*;
use serde_json::json;
use tiny::{IM_END, IM_START, THINK, TempDir, WIDE, byte_level_json};

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(byte_level_json().to_string().as_bytes()).unwrap()
}

#[test]
fn text_round_trips_and_stored_truncation_is_ignored() {
    let tokenizer = tokenizer();
    let text = "hello world, hello hello — naïve é 🙂 end";
    let ids = tokenizer.encode(text, EncodeOptions::default()).unwrap();
    assert!(ids.len() > 4, "the file says max_length 4; nothing may be cut");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    let joined: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap()).collect();
    assert_eq!(joined, text.as_bytes());
}

#[test]
fn special_tokens_are_read_or_spelled_out() {
    let tokenizer = tokenizer();
    let text = format!("{IM_START}hello{IM_END}");
    let hello = tokenizer.token_to_id("hello").unwrap();
    let (start, end) =
        (tokenizer.token_to_id(IM_START).unwrap(), tokenizer.token_to_id(IM_END).unwrap());
    assert_eq!(tokenizer.encode(&text, EncodeOptions::default()).unwrap(), [start, hello, end]);
    let plain = EncodeOptions { parse_special: false, ..EncodeOptions::default() };
    let ids = tokenizer.encode(&text, plain).unwrap();
    assert!(!ids.contains(&start) && !ids.contains(&end));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    assert!(tokenizer.is_special(start) && !tokenizer.is_special(hello));
    assert!(!tokenizer.is_special(tokenizer.token_to_id(THINK).unwrap()));
    assert_eq!(tokenizer.decode(&[start, hello, end], true).unwrap(), "hello");
}

#[test]
fn ids_without_a_token_decode_to_nothing() {
    let tokenizer = tokenizer();
    let beyond = tokenizer.vocab_size();
    assert_eq!(tokenizer.token_bytes(beyond - 1).unwrap(), WIDE.as_bytes());
    assert_eq!(tokenizer.token_bytes(beyond), None);
    assert_eq!(tokenizer.decode(&[beyond, u32::MAX], false).unwrap(), "");
}

#[test]
fn a_directory_names_its_special_tokens_and_eos() {
    let dir = TempDir::new();
    assert!(Tokenizer::from_dir(dir.path()).unwrap().is_none(), "no files: token ids only");
    dir.write("tokenizer.json", &byte_level_json());
    dir.write(
        "tokenizer_config.json",
        &json!({"eos_token": {"content": IM_END, "special": true}, "bos_token": null}),
    );
    dir.write("special_tokens_map.json", &json!({"eos_token": "ignored", "pad_token": IM_START}));
    dir.write("generation_config.json", &json!({"eos_token_id": [7, 3, 7]}));
    dir.write("config.json", &json!({"eos_token_id": 99}));
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap().unwrap();
    let end = tokenizer.token_to_id(IM_END).unwrap();
    assert_eq!(tokenizer.eos_token_ids(), [3, 7, end]);
    assert_eq!(tokenizer.special_tokens().get("eos_token"), Some(IM_END));
    assert_eq!(tokenizer.special_tokens().get("pad_token"), Some(IM_START));
    assert_eq!(tokenizer.special_tokens().get("bos_token"), None);
    assert_eq!(eos_token_ids(dir.path()).unwrap(), [3, 7]);
    dir.write("generation_config.json", &json!({}));
    assert_eq!(eos_token_ids(dir.path()).unwrap(), [99]);
}

#[test]
fn tokens_only_the_config_lists_are_added_under_their_ids() {
    let next = tokenizer().vocab_size();
    let config = |id: u32| {
        json!({"added_tokens_decoder": {
            (id + 1).to_string(): {"content": "<tool>", "special": false},
            id.to_string(): {"content": "<|mask|>", "special": true}}})
    };
    let dir = TempDir::new();
    dir.write("tokenizer.json", &byte_level_json()).write("tokenizer_config.json", &config(next));
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap().unwrap();
    let ids = tokenizer.encode("<tool><|mask|>", EncodeOptions::default()).unwrap();
    assert_eq!(ids, [next + 1, next]);
    assert!(tokenizer.is_special(next));

    dir.write("tokenizer_config.json", &config(next + 5));
    let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json") && error.contains("<|mask|>"), "{error}");
}

#[test]
fn broken_files_are_named() {
    let broken = [
        ("tokenizer.json", "{\"version\": \"1.0\""),
        ("tokenizer.json", "[]"),
        ("tokenizer_config.json", "nope"),
        ("tokenizer_config.json", "{\"added_tokens_decoder\": {\"x\": {}}}"),
        ("tokenizer_config.json", "{\"added_tokens_decoder\": {\"1\": {}}}"),
        ("special_tokens_map.json", "[1]"),
        ("generation_config.json", "{\"eos_token_id\": [-1]}"),
        ("generation_config.json", "{\"eos_token_id\": \"two\"}"),
    ];
    for (name, content) in broken {
        let dir = TempDir::new();
        dir.write("tokenizer.json", &byte_level_json()).write(name, content);
        let error = Tokenizer::from_dir(dir.path()).unwrap_err();
        assert!(matches!(error, TextError::Format { .. }), "{name}: {error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let dir = TempDir::new();
    std::fs::create_dir(dir.path().join("tokenizer.json")).unwrap();
    assert!(matches!(Tokenizer::from_dir(dir.path()), Err(TextError::Io { .. })));
}

proptest! {
    #[test]
    fn any_text_round_trips(text in "\\PC{0,40}|[ -~\\n\\t]{0,40}", add in any::<bool>(), parse in any::<bool>()) {
        let tokenizer = tokenizer();
        let options = EncodeOptions { add_special_tokens: add, parse_special: parse };
        let ids = tokenizer.encode(&text, options).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// A damaged file loads or is refused; whatever loads must work on text and ids.
    #[test]
    fn a_damaged_file_never_panics(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), digits in "[0-9]{1,10}", kind in 0..3,
    ) {
        let mut json = byte_level_json().to_string().into_bytes();
        let at = at.index(json.len());
        match kind {
            0 => json[at] = byte,
            1 => json.truncate(at),
            _ => {
                // Another id, in place of a number of the vocabulary.
                let from = json.iter().skip(at).position(u8::is_ascii_digit).map(|i| i + at);
                let from = from.unwrap_or(0);
                let width = json[from..].iter().take_while(|b| b.is_ascii_digit()).count();
                json.splice(from..from + width, digits.bytes());
            }
        }
        if let Ok(tokenizer) = Tokenizer::from_json(&json) {
            for parse_special in [true, false] {
                let options = EncodeOptions { add_special_tokens: true, parse_special };
                if let Ok(ids) = tokenizer.encode("hello<|im_end|> é🙂", options) {
                    let _ = tokenizer.decode(&ids, true);
                }
            }
            let _ = tokenizer.decode(&[0, 5, u32::MAX], false);
            prop_assert!(tokenizer.token_bytes(u32::MAX).is_none() || tokenizer.vocab_size() == 0);
        }
    }
}
