//! Mounts the API beside the routes of another service, over an engine built by it:
//! `cargo run --release -p kilotok-server --example mount -- MODEL_DIRECTORY`.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use kilotok::engine::Engine;
use kilotok_server::{App, ServerConfig, router};
use kilotok_text::TextEngine;
use tokio::net::TcpListener;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let directory = std::env::args().nth(1).ok_or("usage: mount MODEL_DIRECTORY")?;
    let engine = Engine::builder(&directory).max_batch(8).build()?;
    let engine = TextEngine::from_dir(Arc::new(engine), directory.as_ref())?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(engine))
}

async fn serve(engine: TextEngine) -> Outcome {
    let app = App::new(ServerConfig::named("mine"));
    app.ready(engine);
    let service = Router::new().route("/hello", get(|| async { "hello" })).nest("/ai", router(app));
    let listener = TcpListener::bind("127.0.0.1:8000").await?;
    axum::serve(listener, service).await?;
    Ok(())
}
