//! Which faults: those of the network's configuration, or of the pod.

use serde_json::Value;

use crate::config::expression;
use crate::config::spec::{self, Files};

/// What containerd hands over with the capability of this name; CRI-O has the same in `args`.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// What a pod's annotations begin with: `faultwire/both`.
const PREFIX: &str = "faultwire/";
/// What `CNI_ARGS` begin with: `FAULTWIRE_BOTH`.
const ARGUMENT: &str = "FAULTWIRE_";
/// What can be said in each of the places, and by which option `attach` takes it.
const KEYS: [&str; 5] = ["up", "down", "both", "match", "seed"];

/// Where a key is looked up.
type Place<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Options of `attach`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    pub(super) options: Vec<String>,
}

/// The faults that `config` and `arguments` (`CNI_ARGS`) ask for; `None` if none. A pod that says anything replaces what its
/// network says: first `CNI_ARGS`, then the annotations, then `args.cni.faultwire`, then the configuration itself.
///
/// Only the configuration itself may name files of the node: whoever makes a pod may not read them.
pub(super) fn wanted(config: &Value, arguments: &str) -> Result<Option<Wanted>, String> {
    let argument = |key: &str| {
        let name = format!("{ARGUMENT}{}", key.to_uppercase());
        arguments.split(';').find_map(|pair| pair.strip_prefix(&name)?.strip_prefix('=').map(str::to_owned))
    };
    let annotations = &config["runtimeConfig"][ANNOTATIONS];
    let annotation = |key: &str| text(&annotations[format!("{PREFIX}{key}")]);
    let places: [(&str, Files, Place<'_>); 4] = [
        ("CNI_ARGS", Files::Named, &argument),
        ("the pod's annotations", Files::Named, &annotation),
        ("args.cni.faultwire", Files::Named, &|key| text(&config["args"]["cni"]["faultwire"][key])),
        ("the network's configuration", Files::Any, &|key| text(&config[key])),
    ];
    for (place, files, of) in places {
        let mut wanted = Wanted::default();
        for key in KEYS {
            if let Some(value) = of(key) {
                test(key, &value, files).map_err(|error| format!("{key} in {place}: {error}"))?;
                wanted.options.extend([format!("--{key}"), value]);
            }
        }
        if !wanted.options.is_empty() {
            let has = |key: &str| of(key).is_some();
            if has("both") && (has("up") || has("down")) {
                return Err(format!("{place}: both stands for up and down, and excludes them"));
            }
            if files == Files::Named {
                wanted.options.push("--no-files".to_owned());
            }
            return Ok(Some(wanted));
        }
    }
    Ok(text(&config["config"]).map(|file| Wanted { options: vec!["--config".to_owned(), file] }))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
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
            (json!({ "both": "loss 1%", "up": "loss 1%" }), "", "excludes them"),
            (json!({ "seed": "x" }), "", "seed in the network's configuration"),
        ] {
            let error = wanted(&config, arguments).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
