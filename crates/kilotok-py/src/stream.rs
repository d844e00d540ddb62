//! One request's tokens on their way to Python, with their text.

use std::time::{Duration, Instant};

use kilotok::Error;
use kilotok::backend::TokenLogprobs;
use kilotok::engine::{self, Canceller, FinishReason, Finished, Receipt};
use kilotok_text::{Detokenizer, StopMatcher};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::errors::{guard, raised, text_raised};
use crate::notifier::Waker;
use crate::process;

/// Why a text ended, for `stop_reason`.
#[derive(Clone, IntoPyObject)]
enum StopReason {
    Token(u32),
    Text(String),
}

/// A log-probability, and the most likely token ids with theirs.
type Logprobs = (f32, Vec<(u32, f32)>);

/// What one round added to a text; the last event of a text has a `finish_reason`.
#[pyclass(frozen, module = "kilotok._core")]
pub(crate) struct Event {
    /// Text that is now certain; `None` without a tokenizer.
    #[pyo3(get)]
    text: Option<String>,
    /// Tokens of this round.
    #[pyo3(get)]
    token_ids: Vec<u32>,
    logprobs: Vec<Option<Box<TokenLogprobs>>>,
    stop_reason: Option<StopReason>,
    finished: Option<Box<Finished>>,
}

#[pymethods]
impl Event {
    /// `(logprob, [(token id, logprob), ...])` per token, where asked for.
    #[getter]
    fn logprobs(&self) -> Option<Vec<Logprobs>> {
        let entries: Option<Vec<_>> =
            self.logprobs.iter().map(|e| e.as_ref().map(|e| (e.chosen, e.top.clone()))).collect();
        entries.filter(|entries| !entries.is_empty())
    }

    /// `"stop"` or `"length"` on the last event.
    #[getter]
    fn finish_reason(&self) -> Option<&'static str> {
        self.finished.as_ref().map(|finished| match finished.reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        })
    }

    /// The stop token id or stop string, on the last event of a text that one ended.
    #[getter]
    fn stop_reason(&self) -> Option<StopReason> {
        self.stop_reason.clone()
    }

    /// Fields of `kilotok.Receipt`, on the last event.
    #[getter]
    fn receipt<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        self.finished.as_ref().map(|finished| receipt(py, &finished.receipt)).transpose()
    }
}

fn receipt<'py>(py: Python<'py>, receipt: &Receipt) -> PyResult<Bound<'py, PyDict>> {
    let known = |value: f64| (value > 0.0).then_some(value);
    let out = PyDict::new(py);
    out.set_item("prompt_tokens", receipt.prompt_tokens)?;
    out.set_item("cached_tokens", receipt.cached_tokens)?;
    out.set_item("queue_ms", receipt.queue_ms)?;
    out.set_item("prefill_ms", receipt.prefill_ms)?;
    out.set_item("ttft_ms", receipt.ttft_ms)?;
    out.set_item("tokens", receipt.tokens)?;
    out.set_item("rounds", receipt.rounds)?;
    out.set_item("tau", known(receipt.tau).unwrap_or(1.0))?;
    out.set_item("accepted_histogram", PyTuple::new(py, &receipt.accepted_histogram)?)?;
    out.set_item("tokens_per_s", known(receipt.tokens_per_s))?;
    out.set_item("plain_step_ms", known(receipt.plain_step_ms))?;
    out.set_item("speedup", known(receipt.speedup))?;
    out.set_item("seed", receipt.seed)?;
    out.set_item("warning", receipt.warning.as_deref())?;
    Ok(out)
}

/// How tokens become text.
pub(crate) struct Text {
    pub(crate) detokenizer: Detokenizer,
    pub(crate) stop: StopMatcher,
}

struct Reader {
    stream: engine::TokenStream,
    text: Option<Text>,
    last_token: Option<u32>,
    emitted: usize,
    /// The stop string that ended the text; later tokens are dropped until the receipt comes.
    matched: Option<String>,
    /// Came behind tokens that are still to be handed out.
    failure: Option<Error>,
    has_ended: bool,
}

/// Tokens and text of one request. Dropping it cancels the request.
#[pyclass(frozen, module = "kilotok._core")]
pub(crate) struct TokenStream {
    reader: Mutex<Reader>,
    canceller: Canceller,
}

