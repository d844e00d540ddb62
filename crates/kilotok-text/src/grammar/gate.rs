//! Rules for parts of an output: nothing is asked of the thinking but its end, and of free text
//! nothing but that a call, once it has begun, is one.

use std::fmt;
use std::sync::Arc;

use kilotok::Result;
use kilotok::sample::{Constraint, Grammar, TokenMask};

use super::rule::{Follower, Rule};
use super::spelling::Speller;
use crate::ReasoningState;

/// More than any block has drafts.
const UNDO: usize = 128;

/// What holds where in an output with `<think>` markup.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) start: ReasoningState,
    /// `<think>`, where the vocabulary has it.
    pub(super) open: Option<u32>,
    /// `</think>`; without one there is no thinking.
    pub(super) close: Option<(u32, Arc<Speller>)>,
    /// Tokens of the thinking at most.
    pub(super) budget: Option<u32>,
    /// Tokens of one newline alone and of two: the format's own behind `</think>`.
    pub(super) newlines: [TokenMask; 2],
    /// Newlines that may stand there.
    pub(super) newlines_after: u8,
    /// Everything that is text.
    pub(super) text: Arc<TokenMask>,
    /// What the answer has to be.
    pub(super) answer: Option<Arc<Rule>>,
    /// `<tool_call>`, and what has to follow it up to `</tool_call>`.
    pub(super) call: Option<(u32, Arc<Speller>, Arc<Rule>)>,
}

/// A [`Gate`] as the engine takes it.
#[derive(Debug)]
pub(super) struct Gated(pub(super) Arc<Gate>);

impl Grammar for Gated {
    fn start(&self) -> Result<Box<dyn Constraint>> {
        Ok(Box::new(Passage::new(Arc::clone(&self.0))))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The turn has begun; the model may open its thinking.
    Turn,
    Thinking,
    /// Behind the thinking, where so many newlines of the format may come.
    Thought(u8),
    Answer,
    /// In a call, in the thinking or not.
    Call {
        thinking: bool,
    },
}

#[derive(Debug, Clone, Copy)]
struct Place {
    phase: Phase,
    /// Tokens of the thinking.
    thought: u32,
    /// How much of `</think>` and `<tool_call>` the last tokens spell.
    spelled_close: usize,
    spelled_call: usize,
}

enum Undo {
    Free,
    Answer,
    Call,
    /// A call was begun in place of this one.
    Begun(Option<Box<Follower>>),
}

/// One text's way through a gate.
struct Passage {
    gate: Arc<Gate>,
    place: Place,
    answer: Option<Follower>,
    call: Option<Box<Follower>>,
    /// Where each of the last tokens was taken, and by whom.
    undo: std::collections::VecDeque<(Place, Undo)>,
}

impl Passage {
    fn new(gate: Arc<Gate>) -> Self {
        let phase = match gate.start {
            _ if gate.close.is_none() => Phase::Answer,
            ReasoningState::Inside => Phase::Thinking,
            ReasoningState::Closed => Phase::Answer,
            ReasoningState::Undecided => Phase::Turn,
        };
        Self {
            place: Place { phase, thought: 0, spelled_close: 0, spelled_call: 0 },
            answer: gate.answer.as_ref().map(Rule::follow),
            call: None,
            undo: std::collections::VecDeque::with_capacity(UNDO),
            gate,
        }
    }

    fn spent(&self) -> bool {
        self.gate.budget.is_some_and(|budget| self.place.thought >= budget)
    }

    /// Fills `mask` with what the answer may go on with.
    fn answer(&mut self, mask: &mut TokenMask) -> Result<()> {
        if let Some(answer) = &mut self.answer {
            return answer.allowed(mask);
        }
        mask.fill();
        if let Some((_, speller, _)) = &self.gate.call {
            mask.subtract(&speller.completing(self.place.spelled_call));
        }
        Ok(())
    }

    /// The newlines that a token is, where the format's own may come.
    fn newlines(&self, token: u32) -> Option<u8> {
        let Phase::Thought(left) = self.place.phase else { return None };
        (1..=left.min(2)).find(|n| self.gate.newlines[usize::from(n - 1)].allows(token))
    }

    fn begins_call(&self, token: u32) -> bool {
        let free = self.place.phase == Phase::Thinking || self.answer.is_none();
        free && self.gate.call.as_ref().is_some_and(|(open, ..)| *open == token)
    }

