//! An OpenAI-compatible HTTP server over [`kilotok_text::TextEngine`].
//!
//! As a library it is an [`axum::Router`] to mount in a service of your own, over an engine you
//! built; the binary `kilotok` is a thin command line around the same router.
//!
//! ```no_run
//! # async fn run(engine: kilotok_text::TextEngine) -> std::io::Result<()> {
//! use kilotok_server::{App, ServerConfig};
//!
//! let app = App::new(ServerConfig::named("my-model"));
//! app.ready(engine);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
//! axum::serve(listener, kilotok_server::router(app)).await
//! # }
//! ```
#![forbid(unsafe_code)]

mod admission;
mod api;
mod app;
mod auth;
mod body;
#[cfg(feature = "cli")]
pub mod cli;
mod config;
mod error;
mod events;
mod fields;
mod generation;
mod guard;
mod health;
mod listener;
mod metrics;
mod page;
mod receipt;
mod request_id;
mod router;
mod status;
#[cfg(feature = "tls")]
mod tls;

pub use app::{App, LoadProgress};
pub use auth::ApiKeys;
pub use config::{Hosts, RequestLimits, SamplingDefaults, ServerConfig};
pub use listener::{ConnectionLimits, Drained, Listener, serve};
pub use router::router;
#[cfg(feature = "tls")]
pub use tls::Tls;

/// Compiles the examples of the embedding guide.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/embedding.md")]
struct EmbeddingGuide;
