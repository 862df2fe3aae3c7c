//! The change that a request asks for. Immediate and scheduled requests are both read here.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use axum::http::{Method, StatusCode};

use crate::control::answer::Refusal;
use crate::control::document::Document;
use crate::control::edit::{Add, Edit, Patch, Stages};
use crate::control::instance::Instance;
use crate::control::once::once;

/// Maximum length of a mark, in characters.
pub(super) const MARK: usize = 1_000;

/// A change.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    /// `PUT /v1/paths`: all stages of the paths that are named, at once.
    Paths(BTreeMap<String, Stages>),
    /// `PUT /v1/config`: the stages of a whole configuration.
    Config(Document),
    /// `PUT /v1/paths/PATH`: all stages of the path.
    Path(String, Stages),
    /// `PATCH /v1/paths/PATH`: frozen or not.
    Freeze(String, bool),
    /// `POST /v1/paths/PATH/stages`: more stages.
    Add(String, Add),
    /// `PATCH /v1/paths/PATH/stages/STAGE`: other parameters, another place, paused or not.
    Patch(String, String, Box<Patch>),
    /// `DELETE /v1/paths/PATH/stages/STAGE`.
    Remove(String, String),
    /// `POST /v1/marks`.
    Mark(String),
}

/// A change, and the request that asked for it.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) deed: Deed,
    /// `method`, `resource`, `body`.
    pub(super) request: Value,
}

#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Paths(#[serde(deserialize_with = "once")] BTreeMap<String, Object<Stages>>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PatchPath {
    frozen: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    text: String,
}

impl Order {
    /// From a request's method, the path of its URL, and its body.
    pub(super) fn read(method: &Method, resource: &str, body: &[u8]) -> Result<Self, Refusal> {
        let deed = Deed::read(method, resource, body)?;
        let mut request = json!({ "method": method.as_str(), "resource": resource });
        if !body.is_empty() {
            request["body"] = serde_json::from_slice(body).unwrap_or_default();
        }
        Ok(Self { deed, request })
    }
}

impl Deed {
    fn read(method: &Method, resource: &str, body: &[u8]) -> Result<Self, Refusal> {
        let parts = resource.strip_prefix("/v1/").unwrap_or_default().split('/').map(decoded);
        let parts = parts.collect::<Result<Vec<String>, Refusal>>()?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let named = |name: &str| name.to_owned();
        Ok(match (method.as_str(), &parts[..]) {
            ("PUT", ["config"]) => Self::Config(read(body)?),
            ("PUT", ["paths"]) => {
                let Paths(paths) = read(body)?;
                if paths.is_empty() {
                    return Err(Refusal::bad("body", "it names no path"));
                }
                Self::Paths(paths.into_iter().map(|(path, Object(stages))| (path, stages)).collect())
            }
            ("PUT", ["paths", path]) => Self::Path(named(path), read(body)?),
            ("PATCH", ["paths", path]) => Self::Freeze(named(path), read::<PatchPath>(body)?.frozen),
            ("POST", ["paths", path, "stages"]) => Self::Add(named(path), read(body)?),
            ("PATCH", ["paths", path, "stages", stage]) => {
                Self::Patch(named(path), named(stage), Box::new(read(body)?))
            }
            ("DELETE", ["paths", path, "stages", stage]) => Self::Remove(named(path), named(stage)),
            ("POST", ["marks"]) => Self::Mark(mark(read::<Mark>(body)?.text)?),
            _ => {
                let what = format!("{method} {resource} is no change; docs/control.md has them");
                return Err(Refusal::new(StatusCode::NOT_FOUND, "resource", what));
            }
        })
    }

