//! `/v1/models`.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::App;
use crate::app::Phase;
use crate::error::ApiError;

/// The model under each of its names.
pub(crate) async fn list(State(app): State<App>) -> Json<Value> {
    let config = app.config();
    let names = std::iter::once(&config.model).chain(&config.aliases);
    let data: Vec<Value> = names.map(|name| describe(&app, name)).collect();
    Json(json!({ "object": "list", "data": data }))
}

/// One name.
pub(crate) async fn one(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    app.check_model(Some(&name))?;
    Ok(Json(describe(&app, &name)))
}

fn describe(app: &App, name: &str) -> Value {
    let (status, positions) = app.with_phase(|phase| match phase {
        Phase::Loading(_) => ("loading", None),
        Phase::Failed(_) => ("failed", None),
        Phase::Ready(engine) => {
            let limits = engine.engine().limits();
            ("ready", Some(limits.max_positions.min(limits.pages * limits.page_size)))
        }
    });
    json!({
        "id": name,
        "object": "model",
        "created": app.created(),
        "owned_by": "kilotok",
        "root": app.config().model,
        "parent": null,
        "max_model_len": positions,
        "status": status,
    })
}
