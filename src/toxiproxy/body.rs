//! Bodies of requests, read as Go's decoder reads them: the first JSON value counts, names of fields are compared
//! without regard to case, unknown fields are ignored, and `null` leaves a field as it is.

use serde_json::{Map, Value};

/// The first JSON value of a body.
pub(super) fn value(body: &[u8]) -> Result<Value, String> {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    match values.next() {
        Some(value) => value.map_err(|error| error.to_string()),
        None => Err("EOF".to_owned()),
    }
}

/// The fields of an object; none of `null`.
pub(super) fn object(value: Value) -> Result<Fields, String> {
    match value {
        Value::Object(fields) => Ok(Fields(fields)),
        Value::Null => Ok(Fields(Map::new())),
        other => Err(format!("this is {}, not an object", kind(&other))),
    }
}

/// The fields of an object.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// The value of a field, unless it is missing or `null`.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        let named = |(key, value): (&String, &'_ Value)| key.eq_ignore_ascii_case(name) && !value.is_null();
        let exact = self.0.get(name).filter(|value| !value.is_null());
        exact.or_else(|| self.0.iter().find(|(key, value)| named((key, value))).map(|(_, value)| value))
    }

    /// Puts a text into `place`, if there is one.
    pub(super) fn text(&self, name: &str, place: &mut String) -> Result<(), String> {
        let Some(value) = self.get(name) else { return Ok(()) };
        value.as_str().ok_or_else(|| wrong(name, "a string", value))?.clone_into(place);
        Ok(())
    }

    /// The same of a truth value.
    pub(super) fn flag(&self, name: &str, place: &mut bool) -> Result<(), String> {
        let Some(value) = self.get(name) else { return Ok(()) };
        *place = value.as_bool().ok_or_else(|| wrong(name, "true or false", value))?;
        Ok(())
    }

    /// The same of a whole number.
    pub(super) fn integer(&self, name: &str, place: &mut i64) -> Result<(), String> {
        let Some(value) = self.get(name) else { return Ok(()) };
        *place = value.as_i64().ok_or_else(|| wrong(name, "a whole number", value))?;
        Ok(())
    }

    /// The same of a number.
    pub(super) fn number(&self, name: &str, place: &mut f64) -> Result<(), String> {
        let Some(value) = self.get(name) else { return Ok(()) };
        *place = value.as_f64().ok_or_else(|| wrong(name, "a number", value))?;
        Ok(())
    }

    /// The fields of an object in a field; none if it is missing.
    pub(super) fn fields(&self, name: &str) -> Result<Self, String> {
        match self.get(name) {
            None => Ok(Self::default()),
            Some(Value::Object(fields)) => Ok(Self(fields.clone())),
            Some(other) => Err(wrong(name, "an object", other)),
        }
    }
}

fn wrong(name: &str, wanted: &str, value: &Value) -> String {
    format!("{name} has to be {wanted}, not {}", kind(value))
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "a truth value".to_owned(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        object(value(text.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn the_first_value_counts_and_an_empty_body_is_an_error() {
        assert_eq!(value(b"{} trailing"), Ok(serde_json::json!({})));
        assert_eq!(value(b""), Err("EOF".to_owned()));
        assert!(value(b"{").is_err());
        assert!(object(value(b"[]").unwrap()).is_err());
    }

    #[test]
    fn names_are_compared_without_case_and_null_changes_nothing() {
        let fields = fields(r#"{"Latency": 5, "jitter": null, "other": [], "rate": 0.5, "name": 3}"#);
        let (mut latency, mut jitter) = (1, 2);
        fields.integer("latency", &mut latency).unwrap();
        fields.integer("jitter", &mut jitter).unwrap();
        assert_eq!((latency, jitter), (5, 2));
        assert!(fields.integer("rate", &mut latency).unwrap_err().contains("a whole number"));
        assert!(fields.text("name", &mut String::new()).unwrap_err().contains("the number 3"));
        assert!(fields.fields("other").is_err());
    }
}
