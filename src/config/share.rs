//! `share = "trunk"`: one link for several paths.

use std::collections::BTreeMap;

use crate::config::draft::{PathDraft, SeatDraft};
use crate::config::port::is_name;
use crate::config::reader::{Table, Value};
use crate::pipeline::params::{
    Excess, ImpairmentParams, LinkLayer, NetemParams, RateParams, Share, StageParams, TC_LIMIT, Way,
};

/// The name of a shared link, in one direction.
pub(super) fn read(value: &Value<'_>, way: Way) -> Option<Share> {
    let name = |text: &str| if is_name(text) { Share::new(text, way) } else { None };
    value.parsed(name, "a name of at most 15 letters, digits, - _ .", "trunk")
}

/// Makes the link of `seats` the direction `way` of the link that `value` names. It is the one stage of type rate among them,
/// or the rate of a line of netem's words, which becomes such a stage in front of the line, with its limit as the queue.
pub(super) fn apply(value: &Value<'_>, way: Way, seats: &mut Vec<SeatDraft>) {
    let Some(share) = read(value, way) else { return };
    for index in (0..seats.len()).rev() {
        if let Some(line) = seats[index].stage_mut()
            && let ImpairmentParams::Netem(netem) = &mut line.impairment
            && let Some(rate) = take_rate(netem)
        {
            let impairment = ImpairmentParams::Rate(rate);
            let (select, trigger) = (line.select.clone(), line.trigger.clone());
            let is_taken = |name: &str| seats.iter().any(|seat| seat.name() == name);
            let mut name = "rate".to_owned();
            while is_taken(&name) {
                name.push_str("-of-link");
            }
            seats.insert(index, StageParams { name, select, trigger, impairment }.into());
        }
    }
    let mut count = 0;
    for stage in seats.iter_mut().filter_map(SeatDraft::stage_mut) {
        match &mut stage.impairment {
            ImpairmentParams::Rate(rate) => rate.share = Some(share),
            ImpairmentParams::Bottleneck(link) => link.share = Some(share),
            _ => continue,
        }
        count += 1;
    }
    if count != 1 {
        let what = format!("there are {count} rates to share, and it takes one");
        value.problem(
            what,
            "write one rate in each direction, or share in the stage of type rate that is meant",
        );
    }
}

/// Takes the rate out of a line.
fn take_rate(netem: &mut NetemParams) -> Option<RateParams> {
    let rate = netem.rate?;
    // A stage of type rate does not count cells and Ethernet headers.
    if rate.cell_size != 0 || rate.cell_overhead != 0 || netem.link_layer == Some(LinkLayer::Ethernet) {
        return None;
    }
    netem.rate = None;
    let packets = Some(netem.limit.take().unwrap_or(TC_LIMIT));
    let excess = Excess::Queue { packets, bytes: None, time: None };
    Some(RateParams { rate: rate.rate, excess, overhead: rate.packet_overhead, share: None })
}

/// The shared links that were named so far: their parameters and places.
#[derive(Default)]
pub(super) struct Shares(BTreeMap<Share, (ImpairmentParams, String)>);