    /// The change in words.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Paths(paths) => {
                let paths: Vec<String> =
                    paths.iter().map(|(path, stages)| format!("{path} = {}", stages.text())).collect();
                format!("apply {}", paths.join("; "))
            }
            Self::Config(document) => format!("apply {}", document.name()),
            Self::Path(path, stages) => format!("apply {path} = {}", stages.text()),
            Self::Freeze(path, true) => format!("freeze {path}"),
            Self::Freeze(path, false) => format!("release {path}"),
            Self::Add(path, add) => format!("add to {path}: {}", add.text()),
            Self::Patch(path, stage, other) => other.text(&format!("{path}/{stage}")),
            Self::Remove(path, stage) => format!("remove {path}/{stage}"),
            Self::Mark(text) => text.clone(),
        }
    }

    /// Checks what does not depend on the state of the run: whether the stages can be read.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Paths(paths) => paths
                .iter()
                .try_for_each(|(name, stages)| stages.check().map_err(|refusal| within(name, refusal))),
            Self::Config(document) => document.check(),
            Self::Path(_, stages) => stages.check(),
            Self::Add(_, add) => add.check(),
            Self::Patch(_, _, patch) => patch.check(),
            Self::Freeze(..) | Self::Remove(..) | Self::Mark(_) => Ok(()),
        }
    }

    /// Applies the change to `edit`. Freezing a path and marks change no stages.
    pub(super) fn make(&self, instance: &Instance, edit: &mut Edit) -> Result<(), Refusal> {
        match self {
            Self::Paths(paths) => {
                let mut changed = BTreeMap::new();
                paths.iter().try_for_each(|(name, stages)| {
                    let number = path(instance, name)?;
                    if let Some(other) = changed.insert(number, name) {
                        let what = format!("it is the same path as {other}; write its faults in one place");
                        return Err(Refusal::bad(name, what));
                    }
                    edit.replace(number, stages).map_err(|refusal| within(name, refusal))
                })
            }
            Self::Config(document) => edit.take_over(document.params(instance)?),
            Self::Path(name, stages) => edit.replace(path(instance, name)?, stages),
            Self::Add(name, add) => edit.add(path(instance, name)?, add),
            Self::Patch(name, stage, patch) => edit.patch(path(instance, name)?, stage, patch),
            Self::Remove(name, stage) => edit.remove(path(instance, name)?, stage),
            Self::Freeze(..) | Self::Mark(_) => Ok(()),
        }
    }
}

/// The number of a path.
pub(super) fn path(instance: &Instance, name: &str) -> Result<usize, Refusal> {
    instance.path(name).ok_or_else(|| Refusal::unknown("path", name, instance.paths()))
}

/// Places a refusal inside of `field`.
pub(super) fn within(field: &str, refusal: Refusal) -> Refusal {
    // What is not there, or cannot change, is said without the field.
    if [StatusCode::NOT_FOUND, StatusCode::CONFLICT].contains(&refusal.status) {
        return refusal;
    }
    Refusal { field: format!("{field}.{}", refusal.field), ..refusal }
}

fn decoded(part: &str) -> Result<String, Refusal> {
    let text = percent_decode_str(part).decode_utf8();
    text.map(String::from).map_err(|_| Refusal::bad("path", format!("{part} is not UTF-8")))
}

fn mark(text: String) -> Result<String, Refusal> {
    if text.trim().is_empty() || text.chars().count() > MARK {
        return Err(Refusal::bad("text", format!("a mark has 1 to {MARK} characters")));
    }
    Ok(text)
}

/// An object inside of a body. serde also accepts lists in the order of the fields; these are refused.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'d, T: DeserializeOwned> Deserialize<'d> for Object<T> {
    fn deserialize<D: Deserializer<'d>>(value: D) -> Result<Self, D::Error> {
        let fields = serde_json::Map::deserialize(value)?;
        T::deserialize(Value::Object(fields)).map(Self).map_err(D::Error::custom)
    }
}

/// A body, which is an object, as JSON.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let is = match body.trim_ascii_start().first() {
        Some(b'{') => None,
        None => Some("missing"),
        Some(b'[') => Some("a list"),
        Some(b'"') => Some("a text"),
        Some(_) => Some("something else"),
    };
    if let Some(is) = is {
        return Err(Refusal::bad("body", format!("it has to be an object of JSON, and is {is}")));
    }
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        // For an unknown or missing field, serde's message has the name.
        let field = text.split('`').nth(1).filter(|_| text.contains("field")).unwrap_or("body").to_owned();
        Refusal::bad(field, text)
    })
}