impl TokenStream {
    pub(crate) fn new(stream: engine::TokenStream, text: Option<Text>) -> Self {
        let canceller = stream.canceller();
        let reader = Reader {
            stream,
            text,
            last_token: None,
            emitted: 0,
            matched: None,
            failure: None,
            has_ended: false,
        };
        Self { reader: Mutex::new(reader), canceller }
    }
}

#[pymethods]
impl TokenStream {
    /// The next event, waiting at most `timeout` seconds without the GIL; `None` if none came.
    fn next(&self, py: Python<'_>, timeout: f64) -> PyResult<Option<Event>> {
        let timeout = Duration::try_from_secs_f64(timeout).unwrap_or(Duration::ZERO);
        guard(|| py.detach(|| self.reader.lock().next(timeout)))
    }

    /// The next event if there is one; never waits for the engine.
    fn poll(&self, py: Python<'_>) -> PyResult<Option<Event>> {
        guard(|| py.detach(|| self.reader.lock().next(Duration::ZERO)))
    }

    /// Calls `waker()` from another thread whenever `poll` may return something.
    fn set_waker(&self, py: Python<'_>, waker: Py<PyAny>) -> PyResult<()> {
        let waker = Waker::new(waker);
        guard(|| {
            py.detach(|| self.reader.lock().stream.set_waker(move || waker.wake()));
            Ok(())
        })
    }

    /// Frees the slot at the next round; reading then raises `CancelledError`.
    fn cancel(&self) {
        self.canceller.cancel();
    }
}

impl Reader {
    fn next(&mut self, timeout: Duration) -> PyResult<Option<Event>> {
        process::check()?;
        if let Some(error) = self.failure.take() {
            return Err(raised(error));
        }
        if self.has_ended {
            return Err(crate::errors::ended());
        }
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(first) = self.stream.next_timeout(left) else { return Ok(None) };
            let event = self.gather(first)?;
            if event.finished.is_some() || !event.token_ids.is_empty() {
                return Ok(Some(event));
            }
        }
    }

    /// Everything that has arrived by now, as one event.
    fn gather(&mut self, first: kilotok::Result<engine::Event>) -> PyResult<Event> {
        let mut event = Event {
            text: self.text.as_ref().map(|_| String::new()),
            token_ids: Vec::new(),
            logprobs: Vec::new(),
            stop_reason: None,
            finished: None,
        };
        let mut next = Some(first);
        while let Some(item) = next {
            match item {
                Ok(engine::Event::Token(token)) => self.token(token, &mut event)?,
                Ok(engine::Event::Finished(finished)) => self.finish(finished, &mut event)?,
                Err(error) => {
                    self.has_ended = true;
                    if event.token_ids.is_empty() {
                        return Err(raised(error));
                    }
                    self.failure = Some(error);
                }
            }
            next = self.stream.poll();
        }
        Ok(event)
    }

    fn token(&mut self, token: engine::Token, event: &mut Event) -> PyResult<()> {
        if self.matched.is_some() {
            return Ok(());
        }
        event.token_ids.push(token.id);
        event.logprobs.push(token.logprobs);
        self.last_token = Some(token.id);
        self.emitted += 1;
        if let Some(text) = &mut self.text {
            let piece = text.detokenizer.push(token.id).map_err(text_raised)?;
            self.show(&piece, event);
        }
        Ok(())
    }

    /// Passes text through the stop strings.
    fn show(&mut self, piece: &str, event: &mut Event) {
        let (Some(text), Some(shown)) = (&mut self.text, &mut event.text) else { return };
        let step = text.stop.push(piece);
        shown.push_str(&step.text);
        if let Some(found) = step.matched {
            self.matched = Some(found.text);
            self.stream.stop();
        }
    }

    fn finish(&mut self, mut finished: Box<Finished>, event: &mut Event) -> PyResult<()> {
        self.has_ended = true;
        if self.matched.is_none()
            && let Some(text) = &mut self.text
        {
            let rest = text.detokenizer.finish().map_err(text_raised)?;
            self.show(&rest, event);
        }
        if let Some(stop) = &self.matched {
            // The text ends at the stop string, however far the engine had gone.
            finished.reason = FinishReason::Stop;
            finished.receipt.tokens = self.emitted;
            event.stop_reason = Some(StopReason::Text(stop.clone()));
        } else {
            if let (Some(text), Some(shown)) = (&mut self.text, &mut event.text) {
                shown.push_str(&text.stop.finish());
            }
            if finished.reason == FinishReason::Stop {
                event.stop_reason = self.last_token.map(StopReason::Token);
            }
        }
        event.finished = Some(finished);
        Ok(())
    }
}
