//! The engine: requests in, token streams out, one thread that plans and runs rounds.

mod active;
mod builder;
mod config;
mod event;
mod pages;
mod plan;
mod prefix;
mod receipt;
mod request;
mod stats;
mod stream;
mod trace;
mod update;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use parking_lot::Mutex;

pub use builder::{BackendInfo, Device, EngineBuilder, ExecutionMode};
pub use config::{EngineConfig, Speculation};
pub use event::{Event, FinishReason, Finished, Token};
pub use receipt::Receipt;
pub use request::Request;
pub use stats::Stats;
pub use stream::{Canceller, TokenStream};

use crate::backend::{Backend, Limits};
use crate::error::{Error, Result};
use crate::model::Model;
use stats::Shared;
use stream::Mailbox;
use worker::{Command, Submission, Worker};

/// What the engine knows of its model, without its weights.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// Width of a logits row: token ids are below it.
    pub vocab: usize,
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<u32>,
    /// Drafts per block at most; 0 without a drafter.
    pub max_drafts: usize,
}

/// A running engine. Cheap to share behind an [`Arc`]; all methods take `&self`.
///
/// Dropping it closes it: requests in flight end with [`Error::EngineDead`].
pub struct Engine {
    commands: Sender<Command>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    info: ModelInfo,
    limits: Limits,
    config: EngineConfig,
    backend: BackendInfo,
    /// The weights in use, where the engine knows them; held locked while they are replaced.
    model: Mutex<Option<Arc<Model>>>,
    next_id: AtomicU64,
}

impl Engine {
    /// Starts an engine over a backend that exists already.
    ///
    /// # Errors
    /// Where the configuration is out of range or the thread cannot be started.
    pub fn start(backend: Box<dyn Backend>, info: ModelInfo, config: EngineConfig) -> Result<Self> {
        config.validate(info.max_drafts)?;
        let limits = backend.limits();
        let shared = Arc::new(Shared::new(limits));
        let (commands, receiver) = crossbeam_channel::unbounded();
        let worker = Worker::new(backend, info.clone(), config.clone(), Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("kilotok-engine".into())
            .spawn(move || worker.run(&receiver))
            .map_err(|e| Error::EngineDead { reason: format!("no thread: {e}") })?;
        Ok(Self {
            commands,
            shared,
            thread: Mutex::new(Some(thread)),
            info,
            limits,
            config,
            backend: BackendInfo::default(),
            model: Mutex::new(None),
            next_id: AtomicU64::new(0),
        })
    }

    /// Hands in a request; tokens arrive on the returned stream.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] where a parameter is out of range, [`Error::OutOfMemory`] where
    /// the request can never fit or the queue is full, [`Error::Constraint`] where its grammar
    /// cannot be followed, [`Error::EngineDead`] after [`Engine::close`].
    pub fn submit(&self, request: Request) -> Result<TokenStream> {
        self.shared.alive()?;
        self.check(&request)?;
        let constraint = request.grammar.as_ref().map(|grammar| grammar.start()).transpose()?;
        let capacity = self.config.queue_capacity;
        if self.shared.waiting.fetch_add(1, Ordering::AcqRel) >= capacity {
            self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(Error::OutOfMemory {
                what: "the request queue".into(),
                needed: capacity as u64 + 1,
                available: capacity as u64,
                unit: "requests",
            });
        }
        let mailbox = Arc::new(Mailbox::new());
        let stream = TokenStream::new(Arc::clone(&mailbox));
        let seed = request.params.seed.unwrap_or_else(|| self.draw_seed());
        let submission = Submission::new(request, constraint, mailbox, seed);
        self.commands
            .send(Command::Submit(Box::new(submission)))
            .map_err(|_| self.shared.dead())?;
        Ok(stream)
    }

    /// A key that differs between requests and between runs.
    fn draw_seed(&self) -> u64 {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one(self.next_id.fetch_add(1, Ordering::Relaxed)) >> 11
    }

    fn check(&self, request: &Request) -> Result<()> {
        if request.prompt.is_empty() {
            return Err(Error::invalid("prompt", "it has no tokens"));
        }
        let vocab = self.info.vocab;
        if let Some(token) = request.prompt.iter().find(|t| **t as usize >= vocab) {
            let reason = format!("token id {token} is not below {vocab}");
            return Err(Error::invalid("prompt", reason));
        }
        request.params.validate(vocab)?;
        if let Some(speculation) = request.speculation {
            speculation.validate(self.info.max_drafts)?;
        }
        let needed = request.prompt.len() as u64 + u64::from(request.params.max_tokens) - 1;
        let pages = self.limits.pages * self.limits.page_size;
        let available = self.limits.max_positions.min(pages) as u64;
        if needed > available {
            return Err(Error::OutOfMemory {
                what: format!(
                    "a prompt of {} tokens with max_tokens {}",
                    request.prompt.len(),
                    request.params.max_tokens
                ),
                needed,
                available,
                unit: "positions",
            });
        }
        Ok(())
    }

    /// What the model takes and gives.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What the backend was built to hold.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Where the model runs; empty where the caller made the backend.
    pub fn backend(&self) -> &BackendInfo {
        &self.backend
    }

    /// Whether requests can succeed.
    ///
    /// # Errors
    /// [`Error::EngineDead`] with the reason, after [`Engine::close`] or a failure.
    pub fn alive(&self) -> Result<()> {
        self.shared.alive()
    }

    /// Counters and gauges of this moment.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Ends every request with [`Error::EngineDead`] and frees the backend; returns when done.
    pub fn close(&self) {
        self.shared.kill("closed");
        // Wakes an idle worker; an error means it is gone already.
        let _ = self.commands.send(Command::Wake);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("info", &self.info)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
