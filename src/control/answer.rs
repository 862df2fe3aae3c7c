//! The answer to an invalid or failed request.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A refusal: why, and which part of the request it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// The field, parameter or part of the path; empty: the whole request.
    pub(super) field: String,
    pub(super) what: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, field: impl Into<String>, what: impl Into<String>) -> Self {
        Self { status, field: field.into(), what: what.into() }
    }

    pub(super) fn bad(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, field, what)
    }

    /// No `what` has the name `name`; the existing ones are `known`.
    pub(super) fn unknown<'k>(what: &str, name: &str, known: impl Iterator<Item = &'k str>) -> Self {
        const MOST: usize = 20;
        let mut known: Vec<&str> = known.take(MOST + 1).collect();
        if known.len() > MOST {
            known.truncate(MOST);
            known.push("...");
        }
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let text = format!("there is no {what} {name}; there are: {known}");
        Self::new(StatusCode::NOT_FOUND, what, text)
    }

    /// An internal error of faultwire, which has been printed.
    pub(super) fn failed() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", "the change failed: this is a mistake in faultwire")
    }

    /// The workers have ended.
    pub(super) fn ended() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "", "the run has ended")
    }
}

impl Refusal {
    /// The body of the answer.
    pub(super) fn json(&self) -> Value {
        json!({ "error": self.what, "field": self.field, "status": self.status.as_u16() })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.json())).into_response()
    }
}
