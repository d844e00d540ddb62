//! Loading, health, overload, disconnects, deadlines, death.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use futures_util::StreamExt as _;
use kilotok::Result;
use kilotok::backend::{Backend, Limits, Report, SequenceInit, Slot, Work};
use kilotok_server::{App, LoadProgress, ServerConfig, router};
use serde_json::json;
use tower::ServiceExt as _;

use crate::support::{SLOTS, Server, engine_over, post, sim};

/// A backend that stops making progress when told to.
struct Hanging {
    inner: Box<dyn Backend>,
    hang: Arc<AtomicBool>,
}

impl Backend for Hanging {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn open(&mut self, slot: Slot, sequence: SequenceInit) -> Result<()> {
        self.inner.open(slot, sequence)
    }

    fn close(&mut self, slot: Slot) {
        self.inner.close(slot);
    }

    fn run(&mut self, plan: &[Work], max_rounds: u32, report: &mut Report) -> Result<()> {
        while self.hang.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.inner.run(plan, max_rounds, report)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_fails_when_no_token_comes_and_recovers() {
    let hang = Arc::new(AtomicBool::new(false));
    let backend = Hanging { inner: sim(Duration::ZERO), hang: Arc::clone(&hang) };
    let mut config = ServerConfig::named("sim");
    config.stall_after = Duration::from_millis(200);
    config.probe_timeout = Duration::from_millis(200);
    let server = Server::over(config, engine_over(Box::new(backend)));
    let health = server.get("/health").await;
    assert_eq!(health.json()["checked_by"], "probe token");
    assert_eq!(health.status, 200);

    hang.store(true, Ordering::Release);
    // Idle, so only a probe can find out; the last one was good for a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let health = server.get("/health").await;
    assert_eq!((health.status.as_u16(), &health.json()["status"]), (503, &json!("stalled")));

    // Busy: found by watching rounds, without another token.
    let body = json!({"prompt": "x", "max_tokens": 4}).to_string();
    let waiting = tokio::spawn(server.router.clone().oneshot(post("/v1/completions", body)));
    tokio::time::sleep(Duration::from_millis(600)).await;
    let health = server.get("/health").await;
    assert_eq!(health.status, 503, "{}", health.text);
    assert!(health.text.contains("no round for"), "{}", health.text);
    assert_eq!(server.get("/live").await.status, 200, "the process does run");

    hang.store(false, Ordering::Release);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    server.idle().await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_loading_server_says_how_far_it_is() {
    let app = App::new(ServerConfig::named("sim"));
    let router = router(app.clone());
    let ask = |path: &'static str| {
        router.clone().oneshot(axum::http::Request::get(path).body(Body::empty()).unwrap())
    };
    app.loading(LoadProgress { bytes_done: 25, bytes_total: 100, file: "a.safetensors".into() });
    let reply = ask("/ready").await.unwrap();
    assert_eq!(reply.status(), 503);
    let body = axum::body::to_bytes(reply.into_body(), 9999).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&body["status"], &body["fraction"]), (&json!("loading"), &json!(0.25)));
    assert_eq!(ask("/health").await.unwrap().status(), 503);
    assert_eq!(ask("/live").await.unwrap().status(), 200);
    let chat = json!({"messages": [{"role": "user", "content": "x"}]}).to_string();
    let reply = router.clone().oneshot(post("/v1/chat/completions", chat)).await.unwrap();
    assert_eq!(reply.status(), 503);
    assert!(reply.headers().contains_key("retry-after"));

