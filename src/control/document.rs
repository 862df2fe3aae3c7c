//! `PUT /v1/config`: the stages of a whole configuration.

use serde::Deserialize;

use crate::config::{ConfigError, Kind, parse, parse_wire};
use crate::control::answer::Refusal;
use crate::control::instance::Instance;
use crate::engine::network::router_params;
use crate::pipeline::params::RouterParams;

/// A configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    /// Its text.
    config: String,
    /// Its name; files that it refers to are in the same folder.
    #[serde(default = "unnamed")]
    file: String,
}

fn unnamed() -> String {
    "config".to_owned()
}

impl Document {
    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.file
    }

    /// Checks that it can be read.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.is_of_a_wire() {
            parse_wire(&self.config, &self.file).map(drop).map_err(refused)
        } else {
            parse(&self.config, &self.file).map(drop).map_err(refused)
        }
    }

    /// The router of `instance` with the stages of this configuration.
    pub(super) fn params(&self, instance: &Instance) -> Result<RouterParams, Refusal> {
        let (old, is_routed) = (&instance.params, instance.command == "run");
        if self.is_of_a_wire() == is_routed {
            let what = if is_routed {
                "it is a file for attach, and this is a run: it has ports and paths"
            } else {
                "it is a configuration of run: here up, down and both say what happens in each direction"
            };
            return Err(Refusal::bad("config", what));
        }
        if is_routed {
            let plan = parse(&self.config, &self.file).map_err(refused)?;
            return Ok(router_params(&plan, plan.seed.unwrap_or(old.seed)));
        }
        let file = parse_wire(&self.config, &self.file).map_err(refused)?;
        let mut params = old.clone();
        params.seed = file.seed.unwrap_or(old.seed);
        for (name, stages) in [("up", file.up), ("down", file.down)] {
            let known = instance.paths();
            let number = instance.path(name).ok_or_else(|| Refusal::unknown("path", name, known))?;
            params.paths[number].set_stages(stages);
        }
        Ok(params)
    }

    fn is_of_a_wire(&self) -> bool {
        Kind::of(&self.config) == Some(Kind::Wire)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: ConfigError) -> Refusal {
    Refusal::bad("config", error.to_string())
}
