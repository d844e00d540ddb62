//! Requests on their way through the engine: started off the I/O threads, read as a stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use futures_util::{Stream, StreamExt as _};
use kilotok_text::{Completion, Piece, Prompt, TextEngine, TextError, TextParams, TextStream};
use tokio::time::Sleep;

use crate::App;
use crate::admission::Permit;
use crate::api::rules::Rules;
use crate::error::ApiError;
use crate::metrics::Tracker;

/// What a route asks of the engine.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// Each is continued `params.n` times.
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) params: TextParams,
    /// What the output has to be.
    pub(crate) rules: Rules,
    /// `None`: to the context's end, but not beyond the server's default.
    pub(crate) max_tokens: Option<u32>,
    /// Time that the whole request may take.
    pub(crate) deadline: Option<Duration>,
}

/// Pieces of all sequences, in order of arrival; sequence `i` of prompt `p` has index `p * n + i`.
/// Dropping it cancels what still runs.
pub(crate) struct Generation {
    streams: Vec<TextStream>,
    n: usize,
    /// Stream to look at first, so that none waits for another.
    next: usize,
    waker: Arc<AtomicWaker>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Prompts of conversations, as text.
    rendered: Vec<String>,
    tracker: Tracker,
    failed: bool,
    _permit: Permit,
}

impl Generation {
    /// Checks, encodes and submits; every error of the request itself is found here.
    pub(crate) async fn start(app: &App, job: Job) -> Result<Self, ApiError> {
        let engine = app.engine()?;
        let tracker = Tracker::new(app);
        let sequences = job.prompts.len() * job.params.n as usize;
        if let Some(deadline) = job.deadline
            && let Some(wait) = app.admission().expected_wait()
        {
            if wait > deadline {
                app.metrics().rejected("deadline");
                return Err(ApiError::deadline(format!(
                    "the first token is expected in about {} ms, after the deadline of {} ms",
                    wait.as_millis(),
                    deadline.as_millis()
                )));
            }
        }
        let permit = Permit::take(app, sequences)?;
        let deadline = job.deadline.map(|after| Box::pin(tokio::time::sleep(after)));
        let default_max = app.config().defaults.max_tokens;
        let n = job.params.n as usize;
        // The closure owns the permit: work that outlives its client still counts.
        let work = tokio::task::spawn_blocking(move || {
            submit(&engine, job, default_max).map(|submitted| (submitted, permit))
        });
        let (Submitted { streams, rendered }, permit) = work.await.map_err(|error| {
            tracing::error!(%error, "a request panicked");
            let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
            ApiError::new(status, "server_error", "the request failed; the server's log says why")
        })??;
        let waker = Arc::new(AtomicWaker::new());
        for stream in &streams {
            let waker = Arc::clone(&waker);
            stream.set_waker(move || waker.wake());
        }
        let mut tracker = tracker;
        tracker.submitted(sequences);
        Ok(Self {
            streams,
            n,
            next: 0,
            waker,
            deadline,
            rendered,
            tracker,
            failed: false,
            _permit: permit,
        })
    }

    /// The tokens of a prompt.
    pub(crate) fn prompt_token_ids(&self, prompt: usize) -> &[u32] {
        self.streams[prompt].prompt_token_ids()
    }

    /// The text of a conversation's prompt.
    pub(crate) fn rendered(&self) -> &str {
        self.rendered.first().map_or("", String::as_str)
    }

    /// Tokens of all prompts.
    pub(crate) fn prompt_tokens(&self) -> usize {
        self.streams.iter().map(|stream| stream.prompt_token_ids().len()).sum()
    }

    /// Waits for the end; completions by index. `read` sees every piece.
    pub(crate) async fn collect(
        mut self,
        mut read: impl FnMut(&Piece),
    ) -> Result<Vec<Completion>, ApiError> {
        let mut completions = Vec::with_capacity(self.streams.len() * self.n);
        while let Some(piece) = self.next().await {
            let piece = piece?;
            read(&piece);
            if let Some(completion) = piece.completion {
                completions.push(*completion);
            }
        }
        completions.sort_by_key(|completion| completion.index);
        Ok(completions)
    }

    fn poll_streams(&mut self) -> Option<Result<Piece, ApiError>> {
        let count = self.streams.len();
        for offset in 0..count {
            let at = (self.next + offset) % count;
            match self.streams[at].poll() {
                None => {}
                Some(Err(error)) => return Some(Err(error.into())),
                Some(Ok(mut piece)) => {
                    self.next = (at + 1) % count;
                    piece.index += at * self.n;
                    if let Some(completion) = &mut piece.completion {
                        completion.index = piece.index;
                    }
                    self.tracker.piece(&piece);
                    return Some(Ok(piece));
                }
            }
        }
        None
    }
}

/// An error of a rule names the field that the rule came from.
fn refused(rules: &Rules, error: TextError) -> ApiError {
    match error {
        TextError::Grammar { part, reason } => rules.refused(part, &reason),
        other => other.into(),
    }
}

struct Submitted {
    streams: Vec<TextStream>,
    rendered: Vec<String>,
}

fn submit(engine: &TextEngine, mut job: Job, default_max: u32) -> Result<Submitted, ApiError> {
    let limits = engine.engine().limits();
    let context = limits.max_positions.min(limits.pages * limits.page_size);
    let mut streams = Vec::with_capacity(job.prompts.len());
    let mut rendered = Vec::new();
    for prompt in job.prompts {
        let tokens = match prompt {
            Prompt::Chat(input) => {
                let text = engine.render_chat(&input)?;
                // The template writes the special tokens itself.
                let tokens = engine.encode(Prompt::Text(text.clone()), false)?;
                let grammar = engine.constrain_message(&text, &job.rules.output);
                job.params.grammar = grammar.map_err(|error| refused(&job.rules, error))?;
                rendered.push(text);
                tokens
            }
            prompt => {
                if let Some(answer) = &job.rules.output.answer {
                    let grammar = engine.constrain_text(answer);
                    let grammar = grammar.map_err(|error| refused(&job.rules, error))?;
                    job.params.grammar = Some(grammar);
                }
                engine.encode(prompt, job.params.add_special_tokens)?
            }
        };
        job.params.sampling.max_tokens = job.max_tokens.unwrap_or_else(|| {
            // The last token needs no position of its own.
            let left = (context + 1).saturating_sub(tokens.len()).max(1);
            default_max.min(u32::try_from(left).unwrap_or(u32::MAX))
        });
        streams.push(engine.submit(tokens, &job.params)?);
    }
    Ok(Submitted { streams, rendered })
}

impl Stream for Generation {
    type Item = Result<Piece, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.failed {
            return Poll::Ready(None);
        }
        // Registered first: what arrives between the two lines wakes the task again.
        this.waker.register(context.waker());
        if let Some(item) = this.poll_streams() {
            this.failed = item.is_err();
            return Poll::Ready(Some(item));
        }
        if this.streams.iter().all(TextStream::is_done) {
            return Poll::Ready(None);
        }
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            this.failed = true;
            let error = ApiError::deadline("the deadline passed before the request finished");
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Pending
    }
}