    app.ready(engine_over(sim(Duration::ZERO)));
    assert_eq!(ask("/ready").await.unwrap().status(), 200);
    app.drain();
    assert_eq!(ask("/ready").await.unwrap().status(), 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_at_once_and_says_how_long_to_wait() {
    let mut config = ServerConfig::named("sim");
    config.max_queue = 2;
    let server = Arc::new(Server::new(config, Duration::from_millis(2)));
    let body = json!({"prompt": "x", "max_tokens": 300, "speculation": "off", "ignore_eos": true});
    let tasks: Vec<_> = (0..30)
        .map(|_| {
            let (server, body) = (Arc::clone(&server), body.clone());
            tokio::spawn(async move {
                let started = Instant::now();
                let reply = server.post("/v1/completions", &body).await;
                (reply, started.elapsed())
            })
        })
        .collect();
    let (mut served, mut refused) = (0, 0);
    let (mut quickest, mut slowest_refusal) = (Duration::MAX, Duration::ZERO);
    for task in tasks {
        let (reply, took) = task.await.unwrap();
        match reply.status.as_u16() {
            200 => {
                served += 1;
                quickest = quickest.min(took);
            }
            429 => {
                refused += 1;
                slowest_refusal = slowest_refusal.max(took);
                assert!(reply.headers.contains_key("retry-after"));
                let ms: u64 = reply.headers["retry-after-ms"].to_str().unwrap().parse().unwrap();
                assert!((50..=120_000).contains(&ms));
                assert_eq!(reply.json()["error"]["code"], "queue_full");
            }
            other => panic!("{other}: {}", reply.text),
        }
    }
    assert_eq!((served, refused), (SLOTS + 2, 30 - SLOTS - 2));
    assert!(slowest_refusal < quickest, "a refusal waits for nobody");
    server.idle().await;
    let metrics = server.get("/metrics").await.text;
    let line = "vllm:admission_rejections_total{model_name=\"sim\",reason=\"queue_full\"} 24";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_a_request_and_frees_its_slot() {
    let server = Server::new(ServerConfig::named("sim"), Duration::from_millis(2));
    let body = json!({"prompt": "x", "max_tokens": 1000, "ignore_eos": true, "deadline_ms": 50});
    let started = Instant::now();
    let reply = server.post("/v1/completions", &body).await;
    assert_eq!(reply.refused(), "deadline_ms");
    assert!(started.elapsed() < Duration::from_millis(500));
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_leave_nothing_behind() {
    let server = Server::new(ServerConfig::named("sim"), Duration::from_micros(200));
    for round in 0..300_u64 {
        let stream = round % 3 != 0;
        let body = json!({
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 500, "ignore_eos": true, "stream": stream, "n": 1 + round % 3,
        });
        let request = post("/v1/chat/completions", body.to_string());
        let reply = server.router.clone().oneshot(request);
        let patience = Duration::from_micros(round * 37 % 3000);
        // Gone before the head, or after some chunks.
        let Ok(reply) = tokio::time::timeout(patience, reply).await else { continue };
        let mut chunks = reply.unwrap().into_body().into_data_stream();
        for _ in 0..round % 5 {
            chunks.next().await;
        }
    }
    server.idle().await;
    // Slots are usable again.
    server.post("/v1/completions", &json!({"prompt": "x", "max_tokens": 2})).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_engine_is_a_503_and_a_broken_stream_says_so() {
    let server = Server::new(ServerConfig::named("sim"), Duration::from_millis(2));
    let body = json!({
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 1000, "ignore_eos": true, "stream": true,
    });
    let request = post("/v1/chat/completions", body.to_string());
    let reply = server.router.clone().oneshot(request).await.unwrap();
    let mut chunks = reply.into_body().into_data_stream();
    chunks.next().await.unwrap().unwrap();
    let engine = server.engine.clone();
    tokio::task::spawn_blocking(move || engine.engine().close()).await.unwrap();
    let mut rest = Vec::new();
    while let Some(chunk) = chunks.next().await {
        rest.extend_from_slice(&chunk.unwrap());
    }
    let rest = String::from_utf8(rest).unwrap();
    let last = rest.trim_end().rsplit("\n\n").next().unwrap();
    let error: serde_json::Value =
        serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "engine_dead");
    assert!(!rest.contains("[DONE]"), "a broken stream is not done");

    let reply = server.post("/v1/completions", &json!({"prompt": "x"})).await;
    assert_eq!(reply.status, 503);
    let health = server.get("/health").await;
    assert_eq!((health.status.as_u16(), &health.json()["status"]), (503, &json!("dead")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_stream_carries_comments() {
    let mut config = ServerConfig::named("sim");
    config.keep_alive = Duration::from_millis(20);
    let server = Server::new(config, Duration::from_millis(100));
    let body = json!({"prompt": "x", "max_tokens": 3, "stream": true, "speculation": "off"});
    let reply = server.post("/v1/completions", &body).await;
    assert!(reply.text.matches(": keep-alive\n\n").count() >= 3, "{}", reply.text);
    assert!(!reply.events().is_empty());
}

/// A backend that says what it reached of its memory's ceiling.
struct Measuring(Box<dyn Backend>);

impl Backend for Measuring {
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn open(&mut self, slot: Slot, sequence: SequenceInit) -> Result<()> {
        self.0.open(slot, sequence)
    }

    fn close(&mut self, slot: Slot) {
        self.0.close(slot);
    }

    fn ceiling_fraction(&self) -> Option<f64> {
        Some(0.625)
    }

    fn run(&mut self, plan: &[Work], max_rounds: u32, report: &mut Report) -> Result<()> {
        self.0.run(plan, max_rounds, report)
    }
}

#[tokio::test]
async fn the_share_of_the_ceiling_is_shown_where_it_is_measured() {
    let measuring = engine_over(Box::new(Measuring(sim(Duration::ZERO))));
    let measuring = Server::over(ServerConfig::named("sim"), measuring);
    for (server, fraction) in [(&measuring, json!(0.625)), (&Server::quick(), json!(null))] {
        server.post("/v1/completions", &json!({"prompt": "x", "max_tokens": 8})).await.ok();
        assert_eq!(server.get("/status").await.ok()["ceiling_fraction"], fraction);
        let metrics = server.get("/metrics").await.text;
        let line = "kilotok:ceiling_fraction{model_name=\"sim\"} 0.625\n";
        assert_eq!(metrics.contains(line), !fraction.is_null(), "{metrics}");
        assert_eq!(metrics.contains("kilotok:ceiling_fraction"), !fraction.is_null());
    }
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let server = Server::quick();
    server.post("/v1/completions", &json!({"prompt": "x", "max_tokens": 8})).await.ok();
    let reply = server.get("/metrics").await;
    let text = &reply.text;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.contains("model_name=\"sim\""), "{line}");
        value.parse::<f64>().unwrap();
    }
    for name in [
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:inter_token_latency_seconds_count",
        "vllm:e2e_request_latency_seconds_sum",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total{model_name=\"sim\"} 8",
        "vllm:spec_decode_num_drafts_total",
    ] {
        assert!(text.contains(name), "{name} is missing:\n{text}");
    }
    assert!(text.contains("le=\"0.00005\""), "buckets start at 50 us");
}
