//! The state behind a router: configuration, engine, numbers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kilotok_text::{Format, TextEngine};
use parking_lot::RwLock;

use crate::ServerConfig;
use crate::admission::Admission;
use crate::error::ApiError;
use crate::health::Health;
use crate::metrics::Metrics;

/// How far loading has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes that are resident.
    pub bytes_done: u64,
    /// Bytes in total; 0 while unknown.
    pub bytes_total: u64,
    /// What is being read.
    pub file: String,
}

impl LoadProgress {
    /// Share that is resident, 0 to 1; `None` while the total is unknown.
    pub fn fraction(&self) -> Option<f64> {
        (self.bytes_total > 0).then(|| self.bytes_done as f64 / self.bytes_total as f64)
    }
}

pub(crate) enum Phase {
    Loading(LoadProgress),
    Ready(TextEngine),
    Failed(String),
}

/// A served model. Cheap to clone; hand one to [`crate::router`] and keep one to report loading,
/// readiness and the end.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    config: ServerConfig,
    phase: RwLock<Phase>,
    created: u64,
    format: OnceLock<Format>,
    /// Bytes that loading was to read; 0 where it did not say.
    weight_bytes: AtomicU64,
    draining: AtomicBool,
    admission: Admission,
    metrics: Metrics,
    health: Health,
}

impl App {
    /// A server whose model is still loading: routes answer 503 until [`App::ready`].
    pub fn new(config: ServerConfig) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(Arc::new(Inner {
            metrics: Metrics::new(&config.model),
            admission: Admission::new(config.max_queue),
            config,
            phase: RwLock::new(Phase::Loading(LoadProgress::default())),
            created: created.as_secs(),
            format: OnceLock::new(),
            weight_bytes: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            health: Health::default(),
        }))
    }

    /// Reports how far loading has come.
    pub fn loading(&self, progress: LoadProgress) {
        self.0.weight_bytes.store(progress.bytes_total, Ordering::Relaxed);
        *self.0.phase.write() = Phase::Loading(progress);
    }

    /// Starts serving this engine.
    pub fn ready(&self, engine: TextEngine) {
        self.0.admission.set_slots(engine.engine().limits().slots);
        let (template, tokenizer) = (engine.template(), engine.tokenizer());
        let format =
            Format::of_checkpoint(template.map(AsRef::as_ref), tokenizer.map(AsRef::as_ref));
        // An app serves one model; a second engine is another instance of it.
        let _ = self.0.format.set(format);
        *self.0.phase.write() = Phase::Ready(engine);
    }

    /// Reports that loading failed for good.
    pub fn failed(&self, reason: impl Into<String>) {
        *self.0.phase.write() = Phase::Failed(reason.into());
    }

    /// Refuses new requests; those in flight go on.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// Ends every request in flight with an error by closing the engine; returns when it is closed.
    pub fn abort(&self) {
        self.drain();
        let engine = self.with_phase(|phase| match phase {
            Phase::Ready(engine) => Some(engine.clone()),
            _ => None,
        });
        if let Some(engine) = engine {
            engine.engine().close();
        }
    }

    /// Sequences in flight, waiting ones included.
    pub fn in_flight(&self) -> usize {
        self.0.admission.in_flight()
    }

    /// What the server was told.
    pub fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    pub(crate) fn with_phase<T>(&self, read: impl FnOnce(&Phase) -> T) -> T {
        read(&self.0.phase.read())
    }

    pub(crate) fn weight_bytes(&self) -> u64 {
        self.0.weight_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn created(&self) -> u64 {
        self.0.created
    }

    /// The markup in the model's output.
    pub(crate) fn format(&self) -> Format {
        self.0.format.get().copied().unwrap_or(Format::Plain)
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.0.admission
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn health(&self) -> &Health {
        &self.0.health
    }

    /// The engine, for a new request.
    pub(crate) fn engine(&self) -> Result<TextEngine, ApiError> {
        let soon = Duration::from_secs(2);
        if self.is_draining() {
            return Err(ApiError::unavailable("the server is shutting down", soon));
        }
        self.with_phase(|phase| match phase {
            Phase::Ready(engine) => Ok(engine.clone()),
            Phase::Loading(_) => Err(ApiError::unavailable("the model is still loading", soon)),
            Phase::Failed(reason) => {
                Err(ApiError { retry_after: None, ..ApiError::unavailable(reason, soon) })
            }
        })
    }

    /// Checks the `model` of a request.
    pub(crate) fn check_model(&self, model: Option<&str>) -> Result<(), ApiError> {
        let config = self.config();
        match model {
            Some(model) if model != config.model && !config.aliases.iter().any(|a| a == model) => {
                let shown: String = model.chars().take(128).collect();
                Err(ApiError {
                    param: Some("model".into()),
                    code: Some("model_not_found"),
                    ..ApiError::new(
                        axum::http::StatusCode::NOT_FOUND,
                        "invalid_request_error",
                        format!("no model `{shown}`; this server has `{}`", config.model),
                    )
                })
            }
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("config", &self.0.config).finish_non_exhaustive()
    }
}
