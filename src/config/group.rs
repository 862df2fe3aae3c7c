//! Groups of ports: `[groups]`, the ends of links, and `partition`.

use std::collections::BTreeSet;

use crate::config::attached::MARK;
use crate::config::draft::PathDraft;
use crate::config::port::{is_name, port_index};
use crate::config::reader::{Table, Value};
use crate::config::suggest;
use crate::pipeline::params::{DropParams, ImpairmentParams, Select, StageParams, Trigger};

/// Every port, as a group.
const ALL: &str = "all";

/// The ports and the groups of a file.
pub(super) struct Groups<'a> {
    ports: &'a [&'a str],
    named: Vec<(String, Vec<usize>)>,
}

impl<'a> Groups<'a> {
    /// Reads `[groups]` of `root`; `ports` are the names that it may use.
    pub(super) fn read(root: &mut Table<'_>, ports: &'a [&'a str]) -> Self {
        let mut groups = Self { ports, named: Vec::new() };
        let pairs = root.value("groups").map(|value| value.pairs()).unwrap_or_default();
        for (name, value) in pairs {
            if !is_name(name) || name == ALL || ports.contains(&name) {
                let what = format!("\"{name}\" cannot name a group");
                value.problem(what, "letters, digits, - _ .; not \"all\", and not the name of a port");
            }
            let members = groups.ports(&value);
            groups.named.push((name.to_owned(), members.unwrap_or_default()));
        }
        groups
    }

    /// The ports that `value` names: one port, those of a group, all, or an array of these. `None` if a name is
    /// wrong, which has been reported.
    pub(super) fn ports(&self, value: &Value<'_>) -> Option<Vec<usize>> {
        let mut members = Vec::new();
        let mut is_right = true;
        for item in value.one_or_more() {
            match self.one(&item) {
                Some(more) => {
                    if let Some(&twice) = more.iter().find(|port| members.contains(*port)) {
                        item.problem(
                            format!("\"{}\" is given twice", self.ports[twice]),
                            "name each port once",
                        );
                        is_right = false;
                    }
                    members.extend(more);
                }
                None => is_right = false,
            }
        }
        is_right.then_some(members)
    }

    fn one(&self, value: &Value<'_>) -> Option<Vec<usize>> {
        let name = value.text()?;
        if let Some((_, members)) = self.named.iter().find(|group| group.0 == name) {
            return Some(members.clone());
        }
        if name == ALL && !self.ports.contains(&ALL) {
            let is_own = |port: &&str| !port.is_empty() && !port.starts_with(MARK);
            return Some((0..self.ports.len()).filter(|&index| is_own(&self.ports[index])).collect());
        }
        if self.named.is_empty() || self.ports.iter().any(|port| port.trim_start_matches(MARK) == name) {
            return port_index(value, self.ports).map(|index| vec![index]);
        }
        let own = self.ports.iter().filter(|port| !port.is_empty() && !port.starts_with(MARK));
        let known: Vec<&str> = own.copied().chain(self.named.iter().map(|group| group.0.as_str())).collect();
        value.problem(format!("there is no port and no group \"{name}\""), suggest::hint(name, &known));
        None
    }

    /// The pairs of ports that a link connects: each port of one end with each of the other (`between`), or all ports
    /// of a group with each other (`among`).
    pub(super) fn pairs(&self, table: &mut Table<'_>) -> Vec<[usize; 2]> {
        let Some(among) = table.value("among") else {
            let between =
                table.required("between", "[\"left\", \"right\"], or among = [\"a\", \"b\", \"c\"]");
            return between.and_then(|value| self.between(&value)).unwrap_or_default();
        };
        if let Some(between) = table.value("between") {
            between.problem("a link is between two ends or among a group, not both", "remove one of them");
            return Vec::new();
        }
        let members = self.ports(&among).unwrap_or_default();
        if members.len() == 1 {
            among.problem("a link needs two ports", "name at least two, or a group of them");
        }
        let with_others = |(number, &port): (usize, &usize)| {
            members[number + 1..].iter().map(move |&other| [port, other]).collect::<Vec<_>>()
        };
        members.iter().enumerate().flat_map(with_others).collect()
    }

    fn between(&self, value: &Value<'_>) -> Option<Vec<[usize; 2]>> {
        let items = value.items();
        let [left, right] = items.as_slice() else {
            value.problem(
                "a link is between two ports",
                "write between = [\"left\", \"right\"], or among for more",
            );
            return None;
        };
        let (lefts, rights) = (self.ports(left), self.ports(right));
        let (lefts, rights) = (lefts?, rights?);
        if let Some(&both) = lefts.iter().find(|port| rights.contains(port)) {
            let what = if lefts.len() == 1 && rights.len() == 1 {
                "both ends are the same port".to_owned()
            } else {
                format!("\"{}\" is at both ends", self.ports[both])
            };
            let single = lefts.len() == 1 && rights.len() == 1;
            value.problem(what, if single { "name two ports" } else { "name groups without a common port" });
            return None;
        }
        Some(lefts.iter().flat_map(|&left| rights.iter().map(move |&right| [left, right])).collect())
    }

    /// Reads `partition` of `root`: groups whose packets do not reach each other.
    pub(super) fn partition(&self, root: &mut Table<'_>, paths: &mut Vec<PathDraft>) {
        let Some(value) = root.value("partition") else { return };
        let mut trigger = Trigger::default();
        let sides = if value.is_table() {
            let Some(mut table) = value.table() else { return };
            let sides = table.required("groups", "[[\"a\", \"b\"], [\"c\"]]");
            (trigger.from, trigger.until) = (table.quantity("from"), table.quantity("until"));
            if let Some(until) = trigger.until.filter(|until| *until <= trigger.from.unwrap_or_default()) {
                let from = trigger.from.unwrap_or_default();
                table.problem(
                    format!("ends at {until}, before it begins at {from}"),
                    "until must be after from",
                );
            }
            table.finish();
            sides
        } else {
            Some(value)
        };
        let Some(sides) = sides else { return };
        let read: Vec<Vec<usize>> =
            sides.items().iter().map(|side| self.ports(side).unwrap_or_default()).collect();
        if read.len() < 2 {
            sides
                .problem("a partition has at least two sides", "write partition = [[\"a\", \"b\"], [\"c\"]]");
            return;
        }
        let mut seen = BTreeSet::new();
        for &port in read.iter().flatten() {
            if !seen.insert(port) {
                let what = format!("\"{}\" is on two sides", self.ports[port]);
                sides.problem(what, "each port is on one side, or on none and reaches all");
                return;
            }
        }
        for (number, side) in read.iter().enumerate() {
            let others =
                read.iter().enumerate().filter(|(other, _)| *other != number).flat_map(|(_, ports)| ports);
            for &to in others {
                for &from in side {
                    cut(paths, from, to, &trigger);
                }
            }
        }
    }
}

/// Puts a stage that drops everything in front of the path from `from` to `to`.
fn cut(paths: &mut Vec<PathDraft>, from: usize, to: usize, trigger: &Trigger) {
    let known = paths.iter().position(|path| (path.from, path.to) == (from, to));
    let known = known.unwrap_or_else(|| {
        paths.push(PathDraft::new(from, to, Vec::new()));
        paths.len() - 1
    });
    let path = &mut paths[known];
    let is_taken = |name: &str| path.names().any(|taken| taken == name);
    let mut name = "partition".to_owned();
    while is_taken(&name) {
        name.push_str("-of-hosts");
    }
    let impairment = ImpairmentParams::Drop(DropParams);
    let stage = StageParams { name, select: Select::default(), trigger: trigger.clone(), impairment };
    path.seats.insert(0, stage.into());
}

#[cfg(test)]
mod tests {
    use crate::config::parse;
    use crate::config::plan::Plan;