    /// Takes a token that no rule stands over.
    fn pass(&mut self, token: u32) -> Undo {
        let gate = Arc::clone(&self.gate);
        let place = &mut self.place;
        if let Some((_, speller, _)) = &gate.call {
            place.spelled_call = speller.after(place.spelled_call, token);
        }
        match (place.phase, &gate.close) {
            (Phase::Thinking, Some((close, _))) if token == *close => {
                place.phase = Phase::Thought(gate.newlines_after);
            }
            (Phase::Thinking, Some((_, speller))) => {
                place.spelled_close = speller.after(place.spelled_close, token);
                place.thought += 1;
            }
            (Phase::Turn, _) if Some(token) == gate.open => place.phase = Phase::Thinking,
            // Whitespace alone does not begin an answer.
            (Phase::Turn, _) if gate.newlines.iter().any(|mask| mask.allows(token)) => {}
            _ => place.phase = Phase::Answer,
        }
        Undo::Free
    }
}

impl Constraint for Passage {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<()> {
        let gate = Arc::clone(&self.gate);
        match self.place.phase {
            Phase::Answer => self.answer(mask),
            Phase::Call { .. } => match &mut self.call {
                Some(call) => call.allowed(mask),
                None => self.answer(mask),
            },
            Phase::Turn => {
                self.answer(mask)?;
                gate.open.iter().for_each(|open| mask.allow(*open));
                Ok(())
            }
            Phase::Thought(left) => {
                self.answer(mask)?;
                gate.newlines.iter().take(usize::from(left)).for_each(|more| mask.union(more));
                Ok(())
            }
            Phase::Thinking => {
                let Some((close, speller)) = &gate.close else { return self.answer(mask) };
                mask.clear();
                if !self.spent() {
                    if self.answer.is_some() {
                        mask.union(&gate.text);
                    } else {
                        mask.fill();
                    }
                    mask.subtract(&speller.completing(self.place.spelled_close));
                    if let Some((open, speller, _)) = &gate.call {
                        mask.subtract(&speller.completing(self.place.spelled_call));
                        mask.allow(*open);
                    }
                }
                mask.allow(*close);
                Ok(())
            }
        }
    }

    fn allows(&mut self, token: u32) -> Result<bool> {
        let gate = Arc::clone(&self.gate);
        let place = self.place;
        let is_call = |(open, ..): &(u32, Arc<Speller>, Arc<Rule>)| *open == token;
        let spells_call =
            gate.call.as_ref().is_some_and(|(_, s, _)| s.completes(place.spelled_call, token));
        match place.phase {
            Phase::Thinking => {
                let Some((close, speller)) = &gate.close else { return Ok(true) };
                let free = self.answer.is_none() || gate.text.allows(token);
                let free = free && !speller.completes(place.spelled_close, token) && !spells_call;
                let call = gate.call.as_ref().is_some_and(is_call);
                Ok(token == *close || (!self.spent() && (free || call)))
            }
            Phase::Turn if Some(token) == gate.open => Ok(true),
            Phase::Thought(_) if self.newlines(token).is_some() => Ok(true),
            Phase::Call { .. } => self.call.as_mut().map_or(Ok(true), |call| call.allows(token)),
            _ => match &mut self.answer {
                Some(answer) => answer.allows(token),
                None => Ok(!spells_call),
            },
        }
    }

    fn forced(&mut self) -> Result<Option<u32>> {
        match self.place.phase {
            Phase::Thinking if self.spent() => Ok(self.gate.close.as_ref().map(|(id, _)| *id)),
            Phase::Answer => self.answer.as_mut().map_or(Ok(None), Constraint::forced),
            Phase::Call { .. } => self.call.as_mut().map_or(Ok(None), |call| call.forced()),
            Phase::Turn | Phase::Thinking | Phase::Thought(_) => Ok(None),
        }
    }

    fn advance(&mut self, token: u32) -> Result<()> {
        let before = self.place;
        let undo = match self.place.phase {
            Phase::Call { thinking } => {
                let Some(call) = &mut self.call else { return Ok(()) };
                call.advance(token)?;
                if thinking {
                    self.place.thought += 1;
                }
                if call.is_complete() {
                    self.place.phase = if thinking { Phase::Thinking } else { Phase::Answer };
                }
                Undo::Call
            }
            _ if self.begins_call(token) => {
                let thinking = self.place.phase == Phase::Thinking;
                self.place.phase = Phase::Call { thinking };
                (self.place.spelled_close, self.place.spelled_call) = (0, 0);
                let rule = self.gate.call.as_ref().map(|(_, _, rule)| Box::new(rule.follow()));
                Undo::Begun(std::mem::replace(&mut self.call, rule))
            }
            Phase::Thought(left) if self.newlines(token).is_some() => {
                let taken = self.newlines(token).unwrap_or(left);
                self.place.phase = Phase::Thought(left - taken);
                Undo::Free
            }
            Phase::Thinking => self.pass(token),
            Phase::Turn if Some(token) == self.gate.open => self.pass(token),
            _ => match &mut self.answer {
                Some(answer) => {
                    answer.advance(token)?;
                    self.place.phase = Phase::Answer;
                    Undo::Answer
                }
                None => self.pass(token),
            },
        };
        if self.undo.len() == UNDO {
            self.undo.pop_front();
        }
        self.undo.push_back((before, undo));
        Ok(())
    }

    fn rollback(&mut self, tokens: usize) -> Result<()> {
        let (mut answered, mut called) = (0, 0);
        for _ in 0..tokens {
            let Some((place, undo)) = self.undo.pop_back() else { break };
            self.place = place;
            match undo {
                Undo::Free => {}
                Undo::Answer => answered += 1,
                Undo::Call => called += 1,
                Undo::Begun(before) => {
                    self.call = before;
                    called = 0;
                }
            }
        }
        // Also where nothing is to be taken back: what failed on trial is healed.
        if let Some(call) = &mut self.call {
            call.rollback(called)?;
        }
        self.answer.as_mut().map_or(Ok(()), |answer| answer.rollback(answered))
    }
}

impl fmt::Debug for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passage").field("place", &self.place).finish_non_exhaustive()
    }
}
