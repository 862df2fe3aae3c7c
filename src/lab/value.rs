//! The observations of a case: values with dotted names.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// One observed value.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Yes or no.
    Flag(bool),
    /// A count of things: packets, bytes, sockets.
    Count(u64),
    /// A measure: a share, or milliseconds.
    Number(f64),
    /// A word.
    Text(String),
}

impl Value {
    /// As a number; words and flags are none.
    pub fn number(&self) -> Option<f64> {
        match *self {
            Self::Count(count) => Some(count as f64),
            Self::Number(number) => Some(number),
            Self::Flag(_) | Self::Text(_) => None,
        }
    }

    /// Equal in meaning: a count and a number of the same size are the same.
    pub fn same(&self, other: &Self) -> bool {
        match (self.number(), other.number()) {
            (Some(a), Some(b)) => (a - b).abs() < f64::EPSILON * a.abs().max(1.0),
            _ => self == other,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Number(number) => write!(f, "{}", (number * 1000.0).round() / 1000.0),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Milliseconds, with fraction.
impl From<Duration> for Value {
    fn from(span: Duration) -> Self {
        Self::Number(span.as_secs_f64() * 1e3)
    }
}

/// What one source (a traffic step, a kernel) reports: names without the source's prefix.
pub type Facts = Vec<(String, Value)>;

/// All that was observed in one run, by full name (`kernel.client.Tcp.RetransSegs`, `traffic.get.outcome`).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Observations {
    values: BTreeMap<String, Value>,
    /// Names that cannot be observed here, and why.
    #[serde(skip)]
    missing: BTreeMap<String, String>,
}

impl Observations {
    /// Puts `value` under `name`, in place of an earlier one.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        let name = name.into();
        self.missing.remove(&name);
        self.values.insert(name, value.into());
    }

    /// Notes that what `name` stands for cannot be observed here; what was there under it is no longer believed.
    pub fn miss(&mut self, name: impl Into<String>, why: impl Into<String>) {
        let name = name.into();
        self.values.remove(&name);
        self.missing.insert(name, why.into());
    }

    /// Why nothing could be observed under `name`; `None` if it was observed, or is unknown.
    pub fn why_missing(&self, name: &str) -> Option<&str> {
        self.missing.get(name).map(String::as_str)
    }

    /// Puts every fact under `prefix.name`.
    pub fn add(&mut self, prefix: &str, facts: Facts) {
        for (name, value) in facts {
            self.set(format!("{prefix}.{name}"), value);
        }
    }

    /// The value under `name`.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// All of them by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Up to five names that share the longest beginning with `name`, for a message about a name that is not there.
    pub fn near(&self, name: &str) -> Vec<&str> {
        let common = |other: &str| name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        let longest = self.values.keys().map(|key| common(key)).max().unwrap_or(0);
        self.values
            .keys()
            .filter(|key| longest > 0 && common(key) == longest)
            .take(5)
            .map(String::as_str)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_equals_the_number_of_its_size_and_no_word() {
        assert!(Value::Count(3).same(&Value::Number(3.0)));
        assert!(!Value::Count(3).same(&Value::Number(3.5)));
        assert!(!Value::Count(1).same(&Value::Flag(true)));
        assert!(Value::from("ok").same(&Value::from("ok")));
    }

    #[test]
    fn near_names_are_those_with_the_longest_common_beginning() {
        let mut seen = Observations::default();
        for name in ["kernel.client.Tcp.InSegs", "kernel.client.Tcp.OutSegs", "traffic.get.outcome"] {
            seen.set(name, 1_u64);
        }
        assert_eq!(seen.near("traffic.get.output"), ["traffic.get.outcome"]);
        assert_eq!(seen.near("kernel.client.Tcp.X").len(), 2);
        assert!(seen.near("xyz").is_empty());
    }
}