    fn plan(text: &str) -> Plan {
        parse(text, "x.toml").unwrap_or_else(|error| panic!("{error}"))
    }

    /// The paths as `a>b: stages`.
    fn paths(plan: &Plan) -> Vec<String> {
        let name = |port: usize| plan.ports[port].name.clone();
        let mut all: Vec<String> = plan
            .paths
            .iter()
            .map(|path| {
                let stages: Vec<&str> = path.names().collect();
                format!("{}>{}: {}", name(path.from), name(path.to), stages.join(" "))
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn nodes_are_ports_with_namespaces_and_addresses_of_their_own() {
        let plan = plan("nodes = [\"a\", \"b\"]\n[[port]]\nname = \"x\"\naddresses = \"10.0.0.2/24\"\n");
        assert_eq!(plan.ports.len(), 3);
        let b = plan.ports.iter().find(|port| port.name == "b").unwrap();
        let addresses: Vec<String> = b.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.77.2.2/24", "fd77:2::2/64"]);
        assert_eq!((b.router.len(), b.routes.len(), b.create), (2, 2, true));
        assert_eq!(format!("{:?}", b.netns), "Named(\"b\")");
    }

    #[test]
    fn a_link_is_between_all_of_a_group_or_all_of_two() {
        let plan = plan(
            "nodes = [\"a\", \"b\", \"c\", \"d\"]\ngroups = { west = [\"a\", \"b\"], east = [\"c\"] }\n\
             [[link]]\namong = \"west\"\nboth = \"delay 1ms\"\n\
             [[link]]\nbetween = [\"west\", [\"east\", \"d\"]]\nup = \"loss 1%\"\n",
        );
        assert_eq!(
            paths(&plan),
            [
                "a>b: netem",
                "a>c: netem",
                "a>d: netem",
                "b>a: netem",
                "b>c: netem",
                "b>d: netem",
                "c>a: ",
                "c>b: ",
                "d>a: ",
                "d>b: "
            ]
        );
    }

    #[test]
    fn a_partition_cuts_every_path_between_its_sides_and_no_other() {
        let text = "nodes = [\"a\", \"b\", \"c\", \"d\", \"e\"]\npartition = [[\"a\", \"b\"], [\"c\", \"d\", \"e\"]]\n\
                    [[link]]\namong = \"all\"\nboth = \"delay 1ms\"\n";
        let plan = plan(text);
        let (cut, whole): (Vec<String>, Vec<String>) =
            paths(&plan).into_iter().partition(|path| path.ends_with("partition netem"));
        assert_eq!((cut.len(), whole.len()), (2 * 2 * 3, 2 + 6));
        assert!(
            whole.iter().all(|path| ["a>b", "b>a"].contains(&&path[..3]) || !path[..3].contains(['a', 'b']))
        );
        let timed = "nodes = [\"a\", \"b\"]\npartition = { groups = [[\"a\"], [\"b\"]], from = \"1s\", until = \"2s\" }\n";
        assert_eq!(paths(&self::plan(timed)), ["a>b: partition", "b>a: partition"]);
        assert!(self::plan(timed).paths[0].stages().next().unwrap().trigger.until.is_some());
    }

    #[test]
    fn what_is_wrong_with_a_group_is_said_where_it_stands() {
        let nodes = "nodes = [\"a\", \"b\", \"c\"]\n";
        for (text, words) in [
            (
                "partition = [[\"a\"], [\"b\", \"x\"]]",
                "x.toml:2:27: partition[1][1]: there is no port \"x\" (did you mean \"a\"?)",
            ),
            (
                "partition = [[\"a\", \"b\"]]",
                "x.toml:2:13: partition: a partition has at least two sides (write",
            ),
            ("partition = [[\"a\", \"b\"], [\"b\"]]", "partition: \"b\" is on two sides (each port"),
            (
                "partition = { groups = [[\"a\"], [\"b\"]], until = \"0s\" }",
                "partition: ends at 0s, before it begins",
            ),
            ("[groups]\nwest = [\"a\", \"a\"]", "groups.west[1]: \"a\" is given twice (name each port once)"),
            ("[groups]\na = [\"b\"]", "groups.a: \"a\" cannot name a group (letters"),
            (
                "[groups]\nwest = [\"a\"]\n[[link]]\namong = [\"wets\", \"b\"]",
                "link[0].among[0]: there is no port and no group \"wets\" (did you mean \"west\"?)",
            ),
            ("[[link]]\namong = [\"a\"]", "link[0].among: a link needs two ports (name"),
            (
                "[[link]]\namong = [\"a\", \"b\"]\nbetween = [\"a\", \"b\"]",
                "link[0].between: a link is between two ends or",
            ),
            ("[[link]]\nbetween = [\"a\", \"all\"]", "link[0].between: \"a\" is at both ends (name groups"),
            (
                "[[link]]\nboth = \"loss 1%\"",
                "link[0].between: is missing (write between = [\"left\", \"right\"], or among",
            ),
            ("[[port]]\nname = \"a\"\naddresses = \"10.0.0.2/24\"", "\"a\" is the name of another port"),
            (
                "[[port]]\nname = \"x\"\naddresses = \"10.77.2.9/24\"",
                "nodes[1]: 10.77.2.2/24 overlaps 10.77.2.9/24 of port \"x\"",
            ),
        ] {
            let error = parse(&format!("{nodes}{text}\n"), "x.toml").unwrap_err().to_string();
            assert!(error.contains(words), "{text}\n{error}");
        }
        let error = parse("nodes = [\"a\", \"a\", \"?\"]", "x.toml").unwrap_err().to_string();
        assert!(error.contains("nodes[1]: \"a\" is the name of another port"), "{error}");
        assert!(error.contains("nodes[2]: \"?\" is not a name of letters"), "{error}");
    }
}
