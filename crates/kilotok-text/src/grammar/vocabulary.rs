//! The tokenizer as the grammar library sees it.

use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::{EncodeOptions, Tokenizer};

/// Bytes of every token, and canonical tokenising of forced text.
struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
    canonical: bool,
}

/// Puts a vocabulary of `vocab` ids together; `eos` end a sequence. Markup (special tokens, and
/// added ones such as `<tool_call>`) is no text: only rules that name it let it through.
pub(super) fn environment(
    tokenizer: &Arc<Tokenizer>,
    vocab: usize,
    eos: &[u32],
) -> Result<TokEnv, String> {
    if !tokenizer.is_byte_level() {
        return Err("output can be constrained with byte-level tokenizers only".into());
    }
    let Some(&first) = eos.first() else {
        return Err("the model has no token that ends a text".into());
    };
    let words: Vec<Vec<u8>> = (0..vocab as u32).map(|id| word(tokenizer, id)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, first), &words).with_eos_tokens(eos);
    let mut vocabulary = Vocabulary { tokenizer: Arc::clone(tokenizer), trie, canonical: true };
    // A tokenizer that puts something in front of a text is of no use for text in the middle.
    let sample = b"a{\"b\": [1, 2]}\n";
    let ids = vocabulary.tokenize_bytes(sample);
    vocabulary.canonical = vocabulary.trie.decode_raw(&ids) == sample;
    Ok(Arc::new(vocabulary))
}

fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    if !bytes.is_empty() && tokenizer.is_markup(id) {
        [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes.as_slice()].concat()
    } else {
        bytes
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let options = EncodeOptions { add_special_tokens: false, parse_special: false };
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            let ids = self.tokenizer.encode(text, options).unwrap_or_default();
            let known = ids.iter().all(|id| (*id as usize) < self.trie.vocab_size());
            if known && !ids.is_empty() { ids } else { self.trie.greedy_tokenize(text.as_bytes()) }
        })
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}
