//! The change that a request asks for, and the stages that result from it.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::config::{Aim, SeatDraft, read_seats, reader};
use crate::control::answer::Refusal;
use crate::control::instance::Instance;
use crate::control::json_toml::inline;
use crate::control::once::given_once;
use crate::control::settings;
use crate::pipeline::params::{PathParams, RouterParams, SeatParams, StageParams};
use crate::pipeline::router::ChangeError;
use crate::pipeline::time::Duration;

/// A field that may be missing, but not null.
pub(super) fn given<'d, T: Deserialize<'d>, D: Deserializer<'d>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// Stages in a request: a spec, or tables as in a configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stages {
    #[serde(default, deserialize_with = "given")]
    spec: Option<String>,
    #[serde(default, deserialize_with = "given")]
    stages: Option<Value>,
}

impl Stages {
    /// Checks that they can be read.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        self.read().map(drop)
    }

    /// The stages as the request gave them.
    pub(super) fn text(&self) -> String {
        match (&self.spec, &self.stages) {
            (Some(spec), _) => spec.clone(),
            (None, Some(stages)) => stages.to_string(),
            (None, None) => String::new(),
        }
    }

    /// The name of the field that holds them.
    const fn field(&self) -> &'static str {
        if self.spec.is_some() { "spec" } else { "stages" }
    }

    fn read(&self) -> Result<Vec<SeatDraft>, Refusal> {
        let (field, value) = match (&self.spec, &self.stages) {
            (Some(spec), None) => ("spec", Value::String(spec.clone())),
            (None, Some(stages)) => ("stages", stages.clone()),
            _ => return Err(Refusal::bad("spec", "give either spec (a text) or stages (a list of tables)")),
        };
        let text = inline(&value).ok_or_else(|| Refusal::bad(field, "there is a null in it"))?;
        let read = reader::document(&format!("{field} = {text}"), "", |root| {
            let key = if field == "spec" { "spec" } else { "stages" };
            Some(read_seats(&[root.value(key)?]))
        });
        read.map_err(|error| match error.problems.first() {
            Some(problem) => {
                let hint =
                    if problem.hint.is_empty() { String::new() } else { format!(" ({})", problem.hint) };
                let what = format!("{}{hint}", problem.what);
                Refusal::bad(problem.key.clone(), if field == "spec" { what } else { in_json(&what) })
            }
            None => Refusal::bad(field, error.to_string()),
        })
    }
}

/// `POST /v1/paths/PATH/stages`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Add {
    #[serde(default, deserialize_with = "given")]
    spec: Option<String>,
    #[serde(default, deserialize_with = "given")]
    stages: Option<Value>,
    /// The new stages are put in front of this stage; without it, at the end.
    #[serde(default, deserialize_with = "given")]
    before: Option<String>,
}

/// `PATCH /v1/paths/PATH/stages/STAGE`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    #[serde(default, deserialize_with = "given")]
    spec: Option<String>,
    #[serde(default, deserialize_with = "given")]
    stages: Option<Value>,
    /// Single parameters, by their keys.
    #[serde(default, deserialize_with = "given_once")]
    set: Option<BTreeMap<String, Value>>,
    #[serde(default, deserialize_with = "given")]
    paused: Option<bool>,
    /// Moves the stage in front of this stage; "" means the end.
    #[serde(default, deserialize_with = "given")]
    before: Option<String>,
}

impl Add {
    fn stages(&self) -> Stages {
        Stages { spec: self.spec.clone(), stages: self.stages.clone() }
    }

    pub(super) fn check(&self) -> Result<(), Refusal> {
        let stages = self.stages();
        if stages.read()?.is_empty() {
            return Err(Refusal::bad(stages.field(), "it adds no stage"));
        }
        Ok(())
    }

    pub(super) fn text(&self) -> String {
        let before = self.before.as_ref().map_or_else(String::new, |name| format!(" (before {name})"));
        format!("{}{before}", self.stages().text())
    }
}

impl Patch {
    fn stages(&self) -> Stages {
        Stages { spec: self.spec.clone(), stages: self.stages.clone() }
    }

    /// Whether the request says what the stage does.
    const fn has_stages(&self) -> bool {
        self.spec.is_some() || self.stages.is_some()
    }

