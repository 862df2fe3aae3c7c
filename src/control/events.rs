//! `GET /v1/events`: what happens to packets, as it happens, one JSON object in each line.

use std::convert::Infallible;
use std::fmt::Write;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::spawn_blocking;

use crate::config::expression;
use crate::control::answer::Refusal;
use crate::control::desk::Desk;
use crate::control::instance::Instance;

use crate::engine::Listener;
use crate::http::over;
use crate::journal::text::Flows;
use crate::journal::{Finished, Hub, Kind, Lane, Names, Note, NoteKind, Record, Sink};

/// Lines that wait for a slow reader; more are lost, and counted.
const WAITING: usize = 1_024;

/// The events that a reader wants.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Kinds, separated by commas; by default `dropped` and everything that is done to the run.
    kinds: Option<String>,
    /// Only events on this path.
    path: Option<String>,
    /// Only packets that this selection matches.
    #[serde(rename = "match")]
    select: Option<String>,
    /// Only one of so many packets.
    sample: Option<u64>,
}

/// The kinds that are reported by default.
const USUAL: &str = "dropped,changed,marked,failed";

impl Wanted {
    /// What happens to packets, and what is done to the run.
    fn lane(&self, names: &Names) -> Result<(Lane, Vec<NoteKind>), Refusal> {
        let (mut kinds, mut notes) = (Vec::new(), Vec::new());
        for word in self.kinds.as_deref().unwrap_or(USUAL).split(',') {
            let kind = Kind::TOLD.into_iter().find(|kind| kind.name() == word);
            let note = NoteKind::ALL.into_iter().find(|kind| kind.name() == word);
            if kind.is_none() && note.is_none() {
                let known = Kind::TOLD.map(Kind::name).into_iter().chain(NoteKind::ALL.map(NoteKind::name));
                let known = known.collect::<Vec<_>>().join(", ");
                return Err(Refusal::bad("kinds", format!("{word:?} is none of: {known}")));
            }
            kinds.extend(kind);
            notes.extend(note);
        }
        let mut lane = Lane::of(&kinds);
        if let Some(name) = &self.path {
            let known = names.paths.iter().map(|path| path.name.as_str());
            let path = names.path(name).ok_or_else(|| Refusal::unknown("path", name, known))?;
            lane.paths = Some(path..=path);
        }
        if let Some(text) = &self.select {
            let select = expression::parse(text).map_err(|error| Refusal::bad("match", error.to_string()))?;
            lane.select = Some(select);
        }
        if let Some(sample) = self.sample {
            if sample == 0 {
                return Err(Refusal::bad("sample", "one in 0 packets is none; it is at least 1"));
            }
            lane.sample = sample;
        }
        Ok((lane, notes))
    }
}

/// Turns the records of a lane into lines.
struct Lines {
    names: Names,
    /// The kinds of changes to the run that are reported.
    notes: Vec<NoteKind>,
    out: mpsc::Sender<String>,
    /// Lost events that have not been reported yet.
    lost: u64,
    /// How many events the workers had no room for, including those already reported.
    without_room: u64,
}

impl Lines {
    /// Sends a line, if there is room for it.
    fn put(&mut self, line: impl FnOnce(&Self) -> Value) {
        if !self.tell_lost() {
            self.lost += 1;
            return;
        }
        let line = format!("{}\n", line(self));
        if let Err(TrySendError::Full(_)) = self.out.try_send(line) {
            self.lost += 1;
        }
    }

    /// Reports how many events were lost; false if there is no room for that either.
    fn tell_lost(&mut self) -> bool {
        if self.lost > 0 && self.out.try_send(lost_line(self.lost)).is_ok() {
            self.lost = 0;
        }
        self.lost == 0
    }
}

impl Sink for Lines {
    fn record(&mut self, record: &Record<'_>) {
        // Each record has headers, so nothing about its flow needs to be known.
        let line = |lines: &Self| Flows::default().json(&lines.names, record);
        self.put(line);
    }

