//! Constrained output: which tokens may follow, position by position.
//!
//! The engine knows nothing of grammars. A request carries a [`Grammar`]; each of its sequences
//! starts a [`Constraint`] from it, and the round loop asks that for the mask of every row it
//! chooses from. A mask depends on the tokens before it alone, so constrained output is identical
//! with speculation on and off (law 2).

use std::fmt::Debug;

use crate::error::Result;

/// A set of tokens, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
    vocab: usize,
}

impl TokenMask {
    /// The empty set over a vocabulary.
    pub fn new(vocab: usize) -> Self {
        Self { words: vec![0; vocab.div_ceil(32)], vocab }
    }

    /// Width of a logits row.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Removes every token.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Adds a token; ids outside of the vocabulary are left out.
    pub fn allow(&mut self, token: u32) {
        if (token as usize) < self.vocab {
            self.words[token as usize / 32] |= 1 << (token % 32);
        }
    }

    /// Removes a token.
    pub fn forbid(&mut self, token: u32) {
        if let Some(word) = self.words.get_mut(token as usize / 32) {
            *word &= !(1 << (token % 32));
        }
    }

    /// Whether a token is in the set.
    pub fn allows(&self, token: u32) -> bool {
        self.words.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// Takes over a set given as words of 32 tokens, lowest first; missing words are empty, and
    /// bits outside of the vocabulary are left out.
    pub fn copy_from(&mut self, words: &[u32]) {
        self.clear();
        let count = words.len().min(self.words.len());
        self.words[..count].copy_from_slice(&words[..count]);
        if let (Some(last), spare @ 1..) = (self.words.last_mut(), self.vocab % 32) {
            *last &= (1 << spare) - 1;
        }
    }

    /// Adds every token of the vocabulary.
    pub fn fill(&mut self) {
        self.words.fill(u32::MAX);
        if let (Some(last), spare @ 1..) = (self.words.last_mut(), self.vocab % 32) {
            *last = (1 << spare) - 1;
        }
    }

    /// Adds the tokens of another set.
    pub fn union(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
    }

    /// Removes the tokens of another set.
    pub fn subtract(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= !other);
    }

    /// The lowest token of the set.
    pub fn first(&self) -> Option<u32> {
        let at = self.words.iter().position(|word| *word != 0)?;
        Some(at as u32 * 32 + self.words[at].trailing_zeros())
    }

    /// The only token of the set, if it has exactly one.
    pub fn single(&self) -> Option<u32> {
        let first = self.first()?;
        let count: u32 = self.words.iter().map(|word| word.count_ones()).sum();
        (count == 1).then_some(first)
    }

    /// Number of tokens in the set.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Sets the values of all tokens outside of the set to negative infinity.
    ///
    /// `logits`: `[vocab]`.
    pub(crate) fn apply(&self, logits: &mut [f32]) {
        for (word, logits) in self.words.iter().zip(logits.chunks_mut(32)) {
            if *word == u32::MAX {
                continue;
            }
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// A compiled rule for output; every sequence of a request starts its own [`Constraint`].
pub trait Grammar: Debug + Send + Sync {
    /// A constraint at the first generated position.
    ///
    /// # Errors
    /// [`crate::Error::Constraint`] where the rule cannot be followed at all.
    fn start(&self) -> Result<Box<dyn Constraint>>;
}

/// What one sequence may say next.
///
/// Everything depends on the tokens taken so far alone, not on what was asked or taken back in
/// between. Tokens that end a sequence are part of the rule: where none is allowed, the sequence
/// goes on, and a rule that is fulfilled and cannot go on allows nothing else.
pub trait Constraint: Debug + Send {
    /// Fills `mask` with the tokens that may come next; there is at least one.
    ///
    /// # Errors
    /// [`crate::Error::Constraint`] at a dead end, or where the rule is too complex to follow.
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<()>;

    /// Whether `token` may come next; agrees with [`Constraint::allowed`].
    ///
    /// # Errors
    /// As [`Constraint::allowed`].
    fn allows(&mut self, token: u32) -> Result<bool>;

    /// The only token that may come next, where that is known without looking at all of them.
    ///
    /// # Errors
    /// As [`Constraint::allowed`].
    fn forced(&mut self) -> Result<Option<u32>> {
        Ok(None)
    }

    /// Takes an allowed token that does not end the sequence.
    ///
    /// # Errors
    /// [`crate::Error::Constraint`] where the token is not allowed.
    fn advance(&mut self, token: u32) -> Result<()>;

    /// Takes the last `tokens` tokens back, at most as many as a block has drafts. Afterwards all
    /// is as if they had never come, errors on the way included.
    ///
    /// # Errors
    /// [`crate::Error::Constraint`] where that is not possible.
    fn rollback(&mut self, tokens: usize) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::TokenMask;

    #[test]
    fn masks_hold_what_they_are_told() {
        let mut mask = TokenMask::new(70);
        assert_eq!((mask.first(), mask.single(), mask.count()), (None, None, 0));
        mask.allow(69);
        mask.allow(70);
        assert_eq!((mask.first(), mask.single()), (Some(69), Some(69)));
        mask.allow(3);
        assert_eq!((mask.first(), mask.single(), mask.count()), (Some(3), None, 2));
        assert!(mask.allows(69) && !mask.allows(70) && !mask.allows(1000));
        mask.forbid(3);
        mask.forbid(5000);
        assert_eq!(mask.count(), 1);
        mask.copy_from(&[1, u32::MAX, u32::MAX, u32::MAX]);
        assert_eq!(mask.count(), 1 + 32 + 6);
        let mut all = TokenMask::new(70);
        all.fill();
        assert_eq!(all.count(), 70);
        all.subtract(&mask);
        assert_eq!(all.count(), 70 - 39);
        all.union(&mask);
        assert_eq!(all.count(), 70);
        mask.copy_from(&[2]);
        assert_eq!(mask.single(), Some(1));
        let mut logits = vec![0.0; 70];
        mask.apply(&mut logits);
        assert_eq!(logits.iter().filter(|l| l.is_finite()).count(), 1);
        assert_eq!(logits[1], 0.0);
    }
}
