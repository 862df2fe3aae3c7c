//! Toxics: their names, which connections they hit, and their attributes.

use serde::Serialize;
use serde::ser::SerializeStruct;

use crate::config::spec::{self, Files};
use crate::toxiproxy::answer::ApiError;
use crate::toxiproxy::body::Fields;

/// Which of the two streams of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Direction {
    /// From the client to the upstream.
    Upstream,
    /// From the upstream to the client.
    Downstream,
}

impl Direction {
    pub(super) const BOTH: [Self; 2] = [Self::Upstream, Self::Downstream];

    /// Its name in requests and answers.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Downstream => "downstream",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::BOTH.into_iter().find(|direction| direction.name().eq_ignore_ascii_case(text))
    }
}

/// What a toxic does, with its attributes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Attributes {
    /// Nothing.
    Noop {},
    /// Milliseconds.
    Latency { latency: i64, jitter: i64 },
    /// 1000 bytes per second.
    Bandwidth { rate: i64 },
    /// Milliseconds by which the end of the stream comes later.
    SlowClose { delay: i64 },
    /// Milliseconds until the connection is closed; 0: never.
    Timeout { timeout: i64 },
    /// Milliseconds until the connection is reset.
    ResetPeer { timeout: i64 },
    /// Bytes, bytes, and microseconds between two pieces.
    Slicer { average_size: i64, size_variation: i64, delay: i64 },
    /// Bytes that pass.
    LimitData { bytes: i64 },
    /// Probability from 0 to 1, and how much a loss makes the next one more probable.
    PacketLoss { loss_rate: f64, correlation: f64 },
    /// faultwire's own: any faults, as a line of words.
    Faults { spec: String },
}

impl Attributes {
    /// The default attributes of a type.
    fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "noop" => Self::Noop {},
            "latency" => Self::Latency { latency: 0, jitter: 0 },
            "bandwidth" => Self::Bandwidth { rate: 0 },
            "slow_close" => Self::SlowClose { delay: 0 },
            "timeout" => Self::Timeout { timeout: 0 },
            "reset_peer" => Self::ResetPeer { timeout: 0 },
            "slicer" => Self::Slicer { average_size: 0, size_variation: 0, delay: 0 },
            "limit_data" => Self::LimitData { bytes: 0 },
            "packet_loss" => Self::PacketLoss { loss_rate: 0.1, correlation: 0.0 },
            "faults" => Self::Faults { spec: String::new() },
            _ => return None,
        })
    }

    /// Changes the attributes that are given.
    fn set(&mut self, fields: &Fields) -> Result<(), String> {
        match self {
            Self::Noop {} => Ok(()),
            Self::Latency { latency, jitter } => {
                fields.integer("latency", latency)?;
                fields.integer("jitter", jitter)
            }
            Self::Bandwidth { rate } => fields.integer("rate", rate),
            Self::SlowClose { delay } => fields.integer("delay", delay),
            Self::Timeout { timeout } | Self::ResetPeer { timeout } => fields.integer("timeout", timeout),
            Self::Slicer { average_size, size_variation, delay } => {
                fields.integer("average_size", average_size)?;
                fields.integer("size_variation", size_variation)?;
                fields.integer("delay", delay)
            }
            Self::LimitData { bytes } => fields.integer("bytes", bytes),
            Self::PacketLoss { loss_rate, correlation } => {
                fields.number("loss_rate", loss_rate)?;
                fields.number("correlation", correlation)
            }
            Self::Faults { spec } => {
                fields.text("spec", spec)?;
                // Clients of the API may not name files of this host.
                let read = spec::parse_with(spec, Files::Named).map_err(|error| error.to_string())?;
                match read.seed {
                    Some(_) => {
                        Err("a seed in a spec has no effect here: --seed is that of the server".to_owned())
                    }
                    None => Ok(()),
                }
            }
        }
    }
}

/// A toxic of a proxy.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Toxic {
    /// Distinguishes toxics that had the same name at different times.
    pub(super) id: u64,
    pub(super) name: String,
    kind: String,
    pub(super) stream: Direction,
    /// Share of the connections that it hits.
    pub(super) toxicity: f32,
    pub(super) attributes: Attributes,
}

impl Toxic {
    /// Reads a new toxic, whose name must not be `taken`.
    pub(super) fn read(id: u64, fields: &Fields, taken: impl Fn(&str) -> bool) -> Result<Self, ApiError> {
        let (mut name, mut kind, mut stream) = (String::new(), String::new(), "downstream".to_owned());
        let mut toxicity = 1.0;
        let mut read = || {
            fields.text("name", &mut name)?;
            fields.text("type", &mut kind)?;
            fields.text("stream", &mut stream)?;
            fields.number("toxicity", &mut toxicity)?;
            fields.fields("attributes")
        };
        let given = read().map_err(ApiError::bad_body)?;
        let direction = Direction::parse(&stream).ok_or_else(ApiError::stream)?;
        if name.is_empty() {
            name = format!("{kind}_{stream}");
        }
        let mut attributes = Attributes::of(&kind).ok_or_else(ApiError::toxic_type)?;
        if taken(&name) {
            return Err(ApiError::toxic_exists());
        }
        attributes.set(&given).map_err(ApiError::bad_body)?;
        Ok(Self { id, name, kind, stream: direction, toxicity: toxicity as f32, attributes })
    }

