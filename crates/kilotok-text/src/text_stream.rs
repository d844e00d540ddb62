//! The text of a request, as it comes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kilotok::engine::{Canceller, Event, TokenStream};

use crate::sequence::Sequence;
use crate::signal::Signal;
use crate::{Completion, Piece, TextError};

/// Pieces of the `n` sequences of one request, in order of arrival. Dropping it cancels what is
/// still running.
///
/// As an iterator it waits; [`TextStream::poll`] and [`TextStream::set_waker`] serve event loops.
pub struct TextStream {
    prompt_token_ids: Arc<[u32]>,
    lanes: Vec<Lane>,
    /// Lane to look at first, so that no sequence waits for another.
    next_lane: usize,
    signal: Arc<Signal>,
    failed: Option<TextError>,
    done: bool,
}

struct Lane {
    tokens: TokenStream,
    /// Taken when the sequence ends.
    sequence: Option<Sequence>,
}

/// Cancels a request while its stream is being read elsewhere.
#[derive(Clone)]
pub struct TextCanceller(Vec<Canceller>);

impl TextCanceller {
    /// As [`TextStream::cancel`].
    pub fn cancel(&self) {
        self.0.iter().for_each(Canceller::cancel);
    }
}

impl TextStream {
    pub(crate) fn new(
        prompt_token_ids: Arc<[u32]>,
        sequences: Vec<(TokenStream, Sequence)>,
    ) -> Self {
        let signal = Arc::new(Signal::default());
        let lanes: Vec<Lane> = sequences
            .into_iter()
            .map(|(tokens, sequence)| {
                let signal = Arc::clone(&signal);
                tokens.set_waker(move || signal.notify());
                Lane { tokens, sequence: Some(sequence) }
            })
            .collect();
        Self { prompt_token_ids, lanes, next_lane: 0, signal, failed: None, done: false }
    }

    /// The prompt as the engine sees it.
    pub fn prompt_token_ids(&self) -> &[u32] {
        &self.prompt_token_ids
    }

    /// The next piece if there is one. `None` means not yet, or never once
    /// [`TextStream::is_done`].
    ///
    /// # Errors
    /// The first error of any sequence; it ends the stream and cancels the other sequences.
    pub fn poll(&mut self) -> Option<Result<Piece, TextError>> {
        if self.done {
            return None;
        }
        if let Some(error) = self.failed.take() {
            return Some(self.fail(error));
        }
        let count = self.lanes.len();
        for offset in 0..count {
            let at = (self.next_lane + offset) % count;
            let mut piece = Piece::default();
            let result = self.lanes[at].drain(&self.prompt_token_ids, &mut piece);
            let empty =
                piece.text.is_empty() && piece.token_ids.is_empty() && piece.completion.is_none();
            if let Err(error) = result {
                if empty {
                    return Some(self.fail(error));
                }
                // What arrived before the error is not lost.
                self.failed = Some(error);
            }
            if !empty {
                self.next_lane = (at + 1) % count;
                self.done = self.failed.is_none() && self.lanes.iter().all(Lane::is_done);
                return Some(Ok(piece));
            }
        }
        None
    }

    /// The next piece, waiting at most `timeout`. `None` means not yet, or never once
    /// [`TextStream::is_done`].
    ///
    /// # Errors
    /// As [`TextStream::poll`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<Piece, TextError>> {
        self.next_until(Instant::now().checked_add(timeout))
    }

    /// Whether the last piece (or error) was taken.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Asks the engine to drop all sequences at the next round; the stream then ends with
    /// [`kilotok::Error::Cancelled`], unless it ended before.
    pub fn cancel(&self) {
        self.lanes.iter().for_each(|lane| lane.tokens.cancel());
    }

    /// A handle that cancels the request from elsewhere.
    pub fn canceller(&self) -> TextCanceller {
        TextCanceller(self.lanes.iter().map(|lane| lane.tokens.canceller()).collect())
    }

    /// Calls `waker` from the engine thread after each delivery (and at once if something has
    /// arrived already); it must be quick and must not call the engine.
    pub fn set_waker(&self, waker: impl Fn() + Send + 'static) {
        self.signal.set_waker(Box::new(waker));
    }

    /// Waits for the end and returns all sequences, by index.
    ///
    /// # Errors
    /// As [`TextStream::poll`].
    pub fn wait(self) -> Result<Vec<Completion>, TextError> {
        let mut completions = Vec::with_capacity(self.lanes.len());
        for piece in self {
            if let Some(completion) = piece?.completion {
                completions.push(*completion);
            }
        }
        completions.sort_by_key(|completion| completion.index);
        Ok(completions)
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Result<Piece, TextError>> {
        loop {
            let seen = self.signal.deliveries();
            let piece = self.poll();
            if piece.is_some() || self.done {
                return piece;
            }
            if !self.signal.wait_beyond(seen, deadline) {
                return self.poll();
            }
        }
    }

    fn fail(&mut self, error: TextError) -> Result<Piece, TextError> {
        self.done = true;
        self.cancel();
        Err(error)
    }
}

impl Lane {
    fn is_done(&self) -> bool {
        self.sequence.is_none()
    }

    /// Adds everything that has arrived to `piece`.
    fn drain(&mut self, prompt: &[u32], piece: &mut Piece) -> Result<(), TextError> {
        while let Some(sequence) = &mut self.sequence {
            match self.tokens.poll().transpose()? {
                None => return Ok(()),
                Some(Event::Token(token)) => {
                    if sequence.push(token, piece)? {
                        self.tokens.stop();
                    }
                }
                Some(Event::Finished(finished)) => {
                    if let Some(sequence) = self.sequence.take() {
                        sequence.finish(*finished, prompt, piece)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Iterator for TextStream {
    type Item = Result<Piece, TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(None)
    }
}
