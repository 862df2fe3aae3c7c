//! Changes that `ctl` asks for, at once or later.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::completions;
use crate::cli::ctl::CtlError;
use crate::control::Client;

/// What is changed.
#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Change {
    /// Change what a stage does, or some of its parameters; match and trigger stay
    Set {
        /// The stage: PATH/STAGE, or STAGE if only one path has it
        #[arg(value_name = "STAGE", add = completions::of_stages())]
        stage: String,
        /// What it does from now on, as for `exec`; or parameters by the keys that files have, as probability=5%
        #[arg(value_name = "SPEC|KEY=VALUE", required = true)]
        what: Vec<String>,
    },
    /// Add stages to a path
    Add {
        /// The path, for example up
        #[arg(value_name = "PATH", add = completions::of_paths())]
        path: String,
        /// What they do, as for `exec`
        #[arg(value_name = "SPEC", required = true)]
        spec: Vec<String>,
        /// In front of this stage of the path [default: at the end]
        #[arg(long, value_name = "NAME")]
        before: Option<String>,
    },
    /// Remove a stage
    Rm {
        /// The stage: PATH/STAGE, or STAGE if only one path has it
        #[arg(value_name = "STAGE", add = completions::of_stages())]
        stage: String,
    },
    /// Pause a stage: it acts on no packet
    Pause {
        /// The stage: PATH/STAGE, or STAGE if only one path has it
        #[arg(value_name = "STAGE", add = completions::of_stages())]
        stage: String,
    },
    /// Let a paused stage act again
    Resume {
        /// The stage: PATH/STAGE, or STAGE if only one path has it
        #[arg(value_name = "STAGE", add = completions::of_stages())]
        stage: String,
    },
    /// Hold packets that come to a path
    Freeze {
        /// The path, for example up
        #[arg(value_name = "PATH", add = completions::of_paths())]
        path: String,
    },
    /// Release the packets that wait in front of a frozen path
    Release {
        /// The path, for example up
        #[arg(value_name = "PATH", add = completions::of_paths())]
        path: String,
    },
    /// Replace all stages at once, or none: those of a configuration, or of paths
    Apply {
        /// A configuration as the instance was started with; or what packets meet on a path from now on, nothing for an empty SPEC
        #[arg(value_name = "FILE|PATH=SPEC", required = true)]
        what: Vec<String>,
    },
    /// Mark a moment in the journal and among the events
    Mark {
        /// The text, for example 'the deployment begins'
        #[arg(value_name = "TEXT")]
        text: String,
    },
}

/// A request that makes a change.
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) resource: String,
    pub(super) body: Option<Value>,
}

impl Change {
    /// Asks for it now; what is answered.
    pub(in crate::cli) fn send(&self, client: &Client) -> Result<Value, CtlError> {
        let Request { method, resource, body } = self.request(client)?;
        Ok(client.send(method, &resource, body.as_ref(), None)?.body)
    }

    /// The request; which stage is meant by a name alone is asked now.
    pub(super) fn request(&self, client: &Client) -> Result<Request, CtlError> {
        let of = |stage: &str| resource_of(client, stage);
        let request = |method, resource, body| Request { method, resource, body: Some(body) };
        let path_of = |path: &str| format!("/v1/paths/{}", encoded(path));
        Ok(match self {
            Self::Set { stage, what } => request("PATCH", of(stage)?, set(what)),
            Self::Add { path, spec, before } => {
                let mut body = json!({ "spec": spec.join(" ") });
                if let Some(before) = before {
                    body["before"] = before.as_str().into();
                }
                request("POST", format!("{}/stages", path_of(path)), body)
            }
            Self::Rm { stage } => Request { method: "DELETE", resource: of(stage)?, body: None },
            Self::Pause { stage } => request("PATCH", of(stage)?, json!({ "paused": true })),
            Self::Resume { stage } => request("PATCH", of(stage)?, json!({ "paused": false })),
            Self::Freeze { path } => request("PATCH", path_of(path), json!({ "frozen": true })),
            Self::Release { path } => request("PATCH", path_of(path), json!({ "frozen": false })),
            Self::Apply { what } => match &what[..] {
                [file] if !file.contains('=') || Path::new(file).exists() => {
                    request("PUT", "/v1/config".to_owned(), configuration(file)?)
                }
                paths => request("PUT", "/v1/paths".to_owned(), assigned(paths)?),
            },
            Self::Mark { text } => request("POST", "/v1/marks".to_owned(), json!({ "text": text })),
        })
    }
}

