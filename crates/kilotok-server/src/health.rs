//! `/live`, `/ready`, `/health`: three questions, each answered truthfully.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use kilotok::SamplingParams;
use kilotok::engine::{Engine, Stats};
use kilotok_text::{Prompt, TextEngine, TextParams};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::App;
use crate::app::Phase;

/// A probe token is asked for at most this often.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// What was seen of the engine's progress.
#[derive(Debug, Default)]
pub(crate) struct Health {
    seen: Mutex<Option<Seen>>,
    probing: tokio::sync::Mutex<Option<(Instant, Result<(), String>)>>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    rounds: u64,
    ended: u64,
    /// Since when the engine had work and these numbers stayed the same.
    since: Instant,
}

impl Health {
    /// How long the engine has had work and made no round.
    fn stalled_for(&self, stats: &Stats) -> Duration {
        let ended = stats.finished + stats.cancelled;
        let busy = stats.running + stats.waiting > 0;
        let now = Instant::now();
        let mut seen = self.seen.lock();
        match *seen {
            Some(seen) if busy && (seen.rounds, seen.ended) == (stats.rounds, ended) => {
                now - seen.since
            }
            _ => {
                *seen = Some(Seen { rounds: stats.rounds, ended, since: now });
                Duration::ZERO
            }
        }
    }

    /// Looks at the engine from time to time, so that `/health` knows since when it stands still.
    pub(crate) async fn watch(app: App) {
        loop {
            tokio::time::sleep(app.config().stall_after.min(Duration::from_secs(1)) / 4).await;
            if let Some(engine) = ready(&app) {
                app.health().stalled_for(&engine.engine().stats());
            }
        }
    }

    /// Asks for one token.
    async fn probe(&self, engine: &TextEngine, timeout: Duration) -> Result<(), String> {
        let mut last = self.probing.lock().await;
        if let Some((at, result)) = &*last
            && at.elapsed() < PROBE_EVERY
        {
            return result.clone();
        }
        let result = one_token(engine, timeout).await;
        *last = Some((Instant::now(), result.clone()));
        result
    }
}

async fn one_token(engine: &TextEngine, timeout: Duration) -> Result<(), String> {
    let sampling = SamplingParams { max_tokens: 1, ..SamplingParams::default() };
    let params = TextParams { sampling, ..TextParams::default() };
    let mut stream = engine.submit(Prompt::Tokens(vec![0]), &params).map_err(|e| e.to_string())?;
    let arrived = std::sync::Arc::new(tokio::sync::Notify::new());
    let notify = std::sync::Arc::clone(&arrived);
    stream.set_waker(move || notify.notify_one());
    let token = async {
        loop {
            match stream.poll() {
                Some(Ok(piece)) if piece.completion.is_some() => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
                None => arrived.notified().await,
            }
        }
    };
    match tokio::time::timeout(timeout, token).await {
        Ok(result) => result,
        Err(_) => Err(format!("no probe token came within {} ms", timeout.as_millis())),
    }
}

fn ready(app: &App) -> Option<TextEngine> {
    app.with_phase(|phase| match phase {
        Phase::Ready(engine) => Some(engine.clone()),
        _ => None,
    })
}

/// The process runs. Needs no key.
pub(crate) async fn live() -> &'static str {
    "ok\n"
}

/// Whether requests would be taken: 503 while loading, with progress, and while draining.
pub(crate) async fn readiness(State(app): State<App>) -> Response {
    let mut body = app.with_phase(|phase| match phase {
        Phase::Ready(_) => json!({ "status": "ready" }),
        Phase::Failed(reason) => json!({ "status": "failed", "reason": reason }),
        Phase::Loading(progress) => {
            json!({
                "status": "loading",
                "bytes_done": progress.bytes_done,
                "bytes_total": progress.bytes_total,
                "fraction": progress.fraction().unwrap_or(0.0),
                "file": progress.file,
            })
        }
    });
    if app.is_draining() {
        body = json!({ "status": "draining", "in_flight": app.in_flight() });
    }
    let ok = body["status"] == "ready";
    (status(ok), Json(body)).into_response()
}

/// Whether tokens come: the engine lives and makes rounds while it has work; while it has none, it
/// has to make a probe token.
pub(crate) async fn health(State(app): State<App>) -> Response {
    let Some(engine) = ready(&app) else { return readiness(State(app)).await };
    let (ok, body) = examine(&app, &engine).await;
    (status(ok), Json(body)).into_response()
}

async fn examine(app: &App, engine: &TextEngine) -> (bool, Value) {
    if let Err(error) = engine.engine().alive() {
        return (false, json!({ "status": "dead", "reason": error.to_string() }));
    }
    let stats = engine.engine().stats();
    let stalled = app.health().stalled_for(&stats);
    if stalled >= app.config().stall_after {
        let reason = format!("no round for {} ms while requests wait", stalled.as_millis());
        return (false, json!({ "status": "stalled", "reason": reason }));
    }
    let idle = is_idle(engine.engine());
    if idle && let Err(reason) = app.health().probe(engine, app.config().probe_timeout).await {
        return (false, json!({ "status": "stalled", "reason": reason }));
    }
    let body = json!({
        "status": if app.is_draining() { "draining" } else { "ok" },
        "running": stats.running,
        "waiting": stats.waiting,
        "rounds": stats.rounds,
        "checked_by": if idle { "probe token" } else { "rounds" },
        "warning": stats.warning,
    });
    (true, body)
}

fn is_idle(engine: &Engine) -> bool {
    let stats = engine.stats();
    stats.running + stats.waiting == 0
}

fn status(ok: bool) -> StatusCode {
    if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
