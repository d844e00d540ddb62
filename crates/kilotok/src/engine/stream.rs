//! The way tokens travel from the engine thread to one caller.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::event::{Event, Finished, Token};
use crate::error::{Error, Result};

/// Called from the engine thread whenever something arrived; must not block.
type Waker = Box<dyn Fn() + Send>;

/// Events room is made for up front; a caller that lags further behind makes it grow.
const ROOM: usize = 256;

#[derive(Default)]
struct Inbox {
    tokens: VecDeque<Token>,
    end: Option<Result<Box<Finished>>>,
    waker: Option<Waker>,
}

/// Shared by the engine thread (writes) and a [`TokenStream`] (reads).
pub(super) struct Mailbox {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    cancelled: AtomicBool,
    stopped: AtomicBool,
}

impl Mailbox {
    pub(super) fn new() -> Self {
        let inbox = Inbox { tokens: VecDeque::with_capacity(ROOM), ..Inbox::default() };
        Self {
            inbox: Mutex::new(inbox),
            arrived: Condvar::new(),
            cancelled: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Delivers the tokens of one round, and the end where it came.
    pub(super) fn deliver(
        &self,
        tokens: impl Iterator<Item = Token>,
        end: Option<Result<Box<Finished>>>,
    ) {
        let mut inbox = self.inbox.lock();
        if inbox.end.is_some() {
            return;
        }
        inbox.tokens.extend(tokens);
        inbox.end = end;
        self.arrived.notify_all();
        if let Some(wake) = &inbox.waker {
            wake();
        }
    }
}

/// Cancels one request; see [`TokenStream::canceller`].
#[derive(Clone)]
pub struct Canceller(Arc<Mailbox>);

impl Canceller {
    /// As [`TokenStream::cancel`].
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
    }
}

/// Tokens of one request, as they come. Dropping it cancels the request.
pub struct TokenStream {
    mailbox: Arc<Mailbox>,
    done: bool,
}

impl TokenStream {
    pub(super) fn new(mailbox: Arc<Mailbox>) -> Self {
        Self { mailbox, done: false }
    }

    fn take(&mut self, inbox: &mut Inbox) -> Option<Result<Event>> {
        if let Some(token) = inbox.tokens.pop_front() {
            return Some(Ok(Event::Token(token)));
        }
        let end = inbox.end.as_ref()?.clone();
        self.done = true;
        Some(end.map(Event::Finished))
    }

    /// The next event if it has arrived. `None` means not yet, or after the last event never.
    pub fn poll(&mut self) -> Option<Result<Event>> {
        if self.done {
            return None;
        }
        let mailbox = Arc::clone(&self.mailbox);
        let mut inbox = mailbox.inbox.lock();
        self.take(&mut inbox)
    }

    /// The next event, waiting at most `timeout`. `None` means not yet, or after the last never.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<Event>> {
        if self.done {
            return None;
        }
        let deadline = Instant::now() + timeout;
        let mailbox = Arc::clone(&self.mailbox);
        let mut inbox = mailbox.inbox.lock();
        loop {
            if let Some(event) = self.take(&mut inbox) {
                return Some(event);
            }
            if mailbox.arrived.wait_until(&mut inbox, deadline).timed_out() {
                return self.take(&mut inbox);
            }
        }
    }

    /// Whether the last event was taken.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Asks the engine to stop at the next round; the stream then ends with
    /// [`Error::Cancelled`], unless it ended before.
    pub fn cancel(&self) {
        self.mailbox.cancelled.store(true, Ordering::Release);
    }

    /// A handle that cancels the request from elsewhere while this stream is being read.
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.mailbox))
    }

    /// Asks the engine to end the request at the next round as a stop token would: for callers
    /// that find the end in the text. Tokens on their way still arrive, then the receipt. A
    /// request without a slot is not affected.
    pub fn stop(&self) {
        self.mailbox.stopped.store(true, Ordering::Release);
    }

    /// Calls `waker` from the engine thread after each delivery (and at once if something is
    /// already there); it must be quick and must not call the engine.
    pub fn set_waker(&self, waker: impl Fn() + Send + 'static) {
        let mut inbox = self.mailbox.inbox.lock();
        if !inbox.tokens.is_empty() || inbox.end.is_some() {
            waker();
        }
        inbox.waker = Some(Box::new(waker));
    }

    /// Waits for the end and returns all tokens.
    ///
    /// # Errors
    /// The error the request ended with.
    pub fn wait(mut self) -> Result<(Vec<Token>, Finished)> {
        let mut tokens = Vec::new();
        for event in &mut self {
            match event? {
                Event::Token(token) => tokens.push(token),
                Event::Finished(finished) => return Ok((tokens, *finished)),
            }
        }
        Err(Error::EngineDead { reason: "the stream was taken to its end before".into() })
    }
}

impl Iterator for TokenStream {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        const FOREVER: Duration = Duration::from_secs(3600);
        loop {
            if self.done {
                return None;
            }
            if let Some(event) = self.next_timeout(FOREVER) {
                return Some(event);
            }
        }
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        self.cancel();
    }
}