impl Shares {
    /// Adds those of a path; one that is another link under the same name is a problem of `table`.
    pub(super) fn add(&mut self, path: &PathDraft, table: &Table<'_>, ports: &[&str]) {
        let here = format!("{} to {}", ports[path.from], ports[path.to]);
        let mut seen = Vec::new();
        for stage in path.stages() {
            let Some(share) = stage.share() else { continue };
            let name = share.name();
            if seen.contains(&share) {
                let what = format!("goes through the link \"{name}\" twice");
                table.problem(what, "remove share from one of the two stages");
            }
            seen.push(share);
            let (known, there) =
                self.0.entry(share).or_insert_with(|| (stage.impairment.clone(), here.clone()));
            if *known != stage.impairment {
                let what = format!(
                    "the link \"{name}\" is \"{known}\" from {there}, and \"{}\" from {here}",
                    stage.impairment
                );
                table.problem(
                    what,
                    "one link has one rate and one queue: write the same, or another name for share",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;
    use crate::config::plan::{PathPlan, WorkerCount};

    const NODES: &str = "nodes = [\"a\", \"b\", \"c\", \"d\"]\n";

    fn described(text: &str) -> Vec<String> {
        let plan = parse(&format!("{NODES}{text}"), "x.toml").unwrap_or_else(|error| panic!("{error}"));
        let stages = plan.paths.iter().flat_map(PathPlan::stages);
        stages.map(|stage| format!("{}: {}", stage.name, stage.impairment)).collect()
    }

    #[test]
    fn the_rate_of_a_line_becomes_the_link_of_a_direction() {
        let stages = described(
            "[[link]]\nbetween = [\"a\", \"c\"]\nshare = \"trunk\"\nboth = \"delay 10ms rate 2mbit limit 100\"\n",
        );
        assert_eq!(
            stages,
            [
                "rate: rate 2 Mbit/s, queue of at most 100 packets, shared as trunk, there",
                "netem: netem delay 10ms",
                "rate: rate 2 Mbit/s, queue of at most 100 packets, shared as trunk, back",
                "netem: netem delay 10ms",
            ]
        );
    }

    #[test]
    fn a_stage_of_type_rate_has_a_share_of_its_own() {
        let path = "[[path]]\nfrom = \"a\"\nto = \"b\"\n[[path.stage]]\ntype = \"rate\"\nrate = \"2 Mbit/s\"\nshare = \"t\"\n";
        let other = path.replace("\"b\"", "\"c\"");
        let plan = parse(&format!("{NODES}workers = 2\n{path}{other}"), "x.toml").unwrap();
        let [one, other] = [0, 1].map(|path| plan.paths[path].stages().next().unwrap().share());
        assert!(one.is_some() && one == other);
        assert!(matches!(plan.workers, WorkerCount::Exactly(count) if count.get() == 2));
    }

    #[test]
    fn what_cannot_be_shared_is_refused_where_it_stands() {
        let link = |between: &str, rest: &str| {
            format!("[[link]]\nbetween = [{between}]\nshare = \"trunk\"\n{rest}\n")
        };
        let (ac, bd) = ("\"a\", \"c\"", "\"b\", \"d\"");
        let two = |one: &str, other: &str| {
            link(ac, &format!("both = \"{one}\"")) + &link(bd, &format!("both = \"{other}\""))
        };
        let codel = two("rate 2mbit queue 50 codel", "rate 2mbit queue 50 codel");
        for (text, words) in [
            (
                two("rate 2mbit limit 100", "rate 3mbit limit 100"),
                "x.toml:6:1: link[1]: the link \"trunk\" is \"rate 2 Mbit/s, queue of at most 100 packets, shared as trunk, \
                 there\" from a to c, and \"rate 3 Mbit/s, queue of at most 100 packets, shared as trunk, there\" from b to d \
                 (one link has one rate",
            ),
            (two("rate 2mbit limit 100", "rate 2mbit limit 50"), "the link \"trunk\" is"),
            (
                link(ac, "both = \"delay 1ms\""),
                "link[0].share: there are 0 rates to share, and it takes one (write",
            ),
            (
                link(ac, "both = \"rate 1mbit queue 5; rate 1mbit\""),
                "link[0].share: there are 2 rates to share",
            ),
            (link(ac, "both = \"rate 1mbit 0 48 5\""), "link[0].share: there are 0 rates to share"),
            (
                link(ac, "both = \"rate 1mbit\"").replace("trunk", "a name with spaces"),
                "link[0].share: \"a name with spaces\" is not a name",
            ),
            (
                format!("workers = 2\n{codel}"),
                "x.toml:2:11: workers: a router with a shared link that has a discipline, steps or a trace has one worker",
            ),
        ] {
            let error = parse(&format!("{NODES}{text}"), "x.toml").unwrap_err().to_string();
            assert!(error.contains(words), "{text}\n{error}");
        }
        let plan = parse(&format!("{NODES}{codel}"), "x.toml").unwrap();
        assert!(matches!(plan.workers, WorkerCount::Exactly(count) if count.get() == 1));
    }
}
