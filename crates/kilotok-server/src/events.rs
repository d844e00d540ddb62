//! Server-sent events: pieces of a generation as frames of a response body.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use kilotok_text::Piece;
use serde::Serialize;
use tokio::time::{Duration, Instant, Sleep};

use crate::App;
use crate::error::ApiError;
use crate::generation::Generation;

/// Frames on their way out.
#[derive(Debug, Default)]
pub(crate) struct Frames(Vec<u8>);

impl Frames {
    /// `data: <json>`.
    pub(crate) fn data(&mut self, data: &impl Serialize) {
        self.0.extend_from_slice(b"data: ");
        // Values of our own making in memory: neither can fail.
        let _ = serde_json::to_writer(&mut self.0, data);
        self.0.extend_from_slice(b"\n\n");
    }

    /// `event: <name>` with data.
    pub(crate) fn event(&mut self, name: &str, data: &impl Serialize) {
        self.0.extend_from_slice(b"event: ");
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.data(data);
    }

    /// The end of an OpenAI stream.
    pub(crate) fn done(&mut self) {
        self.0.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.0))
    }
}

/// Writes the events of one API.
pub(crate) trait Events: Send + Unpin + 'static {
    /// What comes before the first token.
    fn begin(&mut self, _out: &mut Frames) {}
    /// A piece of a sequence.
    fn piece(&mut self, piece: Piece, out: &mut Frames);
    /// After the last piece.
    fn end(&mut self, out: &mut Frames);
    /// In place of the rest; nothing follows.
    fn error(&mut self, error: &ApiError, out: &mut Frames) {
        out.data(&error.body());
    }
}

struct EventBody<E> {
    generation: Option<Generation>,
    events: E,
    frames: Frames,
    keep_alive: Duration,
    quiet_until: Pin<Box<Sleep>>,
    last: Instant,
}

/// A streaming response.
pub(crate) fn respond(app: &App, generation: Generation, mut events: impl Events) -> Response {
    let keep_alive = app.config().keep_alive;
    let mut frames = Frames::default();
    events.begin(&mut frames);
    let body = EventBody {
        generation: Some(generation),
        events,
        frames,
        keep_alive,
        quiet_until: Box::pin(tokio::time::sleep(keep_alive)),
        last: Instant::now(),
    };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Proxies that buffer would hold tokens back.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(body)).into_response()
}

impl<E: Events> EventBody<E> {
    /// Takes what is there; true once the stream has ended.
    fn advance(&mut self, context: &mut Context<'_>) -> bool {
        loop {
            let Some(generation) = &mut self.generation else { return true };
            match Pin::new(generation).poll_next(context) {
                Poll::Pending => return false,
                Poll::Ready(Some(Ok(piece))) => {
                    self.events.piece(piece, &mut self.frames);
                    if !self.frames.0.is_empty() {
                        return false;
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::warn!(error = %error.message, "stream broken off");
                    self.events.error(&error, &mut self.frames);
                    self.generation = None;
                }
                Poll::Ready(None) => {
                    self.events.end(&mut self.frames);
                    self.generation = None;
                }
            }
        }
    }
}

impl<E: Events> Stream for EventBody<E> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.frames.0.is_empty() {
            let ended = this.advance(context);
            if this.frames.0.is_empty() && ended {
                return Poll::Ready(None);
            }
        }
        if !this.frames.0.is_empty() {
            this.last = Instant::now();
            return Poll::Ready(Some(Ok(this.frames.take())));
        }
        // The timer is set again only when it fires, not for every token.
        while this.quiet_until.as_mut().poll(context).is_ready() {
            let next = this.last + this.keep_alive;
            if next <= Instant::now() {
                this.last = Instant::now();
                this.quiet_until.as_mut().reset(this.last + this.keep_alive);
                return Poll::Ready(Some(Ok(Bytes::from_static(b": keep-alive\n\n"))));
            }
            this.quiet_until.as_mut().reset(next);
        }
        Poll::Pending
    }
}
