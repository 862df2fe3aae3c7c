//! The resources of the interface.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use axum::{Extension, Json, Router};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::control::answer::Refusal;
use crate::control::desk::{Desk, LISTENERS};
use crate::control::events::{self, Wanted};
use crate::control::flows;
use crate::control::metrics;
use crate::control::schedule;
use crate::control::steer;
use crate::control::view;
use crate::http::Endless;

/// The description of the interface, for programs.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

type Shared = State<Arc<Desk>>;

/// All resources. Each is in `docs/openapi.json`, with its methods.
fn table() -> Vec<(&'static str, MethodRouter<Arc<Desk>>)> {
    let stage = patch(steer::change).delete(steer::change);
    vec![
        ("/v1", get(index)),
        ("/v1/state", get(state)),
        ("/v1/ports", get(ports)),
        ("/v1/routes", get(routes)),
        ("/v1/paths", get(paths).put(steer::change)),
        ("/v1/paths/{path}", put(steer::change).patch(steer::change)),
        ("/v1/paths/{path}/stages", post(steer::change)),
        ("/v1/paths/{path}/stages/{stage}", stage),
        ("/v1/stages", get(stages)),
        ("/v1/translators", get(translators)),
        ("/v1/attachments", get(attachments)),
        ("/v1/counters", get(counters)),
        ("/v1/flows", get(flows)),
        ("/v1/events", get(listen)),
        ("/v1/marks", post(steer::mark)),
        ("/v1/schedule", get(schedule::list).post(schedule::add)),
        ("/v1/schedule/{number}", delete(schedule::cancel)),
        ("/v1/config", put(steer::change)),
        ("/v1/openapi.json", get(openapi)),
        ("/metrics", get(metrics)),
    ]
}

/// The router of all resources.
pub(super) fn all(desk: Arc<Desk>) -> Router {
    let whole =
        table().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    whole.fallback(unknown).method_not_allowed_fallback(wrong_method).with_state(desk)
}

/// The router of the metrics alone.
pub(super) fn metrics_alone(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(desk)
}

async fn index() -> Json<Value> {
    let resources =
        table().into_iter().map(|(path, _)| path).filter(|path| *path != "/v1" && !path.contains('{'));
    let resources: Vec<&str> = resources.collect();
    Json(json!({ "api": view::API, "version": env!("CARGO_PKG_VERSION"), "resources": resources }))
}

async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], OPENAPI)
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

async fn routes(State(desk): Shared) -> Json<Value> {
    Json(view::routes(&*desk.instance().await))
}

async fn translators(State(desk): Shared) -> Result<Json<Value>, Refusal> {
    Ok(Json(view::translators(&*desk.instance().await, &*desk.moment().await?)))
}

async fn attachments(State(desk): Shared) -> Json<Value> {
    Json(view::attachments(&*desk.instance().await))
}

async fn flows(
    State(desk): Shared,
    wanted: Result<Query<flows::Wanted>, QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let Query(wanted) = wanted.map_err(|error| Refusal::bad("query", error.body_text()))?;
    let (instance, limit) = (desk.instance().await, wanted.limit()?);
    let most = spawn_blocking(move || flows::most(&instance, limit));
    most.await.map_err(|_| Refusal::ended())?.map(Json)
}

async fn metrics(State(desk): Shared) -> Result<Response, Refusal> {
    let (moment, links) = tokio::try_join!(desk.moment(), desk.links())?;
    let text = metrics::text(&*desk.instance().await, &moment, &links);
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn listen(
    State(desk): Shared,
    Extension(endless): Extension<Endless>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(wanted) = wanted.map_err(|error| Refusal::bad("query", error.body_text()))?;
    let place = desk.place_to_listen().ok_or_else(|| {
        let what = format!("{LISTENERS} readers of events are all that there may be at a time");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "", what)
    })?;
    // A reader that pauses learns later how many events it has missed.
    endless.set();
    let instance = desk.instance().await;
    // `listen` waits for the workers.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Each resource is documented, and what is documented is a resource. That the methods are the same is tried by the system
    /// tests, with a run.
    #[test]
    fn the_document_has_all_resources_and_no_others() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let documented: BTreeSet<&str> =
            document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let table = table();
        assert_eq!(documented, table.iter().map(|(path, _)| *path).collect());
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    /// Each name that a reference has is there.
    #[test]
    fn the_document_lacks_nothing_that_it_names() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let names: Vec<&str> =
            OPENAPI.split("\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(names.len() > 50, "{names:?}");
        for name in names {
            assert!(document.pointer(name).is_some(), "{name}");
        }
    }
}
