//! `[[path.stage]]`: one stage with its name, match, trigger and the keys of its type.

use std::collections::{HashMap, HashSet};

use crate::config::draft::{Mark, SeatDraft};
use crate::config::impairment::{READERS, Reader};
use crate::config::port::is_name;
use crate::config::reader::{Table, Value};
use crate::config::select::read_select;
use crate::config::spec::{self, Spec};
use crate::config::trigger::read_trigger;
use crate::pipeline::params::{NatPlace, Phase, StageParams, Trigger, growth, limits};

/// What a type of `[[path.stage]]` makes.
#[derive(Clone, Copy)]
enum Kind {
    Stage(Reader),
    Translator,
}

/// Every type of `[[path.stage]]`, with what it makes.
fn kinds() -> impl Iterator<Item = (&'static str, Kind)> {
    let stages = READERS.iter().map(|&(name, reader)| (name, Kind::Stage(reader)));
    stages.chain([(NatPlace::TYPE, Kind::Translator)])
}

/// The name of every type of `[[path.stage]]`.
pub(super) fn types() -> impl Iterator<Item = &'static str> {
    kinds().map(|(name, _)| name)
}

/// Reads the seats of one path from `values`, in their order: each a spec (a text) or an array of stage tables. Names
/// that are not given are made up, unique in the path.
pub fn read_seats(values: &[Value<'_>]) -> Vec<SeatDraft> {
    let mut stages = Stages::default();
    for value in values {
        stages.read(value);
    }
    stages.finish()
}

/// The stages of a path while they are read.
#[derive(Debug, Default)]
pub(super) struct Stages {
    read: Vec<SeatDraft>,
    /// Also of stages that could not be read.
    names: HashSet<String>,
    /// How many stages have been named after each kind.
    numbers: HashMap<String, usize>,
    /// Too many stages are reported only once.
    is_full: bool,
    /// The stages belong to an attached device.
    is_wire: bool,
    /// That the stages make too many packets of one has been reported.
    is_explosive: bool,
}

impl Stages {
    /// An empty list, for a wire.
    pub(super) fn of_wire() -> Self {
        Self { is_wire: true, ..Self::default() }
    }

    /// Adds the stages of a spec or of an array of tables.
    pub(super) fn read(&mut self, value: &Value<'_>) {
        if value.as_text().is_some() {
            for mut stage in read_spec(value).stages {
                if !self.has_room(value) {
                    return;
                }
                stage.name = self.name(spec::kind_of(&stage.name), None);
                self.read.push(stage.into());
            }
            self.check_growth(value);
            return;
        }
        for item in value.items() {
            let Some(mut table) = item.table() else { continue };
            if !self.has_room(&item) {
                return;
            }
            let seat = self.seat(&mut table);
            self.read.extend(seat);
            self.check_growth(&item);
        }
    }

    /// Whether the path can take one more stage; a problem if not.
    fn has_room(&mut self, value: &Value<'_>) -> bool {
        let has_room = self.names.len() < limits::STAGES;
        if !has_room && !self.is_full {
            let hint = format!("a path has at most {} stages", limits::STAGES);
            value.problem("is one stage too many", hint);
            self.is_full = true;
        }
        has_room
    }

    /// Reports a problem if the stages make too many packets of one: once, at the stage that exceeds the limit.
    /// Stages of different phases never act on the same packet.
    fn check_growth(&mut self, value: &Value<'_>) {
        let last = self.read.last().and_then(SeatDraft::stage);
        let Some(last) = last.filter(|_| !self.is_explosive) else { return };
        let stages = self.read.iter().filter_map(SeatDraft::stage);
        if growth(stages, last.trigger.phase) > limits::GROWTH {
            self.is_explosive = true;
            value.problem(
                "makes too many packets of one, together with the stages before it",
                format!(
                    "copies of copies multiply; at most {} on average, so use fewer stages, copies or a lower probability",
                    limits::GROWTH
                ),
            );
        }
    }

    /// Adds the stages of one phase.
    pub(super) fn read_in(&mut self, value: &Value<'_>, phase: Phase) {
        let before = self.read.len();
        self.read(value);
        for seat in &mut self.read[before..] {
            match seat {
                SeatDraft::Stage(stage) => stage.trigger.phase = Some(phase),
                SeatDraft::Translator { .. } => value
                    .problem("a translator cannot be part of a phase", "put the nat stage before the phases"),
            }
        }
    }

    pub(super) fn finish(self) -> Vec<SeatDraft> {
        self.read
    }

    fn seat(&mut self, table: &mut Table<'_>) -> Option<SeatDraft> {
        let kinds: Vec<(&str, (&str, Kind))> = kinds().map(|(name, kind)| (name, (name, kind))).collect();
        // Of a type that is not known the keys are not known either.
        let (type_name, kind) = table.required("type", "\"loss\"")?.choice(&kinds)?;
        let given = table.value("name").and_then(|value| self.given(&value));
        let name = self.name(type_name, given);
        let select = table.value("match").and_then(|value| read_select(&value)).unwrap_or_default();
        let trigger = table.value("trigger").and_then(|value| read_trigger(&value)).unwrap_or_default();
        let seat = match kind {
            Kind::Translator => {
                if !select.is_any() || trigger != Trigger::default() {
                    table.problem("a translator sees all packets of its path", "remove match and trigger");
                }
                if self.is_wire {
                    table.problem(
                        "a translator cannot be on a wire: both ends keep their addresses",
                        "remove it, or use faultwire run with [[nat]]",
                    );
                }
                Some(SeatDraft::Translator { name, place: Mark })
            }
            Kind::Stage(reader) => {
                let impairment = reader(table, &trigger);
                let stage = impairment.map(|impairment| StageParams { name, select, trigger, impairment });
                if self.is_wire && stage.as_ref().is_some_and(|stage| stage.share().is_some()) {
                    table.problem(
                        "a wire has one path in each direction and cannot share its link",
                        "remove share",
                    );
                }
                stage.map(SeatDraft::Stage)
            }
        };
        table.finish();
        seat
    }

    /// The name `given`, or else `kind`, `kind-2`, `kind-3` and so on.
    fn name(&mut self, kind: &str, given: Option<String>) -> String {
        if let Some(name) = given {
            self.names.insert(name.clone());
            return name;
        }
        // Names are never freed, so the search continues where it ended.
        let number = self.numbers.entry(kind.to_owned()).or_insert(0);
        loop {
            *number += 1;
            let name = if *number == 1 { kind.to_owned() } else { format!("{kind}-{number}") };
            if self.names.insert(name.clone()) {
                return name;
            }
        }
    }

    fn given(&self, value: &Value<'_>) -> Option<String> {
        let read = |text: &str| is_name(text).then(|| text.to_owned());
        let name = value.parsed(read, "a name of letters, digits, - _ .", "uplink-loss")?;
        if self.names.contains(&name) {
            value.problem(
                format!("\"{name}\" is the name of another stage of the path"),
                "names must be unique",
            );
        }
        Some(name)
    }
}

/// Reads a spec inside a file, with errors at its own columns.
pub(super) fn read_spec(value: &Value<'_>) -> Spec {
    let Some(text) = value.text() else { return Spec::default() };
    match spec::parse(text) {
        Ok(spec) => {
            if spec.seed.is_some() {
                value.problem("\"seed\" belongs to the whole run", "write seed = 7 at the top of the file");
            }
            for warning in &spec.warnings {
                value.warn(warning);
            }
            spec
        }
        Err(error) => {
            for problem in error.problems {
                value.problem_within(&problem.at, problem.what, problem.hint);
            }
            Spec::default()
        }
    }
}
