//! A compiled grammar and what follows it: the library's matcher behind the engine's traits.

use std::fmt;
use std::sync::Arc;

use kilotok::sample::{Constraint, Grammar, TokenMask};
use kilotok::{Error, Result};
use llguidance::Matcher;
use parking_lot::Mutex;

/// A compiled grammar. Followers begin as copies of it, so that requests share no state.
pub(super) struct Rule {
    /// Copying takes a shared reference, but the library's type may be used by one thread at a time.
    pristine: Mutex<Matcher>,
    eos: Arc<[u32]>,
}

impl Rule {
    pub(super) fn new(pristine: Matcher, eos: Arc<[u32]>) -> Self {
        Self { pristine: Mutex::new(pristine), eos }
    }

    pub(super) fn follow(self: &Arc<Self>) -> Follower {
        Follower { matcher: self.fresh(), tokens: Vec::new(), rule: Arc::clone(self) }
    }

    fn fresh(&self) -> Matcher {
        self.pristine.lock().deep_clone()
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule").finish_non_exhaustive()
    }
}

/// A rule that holds from the first token to the last.
#[derive(Debug)]
pub(super) struct Whole(pub(super) Arc<Rule>);

impl Grammar for Whole {
    fn start(&self) -> Result<Box<dyn Constraint>> {
        Ok(Box::new(self.0.follow()))
    }
}

/// One text's place in a rule.
pub(super) struct Follower {
    rule: Arc<Rule>,
    matcher: Matcher,
    /// Taken so far.
    tokens: Vec<u32>,
}

impl Follower {
    /// Whether the rule is fulfilled and nothing can follow.
    pub(super) fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }
}

fn failed(reason: &impl ToString) -> Error {
    Error::Constraint { reason: plain(&reason.to_string()) }
}

/// The first line of the library's message, which is the message.
pub(super) fn plain(reason: &str) -> String {
    reason.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown").trim().to_owned()
}

impl Constraint for Follower {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<()> {
        let set = self.matcher.compute_mask_or_eos().map_err(|error| failed(&error))?;
        mask.copy_from(set.as_slice());
        if mask.first().is_none() {
            return Err(failed(&"no token may follow"));
        }
        Ok(())
    }

    fn allows(&mut self, token: u32) -> Result<bool> {
        if self.rule.eos.contains(&token) {
            return Ok(self.is_complete()
                || self.matcher.is_accepting().map_err(|error| failed(&error))?);
        }
        let count = self.matcher.validate_tokens(&[token]).map_err(|error| failed(&error))?;
        Ok(count == 1)
    }

    fn forced(&mut self) -> Result<Option<u32>> {
        if self.matcher.is_stopped() {
            return Ok(match *self.rule.eos {
                [eos] if !self.matcher.is_error() => Some(eos),
                _ => None,
            });
        }
        let forced = self.matcher.compute_ff_tokens().first().copied();
        match self.matcher.get_error() {
            Some(error) => Err(failed(&error)),
            None => Ok(forced),
        }
    }

    fn advance(&mut self, token: u32) -> Result<()> {
        self.matcher.consume_token(token).map_err(|error| failed(&error))?;
        self.tokens.push(token);
        Ok(())
    }

    fn rollback(&mut self, tokens: usize) -> Result<()> {
        let keep = self.tokens.len().saturating_sub(tokens);
        self.tokens.truncate(keep);
        if !self.matcher.is_error() && self.matcher.rollback(tokens).is_ok() {
            return Ok(());
        }
        // The library's errors are for good; what was only tried must leave no trace.
        self.matcher = self.rule.fresh();
        self.matcher.consume_tokens(&self.tokens).map_err(|error| failed(&error))
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("tokens", &self.tokens.len()).finish_non_exhaustive()
    }
}
