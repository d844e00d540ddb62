//! `/status`: what the server and its engine are doing, for people and for the page at `/`.

use axum::Json;
use axum::extract::State;
use kilotok::engine::Stats;
use kilotok_text::TextEngine;
use serde_json::{Map, Value, json};

use crate::App;
use crate::app::Phase;

/// Everything in one object; 200 also while the model is loading.
pub(crate) async fn status(State(app): State<App>) -> Json<Value> {
    let config = app.config();
    let mut report = json!({
        "model": config.model,
        "aliases": config.aliases,
        "version": env!("CARGO_PKG_VERSION"),
        "in_flight": app.in_flight(),
        "max_queue": config.max_queue,
    });
    let engine = app.with_phase(|phase| match phase {
        Phase::Ready(engine) => Some(engine.clone()),
        Phase::Loading(progress) => {
            report["status"] = "loading".into();
            report["fraction"] = progress.fraction().into();
            None
        }
        Phase::Failed(reason) => {
            report["status"] = "failed".into();
            report["reason"] = reason.as_str().into();
            None
        }
    });
    if let Some(engine) = engine {
        report["status"] = match engine.engine().alive() {
            Err(_) => "dead",
            Ok(()) if app.is_draining() => "draining",
            Ok(()) => "ready",
        }
        .into();
        describe(&app, &engine, &mut report);
    }
    Json(report)
}

fn describe(app: &App, engine: &TextEngine, report: &mut Value) {
    let engine = engine.engine();
    let (stats, limits, backend) = (engine.stats(), engine.limits(), engine.backend());
    let mut memory = Map::new();
    if app.weight_bytes() > 0 {
        memory.insert("weights".into(), app.weight_bytes().into());
    }
    memory.extend(backend.memory.iter().map(|(name, bytes)| ((*name).to_owned(), (*bytes).into())));
    report["device"] = json!({
        "kind": backend.device,
        "simd": backend.simd,
        "threads": backend.threads,
    });
    report["running"] = stats.running.into();
    report["waiting"] = stats.waiting.into();
    report["slots"] = json!({ "used": stats.slots_used, "total": limits.slots });
    report["pages"] = json!({
        "used": stats.pages_used,
        "cached": stats.pages_cached,
        "total": stats.pages_total,
        "positions": limits.page_size,
    });
    report["memory"] = memory.into();
    report["finished"] = stats.finished.into();
    report["cancelled"] = stats.cancelled.into();
    report["tokens"] = stats.tokens.into();
    report["rounds"] = stats.rounds.into();
    report["speculation"] = speculation(&stats);
    report["plain_step_ms"] = stats.plain_step_ms.into();
    report["ceiling_fraction"] = stats.ceiling_fraction.into();
    report["warning"] = stats.warning.into();
}

fn speculation(stats: &Stats) -> Value {
    let rounds = stats.speculative_rounds;
    let tau = (rounds > 0).then(|| 1.0 + stats.accepted as f64 / rounds as f64);
    json!({
        "rounds": rounds,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "tau": tau,
    })
}
