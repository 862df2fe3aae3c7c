//! What there is to ask for.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::{RwLock, Semaphore, watch};
use tokio::task::spawn_blocking;

use crate::control::answer::Refusal;
use crate::control::events::{self, Wanted};
use crate::control::gauge::Gauge;
use crate::control::instance::Instance;
use crate::control::metrics;
use crate::control::steer;
use crate::control::view::{self, Moment};
use crate::engine::total;
use crate::net::{LinkStats, link};

/// The workers are asked at most once in so long.
const PAUSE: Duration = Duration::from_millis(10);
/// The same for the kernel's counters of devices, which take a thread in their namespace each.
const PAUSE_LINKS: Duration = Duration::from_millis(100);
/// Readers of events at a time; each has a ring of every worker.
const LISTENERS: usize = 16;

/// What requests are answered from.
pub(super) struct Desk {
    pub(super) instance: Arc<RwLock<Arc<Instance>>>,
    numbers: Gauge<Option<Arc<Moment>>>,
    links: Gauge<Arc<[Option<LinkStats>]>>,
    listeners: Arc<Semaphore>,
    ends: watch::Receiver<bool>,
}

type Shared = State<Arc<Desk>>;

impl Desk {
    pub(super) fn new(instance: Instance, ends: watch::Receiver<bool>) -> Arc<Self> {
        let (clock, workers) = (*instance.workers.clock(), instance.workers.clone());
        let numbers = Gauge::new(clock, PAUSE, move || {
            let total = total(&workers.reports().ok()?)?;
            Some(Arc::new(Moment { at_ns: clock.now().as_nanos(), total }))
        });
        let devices = instance.devices.clone();
        let links = Gauge::new(clock, PAUSE_LINKS, move || {
            devices.iter().map(|device| link::stats(&device.netns, &device.name).ok()).collect()
        });
        let instance = Arc::new(RwLock::new(Arc::new(instance)));
        Arc::new(Self { instance, numbers, links, listeners: Arc::new(Semaphore::new(LISTENERS)), ends })
    }

    /// The run as it is now.
    async fn instance(&self) -> Arc<Instance> {
        Arc::clone(&*self.instance.read().await)
    }

    async fn moment(&self) -> Result<Arc<Moment>, Refusal> {
        self.numbers.read().await.flatten().ok_or_else(Refusal::ended)
    }

    async fn links(&self) -> Result<Arc<[Option<LinkStats>]>, Refusal> {
        self.links.read().await.ok_or_else(Refusal::ended)
    }
}

/// All resources.
pub(super) fn all(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1", get(index))
        .route("/v1/state", get(state))
        .route("/v1/ports", get(ports))
        .route("/v1/paths", get(paths).put(steer::put_paths))
        .route("/v1/paths/{path}", put(steer::put_path).patch(steer::patch_path))
        .route("/v1/paths/{path}/stages", post(steer::add))
        .route("/v1/paths/{path}/stages/{stage}", patch(steer::patch).delete(steer::remove))
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
    let resources = ["state", "ports", "paths", "stages", "counters", "events"];
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
    let place = Arc::clone(&desk.listeners).try_acquire_owned().map_err(|_| {
        let what = format!("{LISTENERS} readers of events are all that there may be at a time");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "", what)
    })?;
    let instance = desk.instance().await;
    // It waits for the workers.
    let listen = move || events::listen(&instance, &wanted, place, desk.ends.clone());
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
