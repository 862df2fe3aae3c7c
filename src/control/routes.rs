//! What there is to ask for.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::control::answer::Refusal;
use crate::control::desk::{Desk, LISTENERS};
use crate::control::events::{self, Wanted};
use crate::control::metrics;
use crate::control::schedule;
use crate::control::steer;
use crate::control::view;

type Shared = State<Arc<Desk>>;

/// All resources.
pub(super) fn all(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1", get(index))
        .route("/v1/state", get(state))
        .route("/v1/ports", get(ports))
        .route("/v1/paths", get(paths).put(steer::change))
        .route("/v1/paths/{path}", put(steer::change).patch(steer::change))
        .route("/v1/paths/{path}/stages", post(steer::change))
        .route("/v1/paths/{path}/stages/{stage}", patch(steer::change).delete(steer::change))
        .route("/v1/marks", post(steer::mark))
        .route("/v1/schedule", get(schedule::list).post(schedule::add))
        .route("/v1/schedule/{number}", delete(schedule::cancel))
        .route("/v1/stages", get(stages))
        .route("/v1/counters", get(counters))
        .route("/v1/events", get(listen))
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(desk)
}

/// The metrics alone.
pub(super) fn metrics_alone(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(desk)
}

async fn index() -> Json<Value> {
    let resources = ["state", "ports", "paths", "stages", "counters", "events", "marks", "schedule"];
    let resources: Vec<String> = resources.iter().map(|name| format!("/v1/{name}")).collect();
    Json(json!({ "api": view::API, "version": env!("CARGO_PKG_VERSION"), "resources": resources }))
}

async fn state(State(desk): Shared) -> Result<Json<Value>, Refusal> {
    Ok(Json(view::state(&*desk.instance().await, &*desk.moment().await?)))
}

async fn ports(State(desk): Shared) -> Result<Json<Value>, Refusal> {
    Ok(Json(view::ports(&*desk.instance().await, &desk.links().await?)))
}

async fn paths(State(desk): Shared) -> Response {
    let instance = desk.instance().await;
    ([(ETAG, steer::tag(&instance))], Json(view::all_paths(&instance))).into_response()
}

async fn stages(State(desk): Shared) -> Result<Json<Value>, Refusal> {
    Ok(Json(view::stages(&*desk.instance().await, &*desk.moment().await?)))
}

async fn counters(State(desk): Shared) -> Result<Json<Value>, Refusal> {
    Ok(Json(view::counters(&*desk.instance().await, &*desk.moment().await?)))
}

async fn metrics(State(desk): Shared) -> Result<Response, Refusal> {
    let (moment, links) = (desk.moment().await?, desk.links().await?);
    let text = metrics::text(&*desk.instance().await, &moment, &links);
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn listen(
    State(desk): Shared,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(wanted) = wanted.map_err(|error| Refusal::bad("query", error.body_text()))?;
    let place = desk.place_to_listen().ok_or_else(|| {
        let what = format!("{LISTENERS} readers of events are all that there may be at a time");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "", what)
    })?;
    let instance = desk.instance().await;
    // It waits for the workers.
    let listen = move || events::listen(&desk, &instance, &wanted, place);
    spawn_blocking(listen).await.map_err(|_| Refusal::ended())?
}

async fn unknown(uri: Uri) -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "path",
        format!("there is no {}; GET /v1 tells what there is", uri.path()),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let what = format!("{method} is not for {}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", what)
}