    /// Whether it says nothing but where the stage stands, or that it goes on.
    const fn is_only_a_move(&self) -> bool {
        !self.has_stages() && self.set.is_none() && !matches!(self.paused, Some(true))
    }

    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.has_stages() && self.set.is_some() {
            return Err(Refusal::bad("set", "give either set or all that the stage does"));
        }
        if !self.has_stages() && self.set.is_none() && self.paused.is_none() && self.before.is_none() {
            let what = "nothing is asked for: give spec, stages, set, paused or before";
            return Err(Refusal::bad("body", what));
        }
        if self.set.as_ref().is_some_and(BTreeMap::is_empty) {
            return Err(Refusal::bad("set", "it names no parameter"));
        }
        if self.has_stages() { self.stages().check() } else { Ok(()) }
    }

    /// What is done to the stage named `id`, in words.
    pub(super) fn text(&self, id: &str) -> String {
        let mut said = Vec::new();
        if self.has_stages() {
            said.push(format!("set {id}: {}", self.stages().text()));
        }
        if let Some(set) = &self.set {
            let keys: Vec<String> =
                set.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect();
            said.push(format!("set {id} {}", keys.join(" ")));
        }
        match self.paused {
            Some(true) => said.push(format!("pause {id}")),
            Some(false) => said.push(format!("resume {id}")),
            None => {}
        }
        match self.before.as_deref() {
            Some("") => said.push(format!("move {id} to the end")),
            Some(before) => said.push(format!("move {id} before {before}")),
            None => {}
        }
        said.join(", ")
    }
}

/// An instance while it is edited.
pub(super) struct Edit {
    pub(super) params: RouterParams,
    /// The paused stages with their normal parameters, each with the number of its path.
    pub(super) paused: Vec<(usize, StageParams)>,
    aim: Aim,
}

impl Edit {
    pub(super) fn of(instance: &Instance) -> Self {
        Self { params: instance.params.clone(), paused: instance.paused.clone(), aim: instance.aim.clone() }
    }

    /// Replaces all stages of a path.
    pub(super) fn replace(&mut self, path: usize, stages: &Stages) -> Result<(), Refusal> {
        let read = self.aimed(only_stages(stages.read()?)?)?;
        self.paused.retain(|(of, _)| *of != path);
        self.params.paths[path].set_stages(read);
        Ok(())
    }

    /// Replaces all stages by those of another configuration, which must have everything else in common.
    pub(super) fn take_over(&mut self, mut params: RouterParams) -> Result<(), Refusal> {
        for path in &mut params.paths {
            self.narrow(path.stages_mut())?;
        }
        self.paused.clear();
        self.params = params;
        Ok(())
    }

    /// New stages, restricted to the packets at which the faults of this run are aimed.
    fn aimed(&self, mut stages: Vec<StageParams>) -> Result<Vec<StageParams>, Refusal> {
        self.narrow(&mut stages)?;
        Ok(stages)
    }

    fn narrow<'a>(&self, stages: impl IntoIterator<Item = &'a mut StageParams>) -> Result<(), Refusal> {
        self.aim.narrow(stages).map_err(|stage| {
            let what = format!(
                "the stage \"{stage}\" contradicts --match of this attachment: it would hit no packet"
            );
            Refusal::bad("match", what)
        })
    }

    pub(super) fn add(&mut self, path: usize, add: &Add) -> Result<(), Refusal> {
        let read = self.aimed(only_stages(add.stages().read()?)?)?;
        let path = &mut self.params.paths[path];
        let at = add.before.as_deref().map_or(Ok(path.seats.len()), |name| position(path, name))?;
        let count = read.len();
        for mut stage in read {
            stage.name = free_name(path, &stage.name);
            path.seats.push(stage.into());
        }
        path.seats[at..].rotate_right(count);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: usize, name: &str) -> Result<(), Refusal> {
        let at = position(&self.params.paths[path], name)?;
        self.params.paths[path].seats.remove(at);
        self.paused.retain(|(of, stage)| (*of, stage.name.as_str()) != (path, name));
        Ok(())
    }

    pub(super) fn patch(&mut self, path: usize, name: &str, wanted: &Patch) -> Result<(), Refusal> {
        let at = position(&self.params.paths[path], name)?;
        wanted.check()?;
        match self.params.paths[path].seats[at].clone() {
            SeatParams::Stage(stage) => {
                let stage = self.patched(path, stage, wanted)?;
                self.params.paths[path].seats[at] = stage.into();
            }
            // Where a translator stands is checked with the whole change.
            SeatParams::Translator { .. } if wanted.is_only_a_move() => {}
            SeatParams::Translator { .. } => return Err(ChangeError::Translator.into()),
        }
        if let Some(before) = &wanted.before {
            let path = &mut self.params.paths[path];
            let seat = path.seats.remove(at);
            let to = if before.is_empty() { Ok(path.seats.len()) } else { position(path, before) };
            path.seats.insert(to?, seat);
        }
        Ok(())
    }

    /// The stage of path `path` that now is `stage`, as it is wanted.
    fn patched(
        &mut self,
        path: usize,
        mut stage: StageParams,
        wanted: &Patch,
    ) -> Result<StageParams, Refusal> {
        let was_paused =
            self.paused.iter().position(|(of, paused)| (*of, &paused.name) == (path, &stage.name));
        if let Some(place) = was_paused {
            stage = self.paused.remove(place).1;
        }
        if let Some(set) = &wanted.set {
            settings::set(&mut stage.impairment, set)?;
        }
        if wanted.has_stages() {
            let read = self.aimed(only_stages(wanted.stages().read()?)?)?;
            let [one] = &read[..] else {
                let what = format!("a stage is one stage, and this makes {}", read.len());
                return Err(Refusal::bad(wanted.stages().field(), what));
            };
            // A spec says what is done, but not to which packets.
            stage = match &wanted.spec {
                Some(_) => StageParams { impairment: one.impairment.clone(), ..stage },
                None => StageParams { name: stage.name, ..one.clone() },
            };
        }
        if wanted.paused.unwrap_or_else(|| was_paused.is_some()) {
            self.paused.push((path, stage.clone()));
            // The stage no longer acts on any packet.
            stage.trigger.until = Some(Duration::ZERO);
        }
        Ok(stage)
    }
}

