//! Requests that change a run. They are carried out one after the other, each completely or not at all.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::control::answer::Refusal;
use crate::control::desk::Desk;
use crate::control::edit::Edit;
use crate::control::instance::Instance;
use crate::control::order::{Deed, Order, path};
use crate::control::view;
use crate::journal::{Names, Note, NoteKind};
use crate::pipeline::params::RouterParams;
use crate::pipeline::router::{Change, Router};

/// Maximum size of a body, in bytes.
pub(super) const LARGEST: usize = 256 << 10;
/// How long to wait for a body.
const PATIENCE: Duration = Duration::from_secs(10);

/// The version of a run, as used in headers.
pub(super) fn tag(instance: &Instance) -> String {
    format!("\"{}\"", instance.version)
}

/// Any request that changes something.
pub(super) async fn change(State(desk): State<Arc<Desk>>, request: Request) -> Result<Response, Refusal> {
    let (head, body) = parts(request).await?;
    let order = Order::read(&head.method, head.uri.path(), &body)?;
    // An invalid request is refused first, whatever the state of the run.
    order.deed.check()?;
    let instance = carry_out(&desk, Arc::new(order), head.headers.get(IF_MATCH).cloned(), None).await?;
    let body = json!({ "version": instance.version, "paths": view::all_paths(&instance) });
    Ok(([(ETAG, tag(&instance))], Json(body)).into_response())
}

/// `POST /v1/marks`.
pub(super) async fn mark(State(desk): State<Arc<Desk>>, request: Request) -> Result<Response, Refusal> {
    let (head, body) = parts(request).await?;
    let order = Order::read(&head.method, head.uri.path(), &body)?;
    let note = put_mark(&desk, &*desk.instance().await, order.deed.text(), None);
    Ok((StatusCode::CREATED, Json(note.json())).into_response())
}

/// The head of a request, and its body, if the body comes in time and is not too long.
pub(super) async fn parts(request: Request) -> Result<(axum::http::request::Parts, Bytes), Refusal> {
    let (parts, body) = request.into_parts();
    let late = |_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "body", "it did not come in time");
    let body = timeout(PATIENCE, to_bytes(body, LARGEST)).await.map_err(late)?;
    let large = |_| {
        let what = format!("it is cut off, or longer than {LARGEST} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body", what)
    };
    Ok((parts, body.map_err(large)?))
}

/// Checks that the version in `If-Match`, if there is one, is the current version.
fn matches(wanted: Option<&HeaderValue>, instance: &Instance) -> Result<(), Refusal> {
    let Some(wanted) = wanted else { return Ok(()) };
    let is_it = wanted.to_str().is_ok_and(|tags| {
        tags.split(',').any(|wanted| wanted.trim() == "*" || wanted.trim() == tag(instance))
    });
    if is_it {
        return Ok(());
    }
    let what = format!("the version is {} by now: read again what there is", tag(instance));
    Err(Refusal::new(StatusCode::PRECONDITION_FAILED, "If-Match", what))
}

/// Carries out the change, if the run has the wanted version, and records it. `schedule` is the number of the
/// scheduled change, if it is one.
pub(super) async fn carry_out(
    desk: &Arc<Desk>,
    order: Arc<Order>,
    wanted: Option<HeaderValue>,
    schedule: Option<u64>,
) -> Result<Arc<Instance>, Refusal> {
    let desk = Arc::clone(desk);
    // In a task of its own. If the client disconnects, its request is dropped; the change must not stop at a point where the
    // workers have it and the instance does not know.
    let task = tokio::spawn(async move { apply(&desk, &order, wanted.as_ref(), schedule).await });
    task.await.map_err(|error| if error.is_panic() { Refusal::failed() } else { Refusal::ended() })?
}

async fn apply(
    desk: &Desk,
    order: &Order,
    wanted: Option<&HeaderValue>,
    schedule: Option<u64>,
) -> Result<Arc<Instance>, Refusal> {
    let mut current = desk.instance.write().await;
    matches(wanted, &current)?;
    // Taken before the workers get the change: so no packet that the new stages decided about is older.
    let at_ns = current.workers.clock().now().as_nanos();
    let next = match &order.deed {
        Deed::Mark(text) => {
            put_mark(desk, &current, text.clone(), schedule);
            return Ok(Arc::clone(&current));
        }
        Deed::Freeze(name, frozen) => freeze(&current, name, *frozen).await?,
        deed => {
            let mut edit = Edit::of(&current);
            deed.make(&current, &mut edit)?;
            become_edited(&current, edit).await?
        }
    };
    *current = Arc::new(next);
    desk.note(Note {
        at_ns,
        kind: NoteKind::Changed,
        text: order.deed.text(),
        version: Some(current.version),
        schedule,
        request: order.request.clone(),
    });
    Ok(Arc::clone(&current))
}

fn put_mark(desk: &Desk, instance: &Instance, text: String, schedule: Option<u64>) -> Note {
    let at_ns = instance.workers.clock().now().as_nanos();
    let (kind, request) = (NoteKind::Marked, serde_json::Value::Null);
    let note = Note { at_ns, kind, text, version: None, schedule, request };
    desk.note(note.clone());
    note
}

async fn freeze(current: &Instance, name: &str, frozen: bool) -> Result<Instance, Refusal> {
    let mut next = current.clone();
    let number = path(&next, name)?;
    next.frozen.retain(|frozen| *frozen != number);
    if frozen {
        next.frozen.push(number);
    }
    next.version += 1;
    let workers = next.workers.clone();
    // Paths have 16-bit numbers.
    let short = u16::try_from(number).map_err(|_| Refusal::ended())?;
    let done = spawn_blocking(move || workers.freeze(short, frozen)).await;
    done.ok().and_then(Result::ok).ok_or_else(Refusal::ended)?;
    Ok(next)
}

/// Prepares a change and installs it in the workers.
async fn become_edited(current: &Arc<Instance>, edit: Edit) -> Result<Instance, Refusal> {
    let (old, next) = (Arc::clone(current), edited(current, edit)?);
    // This allocates and frees tables of all flows.
    let done = spawn_blocking(move || {
        let changes = made_ready(&old.params, &next.params, old.workers.count())?;
        old.workers.change(changes).map_err(|_| Refusal::ended())?;
        Ok(next)
    });
    done.await.map_err(|_| Refusal::failed())?
}

fn made_ready(old: &RouterParams, new: &RouterParams, workers: usize) -> Result<Vec<Change>, Refusal> {
    let shared = Router::shared(new);
    (0..workers).map(|_| Change::new(old, new, &shared).map_err(Refusal::from)).collect()
}

/// The instance after the edit.
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
