//! A router over a simulated model with the demo checkpoint's tokenizer and template.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use kilotok::backend::sim::{SimConfig, SimExecutor};
use kilotok::backend::{Backend, Limits, Rounds};
use kilotok::engine::{Engine, EngineConfig, ModelInfo};
use kilotok_server::{App, ServerConfig, router};
use kilotok_text::TextEngine;
use serde_json::Value;
use tower::ServiceExt as _;

pub(crate) const VOCAB: usize = 4096;
pub(crate) const SLOTS: usize = 4;
pub(crate) const POSITIONS: usize = 2048;

pub(crate) fn demo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../python/kilotok/demo/checkpoint")
}

pub(crate) fn sim(verify_time: Duration) -> Box<dyn Backend> {
    let limits = Limits {
        max_rows: 64,
        slots: SLOTS,
        pages: SLOTS * POSITIONS / 16,
        page_size: 16,
        max_positions: POSITIONS,
        snapshots: 32,
    };
    Box::new(Rounds::new(SimExecutor::new(SimConfig {
        limits,
        vocab: VOCAB,
        max_drafts: 7,
        hit_percent: 70,
        verify_time,
        draft_time: Duration::ZERO,
    })))
}

pub(crate) fn engine_over(backend: Box<dyn Backend>) -> TextEngine {
    let info = ModelInfo { vocab: VOCAB, eos_token_ids: vec![2], max_drafts: 7 };
    let engine = Engine::start(backend, info, EngineConfig::default()).unwrap();
    TextEngine::from_dir(Arc::new(engine), &demo()).unwrap()
}

pub(crate) struct Server {
    pub(crate) app: App,
    pub(crate) engine: TextEngine,
    pub(crate) router: Router,
}

impl Server {
    pub(crate) fn new(config: ServerConfig, verify_time: Duration) -> Self {
        Self::over(config, engine_over(sim(verify_time)))
    }

    pub(crate) fn over(config: ServerConfig, engine: TextEngine) -> Self {
        let app = App::new(config);
        app.ready(engine.clone());
        Self { router: router(app.clone()), app, engine }
    }

    pub(crate) fn quick() -> Self {
        Self::new(ServerConfig::named("sim"), Duration::ZERO)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(post(path, body.to_string())).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        Reply { status, headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    /// Waits until nothing of any request is left in the engine.
    pub(crate) async fn idle(&self) {
        let started = Instant::now();
        loop {
            let stats = self.engine.engine().stats();
            let left = stats.running + stats.waiting + stats.pages_used + self.app.in_flight();
            if left == 0 {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "leaked: {stats:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

pub(crate) fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header("content-type", "application/json").body(body.into()).unwrap()
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    /// The `param` of a 400.
    pub(crate) fn refused(&self) -> String {
        assert_eq!(self.status, 400, "{}", self.text);
        self.json()["error"]["param"].as_str().unwrap_or_default().to_owned()
    }

    /// The data of every event; `[DONE]` has to be the last of an unbroken stream.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text);
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let mut frames: Vec<&str> = self
            .text
            .split_terminator("\n\n")
            .filter(|frame| !frame.starts_with(':'))
            .map(|frame| frame.strip_prefix("data: ").unwrap())
            .collect();
        assert_eq!(frames.pop(), Some("[DONE]"));
        frames.into_iter().map(|frame| serde_json::from_str(frame).unwrap()).collect()
    }
}
