//! The text files of the demo checkpoint.
#![allow(clippy::unwrap_used, reason = "in tests a panic is a failure")]

use std::path::PathBuf;
use std::sync::Arc;

use kilotok_text::{ChatTemplate, Detokenizer, EncodeOptions, TemplateInput, Tokenizer};
use serde_json::json;

fn repository(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../..", path].iter().collect()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_dir(&repository("python/kilotok/demo/checkpoint")).unwrap().unwrap()
}

#[test]
fn this_repository_round_trips_through_the_tokenizer() {
    let tokenizer = Arc::new(tokenizer());
    for file in ["tests/golden/template/inputs.json", "crates/kilotok-text/src/tokenizer.rs"] {
        let text = std::fs::read_to_string(repository(file)).unwrap();
        let ids = tokenizer.encode(&text, EncodeOptions::default()).unwrap();
        assert!(ids.len() < text.len() * 2 / 3, "merges are used");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer), false);
        let mut streamed: String = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
        streamed.push_str(&detokenizer.finish().unwrap());
        assert_eq!(streamed, text);
    }
}

#[test]
fn turns_end_with_a_token_that_ends_generation() {
    let tokenizer = tokenizer();
    let dir = repository("python/kilotok/demo/checkpoint");
    let template = ChatTemplate::from_dir(&dir, tokenizer.special_tokens()).unwrap().unwrap();
    let input = TemplateInput {
        messages: vec![json!({"role": "user", "content": "Hi"})],
        add_generation_prompt: true,
        ..TemplateInput::default()
    };
    let text = template.render(&input).unwrap();
    let options = EncodeOptions { add_special_tokens: false, parse_special: true };
    let ids = tokenizer.encode(&text, options).unwrap();
    let eos = tokenizer.token_to_id(tokenizer.special_tokens().get("eos_token").unwrap()).unwrap();
    assert!(tokenizer.eos_token_ids().contains(&eos));
    assert_eq!(ids.iter().filter(|&&id| id == eos).count(), 1);
    assert!(tokenizer.is_special(ids[0]), "a turn begins with a special token");
}