    fn note(&mut self, note: &Note) {
        if self.notes.contains(&note.kind) {
            self.put(|_| note.json());
        }
    }

    fn lost(&mut self, total: u64) {
        self.lost += total - self.without_room;
        self.without_room = total;
    }

    fn pause(&mut self, _length: std::time::Duration) {
        self.tell_lost();
    }

    fn finish(mut self: Box<Self>, lost: u64) -> Finished {
        self.lost(lost);
        self.tell_lost();
        Finished::default()
    }
}

fn lost_line(lost: u64) -> String {
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(line, "{}", json!({ "kind": "lost", "events": lost }));
    line
}

/// What must end when the reader disconnects, in this order.
struct Source {
    listener: Listener,
    hub: Hub,
}

impl Source {
    /// Ends it on another thread than the serving one: the hub waits for the workers.
    fn end(self) {
        spawn_blocking(move || {
            drop(self.listener);
            self.hub.finish()
        });
    }
}

struct Stream {
    lines: mpsc::Receiver<String>,
    source: Option<Source>,
    ends: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(source) = self.source.take() {
            source.end();
        }
    }
}

impl Stream {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let mut lines = Vec::new();
        loop {
            let came = tokio::select! {
                count = self.lines.recv_many(&mut lines, WAITING) => Some(count),
                () = over(&mut self.ends), if self.source.is_some() => None,
            };
            match (came, self.source.take()) {
                // There are no more events.
                (Some(0), source) => {
                    self.source = source;
                    return None;
                }
                (Some(_), source) => {
                    self.source = source;
                    return Some((Ok(lines.concat().into()), self));
                }
                // The run ends: events that it has already reported come first.
                (None, source) => source.into_iter().for_each(Source::end),
            }
        }
    }
}

/// Starts to listen.
pub(super) fn listen(
    desk: &Desk,
    instance: &Instance,
    wanted: &Wanted,
    place: OwnedSemaphorePermit,
) -> Result<Response, Refusal> {
    let (lane, notes) = wanted.lane(&instance.names)?;
    let (out, lines) = mpsc::channel(WAITING);
    let first = out.clone();
    let sink = Lines { names: instance.names.clone(), notes, out, lost: 0, without_room: 0 };
    let started = Hub::start(vec![(lane, Box::new(sink))]);
    let (hub, taps) = started
        .map_err(|error| Refusal::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "", error.to_string()))?;
    desk.add_notes(hub.notes());
    let listener = instance.workers.listen(&taps).map_err(|_| Refusal::ended())?;
    // The first line says that from now on everything is reported. Events since the workers began to listen follow
    // it.
    let at = instance.workers.clock().now().as_nanos();
    let _ = first.try_send(format!("{}\n", json!({ "kind": "listening", "at_ns": at })));
    drop(first);
    hub.begin();
    let (source, ends) = (Some(Source { listener, hub }), desk.ends.clone());
    let body = stream::unfold(Stream { lines, source, ends, _place: place }, Stream::next);
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::names::tests::names;

    #[test]
    fn what_is_wanted_is_what_is_told() {
        let wanted = Wanted { kinds: None, path: None, select: None, sample: None };
        let (lane, _) = wanted.lane(&names()).unwrap();
        assert_eq!((lane.kinds, lane.paths, lane.select, lane.sample), (Kind::Dropped.bit(), None, None, 1));
        let word = |text: &str| Some(text.to_owned());
        let wanted =
            Wanted { kinds: word("sent,held"), path: word("up"), select: word("udp"), sample: Some(100) };
        let (lane, _) = wanted.lane(&names()).unwrap();
        assert_eq!((lane.kinds, lane.paths), (Kind::Sent.bit() | Kind::Held.bit(), Some(0..=0)));
        assert_eq!((lane.select, lane.sample), (Some(expression::parse("udp").unwrap()), 100));
    }
}
