//! Selects the faults: those of the network's configuration, or of the pod.

use serde_json::Value;

use crate::config::expression;
use crate::config::spec::{self, Files};
use crate::config::suggest;

/// The key under which containerd passes annotations, if the plugin has the capability of this name; CRI-O has the
/// same key in `args`.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// Prefix of a pod's annotations: `faultwire/both`.
const PREFIX: &str = "faultwire/";
/// Prefix of keys in `CNI_ARGS`: `FAULTWIRE_BOTH`.
const ARGUMENT: &str = "FAULTWIRE_";
/// The keys that are allowed in each of the places, and the option of `attach` for each.
const KEYS: [&str; 5] = ["up", "down", "both", "match", "seed"];
/// The key of a file with faults, which only the network's configuration may name.
const FILE: &str = "config";

/// Options of `attach`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    pub(super) options: Vec<String>,
}

/// One place with faults: its keys and their values.
struct Place<'a> {
    name: &'static str,
    files: Files,
    keys: Vec<(&'a str, Value)>,
}

/// The faults that `config` and `arguments` (`CNI_ARGS`) ask for; `None` if there are none. If a pod asks for
/// anything, this replaces what its network asks for. The order is: `CNI_ARGS`, the annotations,
/// `args.cni.faultwire`, the configuration itself.
///
/// Only the configuration itself may name files of the node: the creator of a pod may not read them.
pub(super) fn wanted(config: &Value, arguments: &str) -> Result<Option<Wanted>, String> {
    let variables: Vec<(String, Value)> = (arguments.split(';'))
        .filter_map(|pair| pair.strip_prefix(ARGUMENT)?.split_once('='))
        .map(|(key, value)| (key.to_lowercase(), value.into()))
        .collect();
    let variables = variables.iter().map(|(key, value)| (&key[..], value.clone())).collect();
    let annotations = members(&config["runtimeConfig"][ANNOTATIONS], "the pod's annotations")?;
    let annotations =
        annotations.filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value))).collect();
    let places = [
        Place { name: "CNI_ARGS", files: Files::Named, keys: variables },
        Place { name: "the pod's annotations", files: Files::Named, keys: annotations },
        Place {
            name: "args.cni.faultwire",
            files: Files::Named,
            keys: members(&config["args"]["cni"]["faultwire"], "args.cni.faultwire")?.collect(),
        },
        Place { name: "the network's configuration", files: Files::Any, keys: own(config)? },
    ];
    places.iter().find(|place| !place.keys.is_empty()).map(options).transpose()
}

/// The part of the configuration for faultwire. The configuration has other keys too: those of the specification and
/// of runtimes.
fn own(config: &Value) -> Result<Vec<(&str, Value)>, String> {
    let mut keys = Vec::new();
    for (key, value) in members(config, "the network's configuration")? {
        if key == FILE || KEYS.contains(&key) {
            keys.push((key, value));
        } else if let Some(meant) = suggest::nearest(key, KEYS.into_iter().chain([FILE]))
            && key != "type"
        {
            return Err(format!("{key} is not a key of faultwire (did you mean \"{meant}\"?)"));
        }
    }
    Ok(keys)
}

/// The members of an object; none if there is no object.
fn members<'a>(value: &'a Value, name: &str) -> Result<impl Iterator<Item = (&'a str, Value)>, String> {
    let members = match value {
        Value::Null => None,
        Value::Object(members) => Some(members),
        _ => return Err(format!("{name}: this should be an object")),
    };
    Ok(members.into_iter().flatten().map(|(key, value)| (&key[..], value.clone())))
}

/// The options of `attach` for one place.
fn options(place: &Place<'_>) -> Result<Wanted, String> {
    let wrong = |key: &str, what: &str| format!("{key} in {}: {what}", place.name);
    let has = |key: &str| place.keys.iter().any(|(known, _)| *known == key);
    let mut options = Vec::new();
    for (key, value) in &place.keys {
        let is_file = *key == FILE && place.files == Files::Any;
        if !is_file && !KEYS.contains(key) {
            return Err(wrong(key, &format!("is not known ({})", suggest::hint(key, &KEYS))));
        }
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return Err(wrong(key, "this should be a text")),
        };
        if !is_file {
            test(key, &text, place.files).map_err(|error| wrong(key, &error))?;
        }
        options.extend([format!("--{key}"), text]);
    }
    let directions = ["up", "down"].into_iter().any(has);
    if has(FILE) && (has("both") || directions) {
        return Err(format!("{}: the faults are in the file of config, or in up, down and both", place.name));
    }
    if !has("both") && !directions && !has(FILE) {
        return Err(format!("{}: no faults: add up, down or both", place.name));
    }
    if place.files == Files::Named {
        options.push("--no-files".to_owned());
    }
    Ok(Wanted { options })
}

