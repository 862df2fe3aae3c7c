//! The file of `attach --config`: what happens on a wire, in both directions.
//!
//! It has the keys of a `[[link]]` of a configuration for `run` whose first end is the target: `up` is what the
//! target sends, `down` is what it receives, and `both` comes before either; `phase` works too.

use std::path::Path;

use crate::config::draft::SeatDraft;
use crate::config::expression;
use crate::config::impairment::positive;
use crate::config::path::directions;
use crate::config::plan::{IcmpPlan, Identity, Plan, set_mode};
use crate::config::problem::ConfigError;
use crate::config::reader::{self, Table};
use crate::config::select::read_select;
use crate::config::stage::Stages;
use crate::config::{file, read};
use crate::pipeline::impair::Place;
use crate::pipeline::params::StageParams;
use crate::pipeline::time::Duration;

/// The content of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct WireFile {
    /// Stages for what the target sends.
    pub up: Vec<StageParams>,
    /// Stages for what it receives.
    pub down: Vec<StageParams>,
    /// Seed of every random decision; `None`: drawn at the start, and printed.
    pub seed: Option<u64>,
    /// Entries of the flow table.
    pub flows: usize,
    /// How a flow is identified for random draws.
    pub identity: Option<Identity>,
    /// Detach by itself after this time.
    pub duration: Option<Duration>,
    /// Which ICMP errors stages may send.
    pub icmp: IcmpPlan,
    /// Packets to which nothing happens may stay in the kernel.
    pub flow_cache: bool,
    /// Warnings about settings that are allowed but probably not meant.
    pub warnings: Vec<String>,
}

/// Reads the file at `path`.
///
/// # Errors
/// If the file cannot be read, or everything that is wrong with it.
pub fn load_wire(path: &Path) -> Result<WireFile, ConfigError> {
    parse_wire(&read(path)?, &path.display().to_string())
}

/// Reads a file from its text; `name` is what problems call it.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_wire(text: &str, name: &str) -> Result<WireFile, ConfigError> {
    reader::document(text, name, |root| Some(read_wire(root)))
}

fn read_wire(root: &mut Table<'_>) -> WireFile {
    for key in ["port", "path", "link", "nat", "route"] {
        if let Some(value) = root.value(key) {
            value.problem(
                "belongs to a router of its own (faultwire run): an attached device has one wire",
                "write up, down or both, each a spec or [[up]] with type, match and trigger",
            );
        }
    }
    let [mut up, mut down] = read_directions(root);
    let mode = file::read_mode(root);
    set_mode(&mut up, mode);
    set_mode(&mut down, mode);
    let wire = WireFile {
        warnings: root.warnings().into_iter().chain(wire_warnings(&up, &down)).collect(),
        seed: root.integer("seed", 0..=u64::MAX),
        flows: root.integer("flows", 1..=1 << 24).unwrap_or(Plan::DEFAULT_FLOWS),
        flow_cache: root.flag("flow_cache", true),
        identity: file::read_identity(root),
        duration: root.value("duration").and_then(|value| positive(&value)),
        icmp: file::read_icmp(root),
        up,
        down,
    };
    root.finish();
    wire
}

/// The stages of what is sent and of what is received, from `up`, `down`, `both` and `phase` of a table, restricted
/// by its `match`.
pub(super) fn read_directions(table: &mut Table<'_>) -> [Vec<StageParams>; 2] {
    let value = table.value("match");
    let aim = value.as_ref().and_then(read_select);
    let only_stages = |seats: Vec<SeatDraft>| seats.into_iter().filter_map(SeatDraft::into_stage).collect();
    // A translator was refused where it was read.
    let mut both: [Vec<StageParams>; 2] = directions(table, Stages::of_wire).map(only_stages);
    let (Some(value), Some(aim)) = (value, aim) else { return both };
    for stage in both.iter_mut().flatten() {
        if !expression::narrow(&mut stage.select, &aim) {
            value.problem(
                format!("contradicts the conditions of the stage \"{}\", which hits no packet", stage.name),
                "change one of the two",
            );
        }
    }
    both
}

/// Warnings about the stages of a wire.
pub(super) fn wire_warnings(up: &[StageParams], down: &[StageParams]) -> Vec<String> {
    // The MTU of the device is not known here.
    let place = Place { mtu: None, ipv6: false };
    let of = |direction: &str, stages: &[StageParams]| -> Vec<String> {
        let told = stages.iter().flat_map(|stage| {
            let name = |trap| format!("{direction}, stage {}: {trap}", stage.name);
            stage.impairment.traps(&place).into_iter().map(name)
        });
        told.collect()
    };
    [of("up", up), of("down", down)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::params::Opened;

    fn refused(text: &str) -> String {
        parse_wire(text, "a.toml").unwrap_err().to_string()
    }

    #[test]
    fn the_example_is_read_in_both_directions() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/attach.toml");
        let wire = load_wire(&path).unwrap();
        let names =
            |stages: &[StageParams]| stages.iter().map(|stage| stage.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&wire.up), ["netem", "drop", "netem-2"]);
        assert_eq!(names(&wire.down), ["netem", "mtu", "netem-2"]);
        assert_eq!((wire.seed, wire.duration), (Some(7), Some(Duration::from_secs(600))));
        assert_eq!(wire.up[1].select.opened, Some(Opened::After));
        // The selection of the file restricts that of a stage.
        let ssh = expression::parse("not tcp port 22").unwrap();
        assert_eq!(wire.down[1].select, ssh);
        assert_eq!(wire.up[1].select.except.len(), 1);
        assert_eq!(wire.up[2].trigger.phase.unwrap().number, 2);
    }

    #[test]
    fn what_has_no_place_on_a_wire_is_refused_where_it_stands() {
        for (text, words) in [
            (
                "up = \"loss 1%\"\n[[port]]\nname = \"left\"\n",
                "a.toml:2:1: port: belongs to a router of its own",
            ),
            ("up = \"los 1%\"", "a.toml:1:7: up: \"los\" is not a known word"),
            ("match = \"tcp prt 1\"\nup = \"loss 1%\"", "a.toml:1:14: match: \"prt\" is not a condition"),
            (
                "match = \"udp\"\nup = \"delay 1ms; tcp: loss 1%\"",
                "a.toml:1:9: match: contradicts the conditions of the stage \"netem-2\", which hits no packet",
            ),
            ("seed = 7\n\n[[up]]\ntype = \"nat\"\n", "a.toml:3:1: up[0]: a translator cannot be on a wire"),
            ("upp = \"loss 1%\"", "a.toml:1:1: upp: is not a known key (did you mean \"up\"?)"),
        ] {
            let error = refused(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
