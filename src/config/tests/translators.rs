//! Translators: where they stand, and what is refused.

use super::*;

/// Where translators stand in their paths: (from, to, names of the stages).
#[test]
fn translators_stand_nearest_to_the_outside_or_where_the_path_says() {
    let placed = |more: &str| -> Vec<(usize, usize, Vec<String>)> {
        let names = |path: &plan::PathPlan| path.names().map(str::to_owned).collect();
        plan(more).paths.iter().map(|path| (path.from, path.to, names(path))).collect()
    };
    let nat = "[[nat]]\noutside = \"right\"\n";
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
    assert_eq!(placed(nat), [(0, 1, names(&["nat"])), (1, 0, names(&["nat"]))]);
    let link = "[[link]]\nbetween = [\"left\", \"right\"]\nboth = \"loss 1%\"\n";
    let got = placed(&format!("{nat}{link}"));
    assert_eq!(got, [(0, 1, names(&["netem", "nat"])), (1, 0, names(&["nat", "netem"]))]);
    let path = "[[path]]\nfrom = \"left\"\nto = \"right\"\nstage = [{ type = \"nat\" }, { type = \"paws-per-host\" }]\n";
    assert_eq!(placed(&format!("{nat}{path}"))[0], (0, 1, names(&["nat", "paws-per-host"])));
    assert_eq!(plan(nat).workers, WorkerCount::Exactly(NonZeroUsize::MIN));
}

#[test]
fn translators_that_cannot_work_are_refused_with_the_cure() {
    let nat = |keys: &str| format!("[[nat]]\noutside = \"right\"\n{keys}\n");
    for (more, sentence) in [
        ("[[nat]]\ninside = \"left\"".to_owned(), "nat[0].outside: is missing (write outside = \"wan\")"),
        (
            nat("inside = [\"right\"]"),
            "nat[0].inside[0]: \"right\" is named before (each port is on one side, once)",
        ),
        (
            nat("addresses = [\"192.0.2.1\"]"),
            "nat[0].addresses[0]: 192.0.2.1 is on no port: hosts behind \"right\" are in 10.0.2.0/24, fd00:2::/64 (an address of these, or add a route of the port to it)",
        ),
        (
            nat("addresses = [\"10.0.2.2\"]"),
            "nat[0].addresses[0]: 10.0.2.2 is the host's own address on port \"right\" (an address that nobody has, or the router's own)",
        ),
        (
            nat("addresses = [\"10.0.2.9-10.0.2.8\"]"),
            "nat[0].addresses[0]: \"10.0.2.9-10.0.2.8\" is not an address or a range of at most 256 (try \"192.0.2.10 or 192.0.2.10-192.0.2.13\")",
        ),
        (nat("addresses = []"), "nat[0].addresses: 0 addresses (a pool has 1 to 256 addresses)"),
        (
            nat("addresses = [\"10.0.2.9\", \"10.0.2.9\"]"),
            "nat[0].addresses[1]: 10.0.2.9 is given twice (give each address once)",
        ),
        (nat("ports = \"0-10\""), "nat[0].ports: port 0 cannot be given out (try \"1024-65535\")"),
        (nat("ports = \"10-9\""), "nat[0].ports: 10-9 is empty (try \"9-10\")"),
        (
            nat(
                "[[path]]\nfrom = \"left\"\nto = \"right\"\n[[path.phase]]\nfor = \"1s\"\nstage = [{ type = \"nat\" }]",
            ),
            "path[0].phase[0].stage: a translator cannot be part of a phase (put the nat stage before the phases)",
        ),
        (nat("table_size = 0"), "nat[0].table_size: 0 is out of range (allowed: 1 to 4194304)"),
        (
            nat("[[nat.forward]]\nprotocol = \"tcp\"\nport = 80\nto = \"[fd00:1::2]:80\""),
            "nat[0].forward[0].to: fd00:1::2 is IPv6, and the translator's address is not (an address of the other family, or add an IPv6 one to addresses)",
        ),
        (
            nat("[[nat.forward]]\nprotocol = \"tcp\"\nport = 80\nto = \"10.0.1.2\""),
            "nat[0].forward[0].to: \"10.0.1.2\" is not an address with a port (try \"10.0.1.2:80 or [fd00:1::2]:80\")",
        ),
        (
            nat("[[nat.forward]]\nprotocol = \"tcp\"\nport = 80\nto = \"10.0.2.2:80\""),
            "nat[0]: the forwarding target 10.0.2.2 is behind \"right\", which is not inside (a host behind \"left\")",
        ),
        (
            nat("[[nat.forward]]\nprotocol = \"tcp\"\nport = 80\nto = \"192.0.2.1:80\""),
            "nat[0]: the forwarding target 192.0.2.1 is behind no port (a host behind \"left\")",
        ),
        (
            nat("type = \"prefix\"\ninside_prefix = \"10.0.0.0/8\"\noutside_prefix = \"fd09::/16\""),
            "nat[0].inside_prefix: 10.0.0.0/8 is IPv4 (IPv6 prefixes are translated; for IPv4 write addresses instead of type = \"prefix\")",
        ),
        (
            format!("{}{}", nat(""), nat("name = \"other\"\naddresses = [\"10.0.2.9\"]")),
            "nat[1]: another translator stands between \"left\" and \"right\" (leave one of them)",
        ),
        (
            "[[path]]\nfrom = \"left\"\nto = \"right\"\nstage = [{ type = \"nat\" }]\n".to_owned(),
            "the path from \"left\" to \"right\" has a stage of type nat, but no [[nat]] stands between them (write a [[nat]] with outside = \"right\" or \"left\")",
        ),
        (
            format!(
                "{}[[path]]\nfrom = \"left\"\nto = \"right\"\nstage = [{{ type = \"nat\" }}, {{ type = \"timestamps\", set = \"zero\" }}]",
                nat("")
            ),
            "nat[0]: stage \"timestamps\" needs both directions and is after the translator on the way out (put it before the stage of type nat)",
        ),
    ] {
        let said = said(&more);
        assert_eq!(
            said.iter().map(|line| line.trim_start_matches(": ")).collect::<Vec<_>>(),
            [sentence],
            "{more}"
        );
    }
    let workers = format!("workers = 2\n{PORTS}{}", nat(""));
    let error = parse(&workers, "x.toml").unwrap_err().to_string();
    assert!(error.contains("x.toml:1:11: workers: a router with [[nat]] has one worker"), "{error}");
}
