//! Markup must come as its token, not spelled out: whoever follows tokens would miss it, and
//! whoever reads the text would not.

use kilotok::sample::TokenMask;
use parking_lot::Mutex;
use std::sync::Arc;

/// How much of `target` the end of `text` before and `bytes` together spell, given that before
/// they spelled `matched` bytes; the length of `target` as soon as it stands there in full.
fn step(target: &[u8], mut matched: usize, bytes: &[u8]) -> usize {
    for &byte in bytes {
        if matched == target.len() {
            return matched;
        }
        while matched > 0 && target[matched] != byte {
            matched = border(&target[..matched]);
        }
        matched += usize::from(target[matched] == byte);
    }
    matched
}

/// Length of the longest proper prefix that is a suffix as well.
fn border(text: &[u8]) -> usize {
    (1..text.len()).rev().find(|&length| text.ends_with(&text[..length])).unwrap_or(0)
}

/// Which tokens would complete a text, by how much of it stands there already.
#[derive(Debug)]
pub(super) struct Speller {
    target: Vec<u8>,
    words: Arc<[Box<[u8]>]>,
    /// Found when first asked for.
    completing: Mutex<Vec<Option<Arc<TokenMask>>>>,
}

impl Speller {
    /// `words`: the bytes of each token; markup has none.
    pub(super) fn new(target: &str, words: Arc<[Box<[u8]>]>) -> Self {
        let completing = Mutex::new(vec![None; target.len()]);
        Self { target: target.as_bytes().to_vec(), words, completing }
    }

    /// What is spelled after a token; markup starts anew.
    pub(super) fn after(&self, matched: usize, token: u32) -> usize {
        match self.words.get(token as usize) {
            Some(word) if !word.is_empty() => step(&self.target, matched, word),
            _ => 0,
        }
    }

    /// Whether a token would complete the text.
    pub(super) fn completes(&self, matched: usize, token: u32) -> bool {
        self.after(matched, token) == self.target.len()
    }

    /// All tokens that would.
    pub(super) fn completing(&self, matched: usize) -> Arc<TokenMask> {
        let mut known = self.completing.lock();
        let mask = known[matched].get_or_insert_with(|| {
            let mut mask = TokenMask::new(self.words.len());
            let completes = |token: &u32| self.completes(matched, *token);
            (0..self.words.len() as u32).filter(completes).for_each(|token| mask.allow(token));
            Arc::new(mask)
        });
        Arc::clone(mask)
    }
}

#[cfg(test)]
mod tests {
    use super::{Speller, step};
    use proptest::prelude::*;

    proptest! {
        /// Against a search of the whole text.
        #[test]
        fn spelled_in_pieces_is_spelled(pieces in prop::collection::vec("[<a/]{0,4}", 0..12)) {
            let target = "<a/<a";
            let (mut matched, mut text) = (0, String::new());
            for piece in &pieces {
                matched = step(target.as_bytes(), matched, piece.as_bytes());
                text.push_str(piece);
                let found = text.contains(target);
                prop_assert_eq!(matched == target.len(), found);
                if found {
                    break;
                }
                let tail = (0..target.len()).rev().find(|&n| text.ends_with(&target[..n]));
                prop_assert_eq!(Some(matched), tail);
            }
        }
    }

    #[test]
    fn tokens_that_complete_a_tag_are_known() {
        let words = ["</", "think>", "thi", "x</think>y", "nk>", ""];
        let words = words.iter().map(|word| word.as_bytes().into()).collect();
        let speller = Speller::new("</think>", words);
        let at = |matched: usize| -> Vec<u32> {
            (0..6).filter(|t| speller.completing(matched).allows(*t)).collect()
        };
        assert_eq!(at(0), [3u32].to_vec());
        assert_eq!(at(2), [1u32, 3].to_vec());
        assert_eq!(at(5), [3u32, 4].to_vec());
        assert_eq!((speller.after(2, 2), speller.after(2, 5)), (5, 0));
    }
}
