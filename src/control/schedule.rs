//! Changes that the instance itself carries out later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration as StdDuration;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::control::answer::Refusal;
use crate::control::desk::Desk;
use crate::control::edit::given;
use crate::control::order::{Object, Order, read};
use crate::control::steer;
use crate::engine::Clock;
use crate::journal::{Note, NoteKind};
use crate::pipeline::time::{Duration, Instant};

/// Maximum number of changes that wait.
const WAITING: usize = 1_000;
/// Maximum size of all their bodies together.
const BYTES: usize = 8 << 20;
/// How many finished changes are still listed; the latest ones.
const OVER: usize = 100;

/// `POST /v1/schedule`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// The delay from now.
    #[serde(rename = "in", default, deserialize_with = "given")]
    from_now: Option<String>,
    /// The time since the start of the run.
    #[serde(default, deserialize_with = "given")]
    at: Option<String>,
    change: Object<Asked>,
}

/// The request for the change, as it would be sent at that time.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    method: String,
    resource: String,
    #[serde(default)]
    body: Option<Value>,
}

/// The changes that wait, and the latest that are finished.
#[derive(Debug, Default)]
pub(super) struct Schedule(Mutex<Plans>);

#[derive(Debug, Default)]
struct Plans {
    last: u64,
    plans: BTreeMap<u64, Plan>,
}

#[derive(Debug)]
struct Plan {
    due: Instant,
    order: Arc<Order>,
    bytes: usize,
    state: Progress,
}

#[derive(Debug)]
enum Progress {
    /// The task that will carry it out.
    Waiting(AbortHandle),
    Running,
    Done {
        version: u64,
    },
    Failed(Refusal),
}

impl Plan {
    fn json(&self, number: u64) -> Value {
        let state = match &self.state {
            Progress::Waiting(_) => "waiting",
            Progress::Running => "running",
            Progress::Done { .. } => "done",
            Progress::Failed(_) => "failed",
        };
        let mut value = json!({
            "number": number, "due_ns": self.due.as_nanos(), "state": state, "text": self.order.deed.text(),
            "change": self.order.request,
        });
        match &self.state {
            Progress::Done { version } => value["version"] = (*version).into(),
            Progress::Failed(refusal) => value["error"] = refusal.json(),
            _ => {}
        }
        value
    }

    const fn is_over(&self) -> bool {
        matches!(self.state, Progress::Done { .. } | Progress::Failed(_))
    }
}

impl Schedule {
    fn plans(&self) -> MutexGuard<'_, Plans> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plans {
    /// Adds a plan, if there is room; `start` starts its task by the plan's number. Returns the description of the
    /// plan.
    fn add(
        &mut self,
        due: Instant,
        order: Arc<Order>,
        size: usize,
        start: impl FnOnce(u64) -> AbortHandle,
    ) -> Result<Value, Refusal> {
        let waiting = || self.plans.values().filter(|plan| !plan.is_over());
        let bytes: usize = waiting().map(|plan| plan.bytes).sum();
        if waiting().count() >= WAITING || bytes + size > BYTES {
            let what =
                format!("at most {WAITING} changes wait at a time, whose bodies have at most {BYTES} bytes");
            return Err(Refusal::new(StatusCode::CONFLICT, "schedule", what));
        }
        self.last += 1;
        let plan = Plan { due, order, bytes: size, state: Progress::Waiting(start(self.last)) };
        let told = plan.json(self.last);
        self.plans.insert(self.last, plan);
        Ok(told)
    }

    /// Marks a plan as finished, and forgets the oldest of the finished ones.
    fn end(&mut self, number: u64, state: Progress) {
        if let Some(plan) = self.plans.get_mut(&number) {
            plan.state = state;
        }
        let over: Vec<u64> =
            self.plans.iter().filter(|(_, plan)| plan.is_over()).map(|(number, _)| *number).collect();
        for number in &over[..over.len().saturating_sub(OVER)] {
            self.plans.remove(number);
        }
    }
}

/// `GET /v1/schedule`: the waiting changes, and the results of the latest finished ones.
pub(super) async fn list(State(desk): State<Arc<Desk>>) -> Json<Value> {
    Json(desk.schedule.plans().plans.iter().map(|(number, plan)| plan.json(*number)).collect())
}

/// `POST /v1/schedule`.
pub(super) async fn add(State(desk): State<Arc<Desk>>, request: Request) -> Result<Response, Refusal> {
    let (_, body) = steer::parts(request).await?;
    let wanted: Wanted = read(&body)?;
    let clock = *desk.instance().await.workers.clock();
    let due = wanted.due(clock.now())?;
    let order = Arc::new(wanted.change.0.order()?);
    let mut plans = desk.schedule.plans();
    let answer = plans.add(due, Arc::clone(&order), body.len(), |number| {
        // The task cannot run before its plan is there: the plans are locked until then.
        tokio::spawn(run(Arc::clone(&desk), (number, due, order), clock)).abort_handle()
    });
    answer.map(|answer| (StatusCode::CREATED, Json(answer)).into_response())
}

/// `DELETE /v1/schedule/NUMBER`: it will not be carried out.
pub(super) async fn cancel(
    State(desk): State<Arc<Desk>>,
    Path(number): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let mut plans = desk.schedule.plans();
    let known = number.parse().ok().filter(|number| plans.plans.contains_key(number));
    let Some(number) = known else {
        let what = format!("there is no scheduled change {number}");
        return Err(Refusal::new(StatusCode::NOT_FOUND, "number", what));
    };
    if let Progress::Waiting(task) = &plans.plans[&number].state {
        task.abort();
        let plan = plans.plans.remove(&number);
        let mut answer = plan.map(|plan| plan.json(number)).unwrap_or_default();
        answer["state"] = "cancelled".into();
        return Ok(Json(answer));
    }
    let what = format!("change {number} waits no more");
    Err(Refusal::new(StatusCode::CONFLICT, "number", what))
}

