//! `tokenizer.json` and the special tokens around it.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Decoder as _, DecoderWrapper};

use crate::special_tokens::read_json_object;
use crate::{SpecialTokens, TextError, eos_token_ids};

/// How text becomes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Let the tokenizer's post-processor add its tokens (a BOS, for those that have one).
    pub add_special_tokens: bool,
    /// Read special tokens written in the text (`<|im_end|>`) as the tokens they name. Turn this
    /// off for text that must not be able to end a turn.
    pub parse_special: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { add_special_tokens: true, parse_special: true }
    }
}

/// A Hugging Face tokenizer with the special tokens its directory declares.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same tokenizer reading special tokens as plain text; made at first use.
    plain: OnceLock<tokenizers::Tokenizer>,
    byte_level: bool,
    special_tokens: SpecialTokens,
    eos_ids: Vec<u32>,
    vocab_size: u32,
}

impl Tokenizer {
    /// Loads `tokenizer.json` with `tokenizer_config.json`, `special_tokens_map.json` and
    /// `generation_config.json` where present. `None` when there is no `tokenizer.json`: such a
    /// model takes and returns token ids.
    ///
    /// # Errors
    /// [`TextError::Io`] or [`TextError::Format`] naming the file and what is wrong with it.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>, TextError> {
        let path = dir.join("tokenizer.json");
        let json = match std::fs::read(&path) {
            Ok(json) => json,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(TextError::Io { path, source }),
        };
        let mut inner = parse(&json).map_err(|reason| TextError::Format { path, reason })?;
        let config_path = dir.join("tokenizer_config.json");
        if let Some(config) = read_json_object(&config_path)? {
            add_declared_tokens(&mut inner, &config)
                .map_err(|reason| TextError::Format { path: config_path, reason })?;
        }
        Ok(Some(Self::new(inner, SpecialTokens::from_dir(dir)?, &eos_token_ids(dir)?)))
    }

    /// Builds from the bytes of a `tokenizer.json` alone.
    ///
    /// # Errors
    /// [`TextError::Format`] when the bytes are not a tokenizer.
    pub fn from_json(json: &[u8]) -> Result<Self, TextError> {
        let inner = parse(json)
            .map_err(|reason| TextError::Format { path: "tokenizer.json".into(), reason })?;
        Ok(Self::new(inner, SpecialTokens::default(), &[]))
    }

    fn new(
        mut inner: tokenizers::Tokenizer,
        special_tokens: SpecialTokens,
        declared_eos: &[u32],
    ) -> Self {
        // Truncation and padding stored in the file are training settings; applying them here
        // would silently lose or invent prompt tokens.
        let _ = inner.with_truncation(None);
        inner.with_padding(None);
        let named_eos = special_tokens.get("eos_token").and_then(|token| inner.token_to_id(token));
        let mut eos_ids: Vec<u32> = declared_eos.iter().copied().chain(named_eos).collect();
        eos_ids.sort_unstable();
        eos_ids.dedup();
        let byte_level = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        let vocab_size =
            inner.get_vocab(true).into_values().max().map_or(0, |max| max.saturating_add(1));
        Self { inner, plain: OnceLock::new(), byte_level, special_tokens, eos_ids, vocab_size }
    }

    /// Text to token ids.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] when the library refuses the text.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TextError> {
        let tokenizer = if options.parse_special {
            &self.inner
        } else {
            self.plain.get_or_init(|| {
                let mut plain = self.inner.clone();
                plain.set_encode_special_tokens(true);
                plain
            })
        };
        contained(|| tokenizer.encode_fast(text, options.add_special_tokens))
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|reason| TextError::Tokenizer { operation: "encode", reason })
    }

    /// Token ids to text. Ids without a token (the padding rows of a model's vocabulary) decode to
    /// nothing; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] when the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        contained(|| self.inner.decode(ids, skip_special_tokens))
            .map_err(|reason| TextError::Tokenizer { operation: "decode", reason })
    }

    /// The bytes a token stands for, in a byte-level tokenizer exactly; otherwise the token decoded
    /// on its own. `None` for ids without a token.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let token = self.inner.id_to_token(id)?;
        if self.byte_level {
            return Some(byte_level_bytes(&token));
        }
        match self.inner.get_decoder() {
            Some(decoder) => decoder.decode(vec![token]).ok().map(String::into_bytes),
            None => Some(token.into_bytes()),
        }
    }

    /// A token as text for display; bytes that are not UTF-8 on their own become U+FFFD.
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.token_bytes(id).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The id of a token written as in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether `decode` leaves this id out when special tokens are skipped.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner
            .id_to_token(id)
            .is_some_and(|token| self.inner.get_added_vocabulary().is_special_token(&token))
    }

    /// Whether an id stands for markup and not for text: a special token, or one that was added in
    /// angle brackets (`<tool_call>`).
    pub(crate) fn is_markup(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id);
        added.is_some_and(|token| {
            token.special || (token.content.starts_with('<') && token.content.ends_with('>'))
        })
    }

    /// Named special tokens of the directory.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special_tokens
    }

    /// Ids that end a text, ascending: those the checkpoint declares and the named `eos_token`.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// One more than the largest id with a token. The model's vocabulary may be padded beyond it.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Whether decoding maps every token to fixed bytes, independent of its neighbours.
    pub(crate) fn is_byte_level(&self) -> bool {
        self.byte_level
    }
}