/// Rewrites a hint about a file for a client that writes JSON: `key = value` becomes `"key": value`.
fn in_json(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let is_key = |at: usize| {
        words.get(at + 1) == Some(&"=")
            && words[at].bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte))
    };
    let mut out: Vec<String> = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if is_key(at) {
            out.push(format!("\"{word}\":"));
        } else if *word != "=" || at == 0 || !is_key(at - 1) {
            out.push((*word).to_owned());
        }
    }
    out.join(" ")
}

/// A text without its quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The stages that were read; translators are not new ones.
fn only_stages(read: Vec<SeatDraft>) -> Result<Vec<StageParams>, Refusal> {
    let stage = |seat: SeatDraft| seat.into_stage().ok_or_else(|| ChangeError::Translator.into());
    read.into_iter().map(stage).collect()
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        Self::new(StatusCode::CONFLICT, "stages", error.to_string())
    }
}

fn position(path: &PathParams, name: &str) -> Result<usize, Refusal> {
    let found = path.names().position(|seat| seat == name);
    found.ok_or_else(|| Refusal::unknown("stage", name, path.names()))
}

/// `name`, or `name-2` and so on.
fn free_name(path: &PathParams, name: &str) -> String {
    let numbered = (2..).map(|number: u64| format!("{name}-{number}"));
    let is_free = |name: &String| path.names().all(|taken| taken != name);
    std::iter::once(name.to_owned()).chain(numbered).find(is_free).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_those_for_json() {
        for (text, json) in [
            ("write probability = \"1%\"", "write \"probability\": \"1%\""),
            ("it is 5 = 5", "it is \"5\": 5"),
            ("no key = here and a.b = 1", "no \"key\": here and \"a.b\": 1"),
            ("= 3", "= 3"),
            ("", ""),
        ] {
            assert_eq!(in_json(text), json);
        }
    }

    /// A change that asks for nothing is an error.
    #[test]
    fn a_change_changes_something() {
        let patch = |text: &str| serde_json::from_str::<Patch>(text).unwrap().check();
        assert_eq!(patch("{}").unwrap_err().field, "body");
        assert_eq!(patch(r#"{"set": {}}"#).unwrap_err().field, "set");
        assert_eq!(patch(r#"{"set": {"loss": "1%"}}"#), Ok(()));
        assert_eq!(patch(r#"{"before": ""}"#), Ok(()));
        let add = |text: &str| serde_json::from_str::<Add>(text).unwrap().check();
        assert_eq!(add(r#"{"spec": ""}"#).unwrap_err().field, "spec");
        assert_eq!(add(r#"{"stages": []}"#).unwrap_err().field, "stages");
        assert_eq!(add(r#"{"spec": "loss 1%"}"#), Ok(()));
        assert!(serde_json::from_str::<Patch>(r#"{"set": {"loss": "1%", "loss": "2%"}}"#).is_err());
    }
}
