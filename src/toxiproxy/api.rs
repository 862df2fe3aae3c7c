//! Requests and answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_TYPE, USER_AGENT};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tokio::time::timeout;

use crate::toxiproxy::answer::{ApiError, plain};
use crate::toxiproxy::collection::Collection;
use crate::toxiproxy::metrics;
use crate::toxiproxy::proxy::Shown;

/// The version of Toxiproxy whose API is served.
const VERSION: &str = "2.12.0";
/// Maximum size of a body, in bytes.
const LARGEST: usize = 1 << 20;
/// How long to wait for a body.
const PATIENCE: Duration = Duration::from_secs(15);
/// The number of a request, for logs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-toxiproxy-request-id");

/// What all requests share.
#[derive(Debug)]
pub(super) struct Desk {
    proxies: Arc<Collection>,
    requests: AtomicU64,
}

impl Desk {
    pub(super) fn new(proxies: Arc<Collection>) -> Arc<Self> {
        Arc::new(Self { proxies, requests: AtomicU64::new(0) })
    }
}

type Shared = State<Arc<Desk>>;
type Answer = Result<Response, ApiError>;

/// All of the API.
pub(super) fn routes(desk: Arc<Desk>) -> Router {
    let proxy = get(show).post(update).patch(update).delete(remove);
    let toxic = get(show_toxic).post(update_toxic).patch(update_toxic).delete(remove_toxic);
    Router::new()
        .route("/proxies", get(index).post(create))
        .route("/populate", post(populate))
        .route("/proxies/{proxy}", proxy)
        .route("/proxies/{proxy}/toxics", get(toxics).post(add_toxic))
        .route("/proxies/{proxy}/toxics/{toxic}", toxic)
        .route("/reset", post(reset))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .fallback(async || plain(StatusCode::NOT_FOUND, "404 page not found"))
        .layer(from_fn_with_state(Arc::clone(&desk), guard))
        .with_state(desk)
}

/// Refuses browsers, and numbers the requests.
async fn guard(State(desk): Shared, request: Request, next: Next) -> Response {
    let agent = request.headers().get(USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
    let mut response = if agent.starts_with(b"Mozilla/") {
        plain(StatusCode::FORBIDDEN, "User agent not allowed")
    } else {
        // In a task of its own: a client that disconnects must not stop a change half way.
        let answer = tokio::spawn(next.run(request)).await;
        answer.unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "the request failed"))
    };
    let number = desk.requests.fetch_add(1, Ordering::Relaxed) + 1;
    if let Ok(value) = HeaderValue::from_str(&format!("{number:020x}")) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

async fn index(State(desk): Shared) -> Answer {
    let all = desk.proxies.all();
    let by_name: BTreeMap<&str, &Shown> = all.iter().map(|shown| (shown.name.as_str(), &**shown)).collect();
    Ok(json(StatusCode::OK, &by_name))
}

async fn create(State(desk): Shared, request: Request) -> Answer {
    let body = body(request).await?;
    Ok(json(StatusCode::CREATED, &desk.proxies.create(&body).await?))
}

async fn populate(State(desk): Shared, request: Request) -> Answer {
    #[derive(Serialize)]
    struct Populated<'p> {
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        error: Option<&'p ApiError>,
        proxies: Option<Vec<Shown>>,
    }
    let body = body(request).await?;
    let (proxies, error) = desk.proxies.populate(&body).await;
    let status = error.as_ref().map_or(StatusCode::CREATED, ApiError::status);
    // As Go encodes an empty list.
    let proxies = (!proxies.is_empty()).then_some(proxies);
    Ok(json(status, &Populated { error: error.as_ref(), proxies }))
}

async fn show(State(desk): Shared, Path(name): Path<String>) -> Answer {
    Ok(json(StatusCode::OK, &*desk.proxies.get(&name)?))
}

async fn update(State(desk): Shared, Path(name): Path<String>, request: Request) -> Answer {
    let body = body(request).await?;
    Ok(json(StatusCode::OK, &desk.proxies.update(&name, &body).await?))
}

async fn remove(State(desk): Shared, Path(name): Path<String>) -> Answer {
    desk.proxies.remove(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn toxics(State(desk): Shared, Path(name): Path<String>) -> Answer {
    Ok(json(StatusCode::OK, &desk.proxies.get(&name)?.toxics))
}

async fn add_toxic(State(desk): Shared, Path(name): Path<String>, request: Request) -> Answer {
    let body = body(request).await?;
    Ok(json(StatusCode::OK, &desk.proxies.add_toxic(&name, &body).await?))
}

async fn show_toxic(State(desk): Shared, Path((proxy, toxic)): Path<(String, String)>) -> Answer {
    let shown = desk.proxies.get(&proxy)?;
    Ok(json(StatusCode::OK, shown.toxic(&toxic).ok_or_else(ApiError::no_toxic)?))
}

async fn update_toxic(
    State(desk): Shared,
    Path((proxy, toxic)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let body = body(request).await?;
    Ok(json(StatusCode::OK, &desk.proxies.update_toxic(&proxy, &toxic, &body).await?))
}

async fn remove_toxic(State(desk): Shared, Path((proxy, toxic)): Path<(String, String)>) -> Answer {
    desk.proxies.remove_toxic(&proxy, &toxic).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn reset(State(desk): Shared) -> Answer {
    desk.proxies.reset().await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn version() -> Response {
    let body = format!("{{\"version\": \"{VERSION}\"}}\n");
    ([(CONTENT_TYPE, "application/json;charset=utf-8")], body).into_response()
}

async fn metrics(State(desk): Shared) -> Response {
    let text = metrics::text(&desk.proxies.all());
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

async fn body(request: Request) -> Result<Bytes, ApiError> {
    let read = timeout(PATIENCE, to_bytes(request.into_body(), LARGEST)).await;
    read.map_err(|_| ApiError::bad_body("it did not come in time"))?
        .map_err(|_| ApiError::bad_body(format_args!("it is cut off, or longer than {LARGEST} bytes")))
}

fn json(status: StatusCode, value: &(impl Serialize + ?Sized)) -> Response {
    match serde_json::to_string(value) {
        Ok(body) => (status, [(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => ApiError::internal(error).into_response(),
    }
}