impl Wanted {
    fn due(&self, now: Instant) -> Result<Instant, Refusal> {
        let read = |field: &str, text: &str| {
            text.parse::<Duration>().map_err(|error| Refusal::bad(field, error.to_string()))
        };
        match (&self.from_now, &self.at) {
            (Some(text), None) => Ok(now + read("in", text)?),
            (None, Some(text)) => {
                let due = Instant::ZERO + read("at", text)?;
                if due < now {
                    let since = now.since(Instant::ZERO);
                    return Err(Refusal::bad("at", format!("the run is {since} old: that is over")));
                }
                Ok(due)
            }
            _ => Err(Refusal::bad("in", "give either in (from now) or at (since the start), as \"10s\"")),
        }
    }
}

impl Asked {
    fn order(&self) -> Result<Order, Refusal> {
        let within = |refusal: Refusal| Refusal {
            status: StatusCode::BAD_REQUEST,
            field: format!("change.{}", refusal.field),
            ..refusal
        };
        let method = Method::from_bytes(self.method.as_bytes())
            .map_err(|_| Refusal::bad("change.method", "it is no method of HTTP"))?;
        let body = self.body.as_ref().map(Value::to_string).unwrap_or_default();
        let order = Order::read(&method, &self.resource, body.as_bytes()).map_err(within)?;
        order.deed.check().map_err(within)?;
        Ok(order)
    }
}

/// Waits until a change is due, and carries it out.
async fn run(desk: Arc<Desk>, (number, due, order): (u64, Instant, Arc<Order>), clock: Clock) {
    while clock.now() < due {
        sleep(StdDuration::from_nanos(due.since(clock.now()).as_nanos())).await;
    }
    match desk.schedule.plans().plans.get_mut(&number) {
        Some(plan) => plan.state = Progress::Running,
        // Cancelled just now.
        None => return,
    }
    // A panic counts as a result: the plan is finished in any case.
    let state = match steer::carry_out(&desk, Arc::clone(&order), None, Some(number)).await {
        Ok(instance) => Progress::Done { version: instance.version },
        Err(refusal) => {
            desk.note(Note {
                at_ns: clock.now().as_nanos(),
                kind: NoteKind::Failed,
                text: format!("{}: {}", order.deed.text(), refusal.what),
                version: None,
                schedule: Some(number),
                request: order.request.clone(),
            });
            Progress::Failed(refusal)
        }
    };
    desk.schedule.plans().end(number, state);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What waits and what is over have limits of their own.
    #[test]
    fn a_schedule_is_bounded() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let order = Arc::new(Order::read(&Method::POST, "/v1/marks", br#"{"text":"x"}"#).unwrap());
        let mut plans = Plans::default();
        let add = |plans: &mut Plans, bytes: usize| {
            let start = |_| runtime.spawn(std::future::pending::<()>()).abort_handle();
            plans.add(Instant::ZERO, Arc::clone(&order), bytes, start).map(|told| told["number"].clone())
        };
        for number in 1..=WAITING as u64 {
            assert_eq!(add(&mut plans, 10), Ok(number.into()));
        }
        assert_eq!(add(&mut plans, 10).unwrap_err().status, StatusCode::CONFLICT);
        for number in 1..=WAITING as u64 {
            plans.end(number, Progress::Done { version: 1 });
        }
        let left: Vec<u64> = plans.plans.keys().copied().collect();
        assert_eq!(left, (901..=1_000).collect::<Vec<_>>());
        assert_eq!(add(&mut plans, BYTES), Ok(1_001.into()));
        assert!(add(&mut plans, 1).is_err());
    }

    #[test]
    fn a_time_is_from_now_or_from_the_start() {
        let now = Instant::ZERO + Duration::from_secs(5);
        let due = |text: &str| {
            let change = r#""change": {"method": "POST", "resource": "/v1/marks", "body": {"text": "x"}}"#;
            read::<Wanted>(format!("{{{text} {change}}}").as_bytes()).unwrap().due(now)
        };
        assert_eq!(due(r#""in": "2s","#), Ok(now + Duration::from_secs(2)));
        assert_eq!(due(r#""at": "7s","#), Ok(now + Duration::from_secs(2)));
        for (text, field) in [
            (r#""at": "4s","#, "at"),
            (r#""in": "soon","#, "in"),
            ("", "in"),
            (r#""in": "1s", "at": "9s","#, "in"),
        ] {
            assert_eq!(due(text).unwrap_err().field, field, "{text}");
        }
    }

    /// A change that can never be carried out is refused when it is scheduled; the refusal names the field inside the
    /// change.
    #[test]
    fn a_change_is_read_when_it_is_scheduled() {
        let asked = |method: &str, resource: &str, body: Value| {
            Asked { method: method.into(), resource: resource.into(), body: Some(body) }.order().map(drop)
        };
        let up = "/v1/paths/up/stages";
        assert_eq!(asked("POST", up, json!({ "spec": "loss 5%" })), Ok(()));
        for (method, resource, body, field) in [
            ("POST", up, json!({ "spec": "los 5%" }), "change.spec"),
            ("POST", up, json!({ "spek": "loss 5%" }), "change.spek"),
            ("PUT", up, json!({ "spec": "loss 5%" }), "change.resource"),
            ("POST", "/v1/schedule", json!({}), "change.resource"),
            ("no method", up, json!({}), "change.method"),
        ] {
            let refusal = asked(method, resource, body).unwrap_err();
            assert_eq!((refusal.field.as_str(), refusal.status), (field, StatusCode::BAD_REQUEST));
        }
    }
}