/// `SPEC` or `KEY=VALUE ...` as a body.
fn set(what: &[String]) -> Value {
    let pair = |word: &String| {
        let (key, value) = word.split_once('=')?;
        let is_key =
            !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
        // Numbers and truth values are JSON already, what has a unit is a text.
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        is_key.then(|| (key.to_owned(), value))
    };
    match what.iter().map(pair).collect::<Option<serde_json::Map<String, Value>>>() {
        Some(pairs) => json!({ "set": pairs }),
        None => json!({ "spec": what.join(" ") }),
    }
}

/// A file as a body.
fn configuration(file: &str) -> Result<Value, CtlError> {
    let wrong = |error: std::io::Error| CtlError::Wrong(format!("{file}: {error}"));
    let text = std::fs::read_to_string(file).map_err(wrong)?;
    // The instance may have another working directory.
    let path = std::path::absolute(file).map_err(wrong)?;
    Ok(json!({ "config": text, "file": path.to_string_lossy() }))
}

/// A line as words: those of `KEY=VALUE ...` apart, a spec as one.
pub(in crate::cli) fn words(line: &str) -> Vec<String> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    if words.iter().all(|word| word.contains('=')) { words } else { vec![line.trim().to_owned()] }
}

/// `PATH=SPEC ...` as a body.
fn assigned(paths: &[String]) -> Result<Value, CtlError> {
    let mut body = json!({});
    for assignment in paths {
        let Some((path, spec)) = assignment.split_once('=') else {
            let what = format!("{assignment}: write PATH=SPEC, as up='delay 20ms', or one FILE");
            return Err(CtlError::Wrong(what));
        };
        if body.get(path).is_some() {
            return Err(CtlError::Wrong(format!("{path} is given twice; write its faults in one SPEC")));
        }
        body[path] = json!({ "spec": spec });
    }
    Ok(body)
}

/// Where the stage is that is called `PATH/NAME` or `NAME`.
fn resource_of(client: &Client, stage: &str) -> Result<String, CtlError> {
    let resource = |path: &str, name: &str| format!("/v1/paths/{}/stages/{}", encoded(path), encoded(name));
    if let Some((path, name)) = stage.rsplit_once('/') {
        return Ok(resource(path, name));
    }
    let stages = client.get("/v1/stages")?;
    let stages = stages.as_array().map_or(&[][..], Vec::as_slice);
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let named: Vec<&Value> = stages.iter().filter(|one| one["name"] == stage).collect();
    let ids = |stages: &mut dyn Iterator<Item = &Value>| {
        stages.map(|one| text(one, "id")).collect::<Vec<_>>().join(", ")
    };
    let what = match &named[..] {
        [only] => return Ok(resource(&text(only, "path"), stage)),
        [] if stages.is_empty() => format!("there is no stage {stage}; there are: none"),
        [] => format!("there is no stage {stage}; there are: {}", ids(&mut stages.iter())),
        several => format!("several stages are called {stage}: {}", ids(&mut several.iter().copied())),
    };
    Err(CtlError::Wrong(format!("stage: {what}")))
}

/// What has a meaning in a URL is written by its number.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_to_add_need_no_quotes() {
        let add = |words: &[&str]| {
            let spec = words.iter().map(|word| (*word).to_owned()).collect();
            Change::Add { path: "up".to_owned(), spec, before: None }
        };
        for words in [&["delay 20ms loss 5%"][..], &["delay", "20ms", "loss", "5%"]] {
            let request = add(words).request(&Client::at("/nowhere")).unwrap();
            assert_eq!(request.body, Some(json!({ "spec": "delay 20ms loss 5%" })));
        }
    }

    #[test]
    fn keys_are_told_from_specs() {
        let set = |words: &[&str]| set(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(set(&["loss 5%"]), json!({ "spec": "loss 5%" }));
        assert_eq!(set(&["loss", "5%"]), json!({ "spec": "loss 5%" }));
        assert_eq!(
            set(&["probability=5%", "ecn=true", "queue.packets=7"]),
            json!({ "set": { "probability": "5%", "ecn": true, "queue.packets": 7 } })
        );
    }

    #[test]
    fn a_path_is_named_once() {
        let paths =
            |words: &[&str]| assigned(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let both = json!({ "up": { "spec": "loss 1%" }, "down": { "spec": "" } });
        assert_eq!(paths(&["up=loss 1%", "down="]).unwrap(), both);
        for (wrong, words) in [(&["up=loss 1%", "up=loss 2%"][..], "twice"), (&["up"], "PATH=SPEC")] {
            assert!(paths(wrong).unwrap_err().to_string().contains(words));
        }
    }

    #[test]
    fn names_are_encoded_for_urls() {
        assert_eq!(encoded("left>right"), "left%3Eright");
        assert_eq!(encoded("a b/ü?&=#-_.~"), "a%20b%2F%C3%BC%3F%26%3D%23-_.~");
    }
}