    /// The same toxic with other attributes and toxicity; other fields are ignored.
    pub(super) fn updated(&self, fields: &Fields) -> Result<Self, ApiError> {
        let mut updated = self.clone();
        let mut toxicity = f64::from(self.toxicity);
        fields.number("toxicity", &mut toxicity).map_err(ApiError::bad_body)?;
        let given = fields.fields("attributes").map_err(ApiError::bad_body)?;
        updated.attributes.set(&given).map_err(ApiError::bad_body)?;
        updated.toxicity = toxicity as f32;
        Ok(updated)
    }
}

impl Serialize for Toxic {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Toxic", 5)?;
        fields.serialize_field("attributes", &self.attributes)?;
        fields.serialize_field("name", &self.name)?;
        fields.serialize_field("type", &self.kind)?;
        fields.serialize_field("stream", &self.stream)?;
        fields.serialize_field("toxicity", &self.toxicity)?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toxiproxy::body;

    fn read(text: &str) -> Result<Toxic, ApiError> {
        let fields = body::object(body::value(text.as_bytes()).unwrap()).unwrap();
        Toxic::read(1, &fields, |name| name == "taken")
    }

    fn said(toxic: &Toxic) -> String {
        serde_json::to_string(toxic).unwrap()
    }

    #[test]
    fn every_type_has_its_attributes_and_defaults() {
        let all = [
            ("latency", r#"{"latency":0,"jitter":0}"#),
            ("bandwidth", r#"{"rate":0}"#),
            ("slow_close", r#"{"delay":0}"#),
            ("timeout", r#"{"timeout":0}"#),
            ("reset_peer", r#"{"timeout":0}"#),
            ("slicer", r#"{"average_size":0,"size_variation":0,"delay":0}"#),
            ("limit_data", r#"{"bytes":0}"#),
            ("packet_loss", r#"{"loss_rate":0.1,"correlation":0.0}"#),
            ("noop", "{}"),
        ];
        for (kind, attributes) in all {
            let toxic = read(&format!(r#"{{"type": "{kind}"}}"#)).unwrap();
            let expected = format!(
                r#"{{"attributes":{attributes},"name":"{kind}_downstream","type":"{kind}","stream":"downstream","toxicity":1.0}}"#
            );
            assert_eq!(said(&toxic), expected);
        }
    }

    #[test]
    fn what_is_wrong_is_refused_in_toxiproxy_s_order() {
        for (text, error) in [
            (r#"{"type": 3}"#, ApiError::bad_body("type has to be a string, not the number 3")),
            (r#"{"type": "x", "stream": "sideways"}"#, ApiError::stream()),
            (r#"{"type": "x", "name": "taken"}"#, ApiError::toxic_type()),
            (
                r#"{"type": "latency", "name": "taken", "attributes": {"latency": "1"}}"#,
                ApiError::toxic_exists(),
            ),
            (
                r#"{"type": "latency", "attributes": {"latency": "1"}}"#,
                ApiError::bad_body("latency has to be a whole number, not a string"),
            ),
        ] {
            assert_eq!(read(text), Err(error), "{text}");
        }
        let files = read(r#"{"type": "faults", "attributes": {"spec": "delay 1ms loss trace /etc/passwd"}}"#);
        assert_eq!(files.unwrap_err().status().as_u16(), 400);
        assert!(read(r#"{"type": "faults", "attributes": {"spec": "mtu 1400 icmp loss 1%"}}"#).is_ok());
        assert!(read(r#"{"type": "faults", "attributes": {"spec": "loss 1% seed 3"}}"#).is_err());
    }

    #[test]
    fn an_update_changes_attributes_and_toxicity_only() {
        let toxic = read(
            r#"{"type": "latency", "stream": "Upstream", "toxicity": 0.3,
                             "attributes": {"latency": 5, "jitter": 6}}"#,
        );
        let toxic = toxic.unwrap();
        let fields =
            body::value(br#"{"name": "x", "type": "y", "stream": "z", "attributes": {"latency": 9}}"#);
        let updated = toxic.updated(&body::object(fields.unwrap()).unwrap()).unwrap();
        let expected = Attributes::Latency { latency: 9, jitter: 6 };
        assert_eq!(updated, Toxic { attributes: expected, ..toxic });
        assert!(
            said(&updated).ends_with(
                r#""name":"latency_Upstream","type":"latency","stream":"upstream","toxicity":0.3}"#
            )
        );
    }
}
