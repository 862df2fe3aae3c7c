//! Converts JSON in requests to TOML, so that the readers of the configuration need to know only one language.

use serde_json::Value;

/// `value` as TOML in one line; `None` if it has a null, which TOML does not have.
pub(super) fn inline(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        // TOML reads the escapes of JSON texts in the same way.
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Some(value.to_string().replace('\u{7f}', "\\u007f"))
        }
        Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(inline).collect();
            Some(format!("[{}]", items?.join(", ")))
        }
        Value::Object(entries) => {
            let entry = |(key, value): (&String, &Value)| {
                Some(format!("{} = {}", inline(&Value::String(key.clone()))?, inline(value)?))
            };
            let entries: Option<Vec<String>> = entries.iter().map(entry).collect();
            Some(format!("{{ {} }}", entries?.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn toml_reads_what_json_said() {
        let value = json!({
            "text": "a\"b\\\n\t\u{1}\u{7f}\u{1f980}", "a key": true, "many": [1, -2, 0.5, 1e300, [], {}], "in": { "x": { "y": "z" } },
        });
        let text = format!("value = {}", inline(&value).unwrap());
        let read: toml::Table = toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(serde_json::to_value(&read["value"]).unwrap(), value);
        assert_eq!(inline(&json!([1, null])), None);
    }
}
