//! Requests that change a run: one after the other, each whole or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::control::answer::Refusal;
use crate::control::edit::{Add, Edit, Patch, PatchPath, Stages};
use crate::control::instance::Instance;
use crate::control::routes::Desk;
use crate::control::view;
use crate::journal::Names;
use crate::pipeline::params::RouterParams;
use crate::pipeline::router::{Change, Router};

/// Bytes of a body, at most.
const LARGEST: usize = 256 << 10;
/// A body has to come within so long.
const PATIENCE: Duration = Duration::from_secs(10);

type Shared = State<Arc<Desk>>;

/// The version of a run, as headers name it.
pub(super) fn tag(instance: &Instance) -> String {
    format!("\"{}\"", instance.version)
}

/// `PUT /v1/paths`: all stages of the paths that are named, at once.
pub(super) async fn put_paths(State(desk): Shared, request: Request) -> Result<Response, Refusal> {
    let (headers, body) = parts(request).await?;
    let wanted: BTreeMap<String, Stages> = read(&body)?;
    change(&desk, &headers, |instance, edit| {
        for (name, stages) in &wanted {
            edit.replace(path(instance, name)?, stages).map_err(|refusal| within(name, refusal))?;
        }
        Ok(())
    })
    .await
}

/// `PUT /v1/paths/PATH`: all stages of the path.
pub(super) async fn put_path(
    State(desk): Shared,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let (headers, body) = parts(request).await?;
    let stages: Stages = read(&body)?;
    change(&desk, &headers, |instance, edit| edit.replace(path(instance, &name)?, &stages)).await
}

/// `POST /v1/paths/PATH/stages`: more stages.
pub(super) async fn add(
    State(desk): Shared,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let (headers, body) = parts(request).await?;
    let wanted: Add = read(&body)?;
    change(&desk, &headers, |instance, edit| edit.add(path(instance, &name)?, &wanted)).await
}

/// `PATCH /v1/paths/PATH/stages/STAGE`: other parameters, another place, paused or not.
pub(super) async fn patch(
    State(desk): Shared,
    Path((name, stage)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    let (headers, body) = parts(request).await?;
    let wanted: Patch = read(&body)?;
    change(&desk, &headers, |instance, edit| edit.patch(path(instance, &name)?, &stage, &wanted)).await
}

/// `DELETE /v1/paths/PATH/stages/STAGE`.
pub(super) async fn remove(
    State(desk): Shared,
    Path((name, stage)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    change(&desk, &headers, |instance, edit| edit.remove(path(instance, &name)?, &stage)).await
}

/// `PATCH /v1/paths/PATH`: frozen or not.
pub(super) async fn patch_path(
    State(desk): Shared,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let (headers, body) = parts(request).await?;
    let wanted: PatchPath = read(&body)?;
    let mut current = desk.instance.write().await;
    let mut next = Instance::clone(&current);
    matches(&headers, &next)?;
    let number = path(&next, &name)?;
    next.frozen.retain(|frozen| *frozen != number);
    if wanted.frozen {
        next.frozen.push(number);
    }
    next.version += 1;
    let workers = next.workers.clone();
    // Paths have numbers of 16 bits.
    let short = u16::try_from(number).map_err(|_| Refusal::ended())?;
    let done = spawn_blocking(move || workers.freeze(short, wanted.frozen)).await;
    done.ok().and_then(Result::ok).ok_or_else(Refusal::ended)?;
    *current = Arc::new(next);
    Ok(answer(&current))
}

fn path(instance: &Instance, name: &str) -> Result<usize, Refusal> {
    instance.path(name).ok_or_else(|| Refusal::unknown("path", name, instance.paths()))
}

/// A refusal about something inside of `field`.
fn within(field: &str, refusal: Refusal) -> Refusal {
    if refusal.status == StatusCode::NOT_FOUND {
        return refusal;
    }
    Refusal { field: format!("{field}.{}", refusal.field), ..refusal }
}

async fn parts(request: Request) -> Result<(HeaderMap, Bytes), Refusal> {
    let (parts, body) = request.into_parts();
    let late = |_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "body", "it did not come in time");
    let body = timeout(PATIENCE, to_bytes(body, LARGEST)).await.map_err(late)?;
    let large = |_| {
        let what = format!("it is cut off, or longer than {LARGEST} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body", what)
    };
    Ok((parts.headers, body.map_err(large)?))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        // Of a field that is not known, or not there, serde says the name.
        let field = text.split('`').nth(1).filter(|_| text.contains("field")).unwrap_or("body").to_owned();
        Refusal::bad(field, text)
    })
}

/// `If-Match`, if it is there, is the version that there is.
fn matches(headers: &HeaderMap, instance: &Instance) -> Result<(), Refusal> {
    let Some(wanted) = headers.get(IF_MATCH) else { return Ok(()) };
    let is_it = wanted.to_str().is_ok_and(|tags| {
        tags.split(',').any(|wanted| wanted.trim() == "*" || wanted.trim() == tag(instance))
    });
    if is_it {
        return Ok(());
    }
    let what = format!("the version is {} by now: read again what there is", tag(instance));
    Err(Refusal::new(StatusCode::PRECONDITION_FAILED, "If-Match", what))
}

/// Makes a change ready, and puts it in place of what there is.
async fn change(
    desk: &Desk,
    headers: &HeaderMap,
    make: impl FnOnce(&Instance, &mut Edit) -> Result<(), Refusal>,
) -> Result<Response, Refusal> {
    let mut current = desk.instance.write().await;
    matches(headers, &current)?;
    let mut edit = Edit::of(&current);
    make(&current, &mut edit)?;
    let (old, next) = (Arc::clone(&current), edited(&current, edit)?);
    // Tables of all flows are made here, and thrown away.
    let done = spawn_blocking(move || {
        let changes = made_ready(&old.params, &next.params, old.workers.count())?;
        old.workers.change(changes).map_err(|_| Refusal::ended())?;
        Ok(next)
    });
    *current = Arc::new(done.await.map_err(|_| Refusal::ended())??);
    Ok(answer(&current))
}

fn made_ready(old: &RouterParams, new: &RouterParams, workers: usize) -> Result<Vec<Change>, Refusal> {
    let shared = Router::shared(new);
    let conflict = |error: crate::pipeline::router::ChangeError| {
        Refusal::new(StatusCode::CONFLICT, "stages", error.to_string())
    };
    (0..workers).map(|_| Change::new(old, new, &shared).map_err(conflict)).collect()
}

/// The instance with what was edited.
fn edited(current: &Instance, edit: Edit) -> Result<Instance, Refusal> {
    let labels: Vec<&str> = current.paths().collect();
    let names = Names { started_ns: current.names.started_ns, ..Names::of(&edit.params, &labels) };
    if current.is_recorded && names.paths != current.names.paths {
        let what = "the journal or capture of this run knows its stages by number: they can be changed and paused, not added, moved or removed";
        return Err(Refusal::new(StatusCode::CONFLICT, "stages", what));
    }
    let version = current.version + 1;
    Ok(Instance { params: edit.params, paused: edit.paused, names, version, ..current.clone() })
}

fn answer(instance: &Instance) -> Response {
    let body = json!({ "version": instance.version, "paths": view::all_paths(instance) });
    ([(ETAG, tag(instance))], Json(body)).into_response()
}