fn test(key: &str, value: &str, files: Files) -> Result<(), String> {
    match key {
        "match" => expression::parse(value).map(drop).map_err(|error| error.to_string()),
        "seed" => value.parse::<u64>().map(drop).map_err(|error| error.to_string()),
        _ => spec::parse_with(value, files).map(drop).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options(config: &Value, arguments: &str) -> Vec<String> {
        wanted(config, arguments).unwrap().unwrap_or_default().options
    }

    #[test]
    fn the_most_specific_source_wins() {
        let mut config = json!({ "type": "faultwire", "both": "loss 1%", "seed": 7 });
        assert_eq!(options(&config, ""), ["--both", "loss 1%", "--seed", "7"]);
        config["args"] = json!({ "cni": { "faultwire": { "up": "delay 1ms" } } });
        assert_eq!(options(&config, ""), ["--up", "delay 1ms", "--no-files"]);
        config["runtimeConfig"] = json!({ ANNOTATIONS: { "faultwire/down": "delay 2ms", "other/up": "x" } });
        assert_eq!(options(&config, "IgnoreUnknown=1"), ["--down", "delay 2ms", "--no-files"]);
        let arguments = "IgnoreUnknown=1;FAULTWIRE_BOTH=delay 3ms;FAULTWIRE_MATCH=tcp port 80";
        let expected = ["--both", "delay 3ms", "--match", "tcp port 80", "--no-files"];
        assert_eq!(options(&config, arguments), expected);
        assert_eq!(options(&json!({ "type": "faultwire" }), "K8S_POD_NAME=x"), [""; 0]);
        assert_eq!(options(&json!({ "config": "/etc/a.toml" }), ""), ["--config", "/etc/a.toml"]);
        let aimed = json!({ "config": "a.toml", "match": "tcp", "name": "net", "cniVersion": "1.0.0" });
        assert_eq!(options(&aimed, ""), ["--config", "a.toml", "--match", "tcp"]);
    }

    #[test]
    fn only_the_network_s_own_configuration_names_files() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/traces/sawtooth.trace");
        for key in ["up", "down", "both"] {
            let spec = format!("trace {file}");
            let own = json!({ key: spec });
            assert_eq!(options(&own, ""), [format!("--{key}"), spec.clone()]);
            let annotations =
                json!({ "runtimeConfig": { ANNOTATIONS: { format!("faultwire/{key}"): spec } } });
            let arguments = json!({ "args": { "cni": { "faultwire": own } } });
            let variable = format!("FAULTWIRE_{}={spec}", key.to_uppercase());
            for (config, variable) in [(annotations, ""), (arguments, ""), (json!({}), variable.as_str())] {
                let error = wanted(&config, variable).unwrap_err();
                assert!(error.contains("none may be named here"), "{config} {variable}: {error}");
            }
        }
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (config, arguments, words) in [
            (json!({ "both": "los 1%" }), "", "both in the network's configuration"),
            (json!({}), "FAULTWIRE_MATCH=tcp prt 1", "match in CNI_ARGS"),
            (json!({ "seed": "x" }), "", "seed in the network's configuration"),
            (json!({ "bothh": "loss 1%" }), "", "did you mean \"both\"?"),
            (json!({ "both": ["loss 1%"] }), "", "this should be a text"),
            (json!({ "match": "tcp" }), "", "no faults"),
            (json!({ "both": "loss 1%" }), "FAULTWIRE_SEED=4", "CNI_ARGS: no faults"),
            (json!({}), "FAULTWIRE_DELAY=1", "delay in CNI_ARGS: is not known"),
            (json!({ "config": "a.toml", "both": "loss 1%" }), "", "in the file of config, or"),
            (json!({ "args": { "cni": { "faultwire": { "config": "/etc/passwd" } } } }), "", "is not known"),
            (json!({ "args": { "cni": { "faultwire": ["up"] } } }), "", "should be an object"),
        ] {
            let error = wanted(&config, arguments).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