fn parse(json: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    contained(|| tokenizers::Tokenizer::from_bytes(json))
        .map_err(|reason| format!("expected a tokenizer.json of format 1.0: {reason}"))
}

/// Runs the library, which panics on some damaged files, and makes every failure a reason.
fn contained<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer library panicked; the file is damaged".to_owned()),
    }
}

/// Adds tokens that only `added_tokens_decoder` lists. The library numbers new tokens itself, so
/// the ids it assigns are checked against the declared ones.
fn add_declared_tokens(
    tokenizer: &mut tokenizers::Tokenizer,
    config: &Map<String, Value>,
) -> Result<(), String> {
    let Some(Value::Object(declared)) = config.get("added_tokens_decoder") else { return Ok(()) };
    let mut missing = BTreeMap::new();
    for (id, entry) in declared {
        let id: u32 = id
            .parse()
            .map_err(|_| format!("added_tokens_decoder has key `{id}`, expected a token id"))?;
        let content = entry.get("content").and_then(Value::as_str).ok_or_else(|| {
            format!("added_tokens_decoder[{id}] has no `content`, expected the token's text")
        })?;
        if tokenizer.token_to_id(content).is_none() {
            let flag = |name| entry.get(name).and_then(Value::as_bool);
            let special = flag("special").unwrap_or(false);
            let token = AddedToken::from(content, special)
                .single_word(flag("single_word").unwrap_or(false))
                .lstrip(flag("lstrip").unwrap_or(false))
                .rstrip(flag("rstrip").unwrap_or(false))
                .normalized(flag("normalized").unwrap_or(!special));
            missing.insert(id, token);
        }
    }
    for (id, token) in missing {
        let content = token.content.clone();
        tokenizer.add_tokens([token]).map_err(|error| error.to_string())?;
        let assigned = tokenizer.token_to_id(&content);
        if assigned != Some(id) {
            return Err(format!(
                "added_tokens_decoder gives `{content}` id {id}, but the next free id of \
                 tokenizer.json makes it {assigned:?}"
            ));
        }
    }
    Ok(())
}

/// Undoes the GPT-2 byte alphabet. A token with any other character stands for its own UTF-8
/// bytes, as in the library's `ByteLevel` decoder.
fn byte_level_bytes(token: &str) -> Vec<u8> {
    let mapped: Option<Vec<u8>> = token.chars().map(byte_of).collect();
    mapped.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// Printable bytes stand for themselves; the others are, in ascending order, U+0100 and up.
fn byte_of(c: char) -> Option<u8> {
    match c as u32 {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn the_byte_alphabet_is_the_librarys() {
        let mut seen = [false; 256];
        for c in ByteLevel::alphabet() {
            let byte = byte_of(c).expect("every letter of the alphabet is a byte");
            let decoded = ByteLevel::default().decode_chain(vec![c.to_string()]).unwrap().concat();
            assert_eq!(decoded, String::from_utf8_lossy(&[byte]));
            seen[usize::from(byte)] = true;
        }
        assert!(seen.iter().all(|&s| s));
        for c in ['\u{20}', '\u{7F}', '\u{AD}', '\u{144}', '\u{0}', '漢'] {
            assert_eq!(byte_of(c), None);
        }
    }
}
