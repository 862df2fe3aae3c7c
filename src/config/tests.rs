//! Whole files: what a good one becomes, and what is said about a bad one.

mod limits;

use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::*;
use crate::config::plan::{NetnsRef, RouteTarget, WorkerCount};
use crate::pipeline::impair::TYPES;
use crate::pipeline::params::{
    BlackoutParams, CorruptArea, Excess, FragmentSelect, ImpairmentParams, NaptParams, NatKind, PatternFault,
    Phase, ReorderParams, Scope, Select,
};
use crate::pipeline::time::Duration;

const PORTS: &str = r#"
[[port]]
name = "left"
netns = "left"
create = true
addresses = ["10.0.1.2/24", "fd00:1::2/64"]
routes = ["default"]

[[port]]
name = "right"
netns = "right"
create = true
addresses = ["10.0.2.2/24", "fd00:2::2/64"]
routes = ["default"]
"#;

fn plan(more: &str) -> Plan {
    parse(&format!("{PORTS}{more}"), "x.toml").unwrap_or_else(|error| panic!("{error}"))
}

/// What is said about `more` behind two good ports, without the file's name and the line.
fn said(more: &str) -> Vec<String> {
    let error = parse(&format!("{PORTS}{more}"), "x.toml").unwrap_err();
    let sentence = |problem: &Problem| {
        let Problem { key, what, hint, .. } = problem;
        format!("{key}: {what} ({hint})")
    };
    error.problems.iter().map(sentence).collect()
}

/// The one sentence about a stage of these keys.
fn about(stage: &str) -> String {
    let all = said(&format!("[[path]]\nfrom = \"left\"\nto = \"right\"\n[[path.stage]]\n{stage}\n"));
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].strip_prefix("path[0].stage[0]").unwrap().to_owned()
}

fn stage(keys: &str) -> crate::pipeline::params::StageParams {
    let plan = plan(&format!("[[path]]\nfrom = \"left\"\nto = \"right\"\n[[path.stage]]\n{keys}\n"));
    plan.paths[0].stages[0].clone()
}

#[test]
fn two_ports_are_enough_and_the_rest_has_defaults() {
    let plan = plan("");
    assert_eq!((plan.seed, plan.workers, plan.flows, plan.duration), (None, WorkerCount::Auto, 65_536, None));
    let left = &plan.ports[0];
    assert_eq!(
        (left.device.as_str(), left.mtu, left.txqueuelen, left.offload),
        ("fw-left", 1_500, 1_000, true)
    );
    assert_eq!(left.netns, NetnsRef::Named("left".to_owned()));
    assert_eq!(left.router.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.1.1", "fd00:1::1"]);
    assert_eq!(left.routes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0.0.0.0/0", "::/0"]);
    assert!(plan.icmp.echo && plan.icmp.rate == 1_000);
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
}

#[test]
fn workers_follow_the_cores_that_are_listed() {
    let text = format!("seed = 7\npin = [1, 0]\nduration = \"10m\"\n{PORTS}");
    let plan = parse(&text, "x").unwrap();
    assert_eq!(plan.workers, WorkerCount::Exactly(NonZeroUsize::new(2).unwrap()));
    assert_eq!((plan.pin, plan.seed, plan.duration), (vec![1, 0], Some(7), Some(Duration::from_secs(600))));
    let error = parse(&format!("workers = 1\npin = [0, 1]\n{PORTS}"), "x").unwrap_err().to_string();
    assert_eq!(error, "x:2:7: pin: 2 cores for 1 workers (give as many cores as workers)");
}

#[test]
fn a_spec_comes_before_the_stages() {
    let plan = plan(
        "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"loss 1% mtu 1400\"\n\
         [[path.stage]]\ntype = \"loss\"\nprobability = \"1%\"\n\
         [[path.stage]]\ntype = \"loss\"\nprobability = \"2%\"\n",
    );
    let names: Vec<&str> = plan.paths[0].stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["mtu", "netem", "loss", "loss-2"]);
}

#[test]
fn a_link_is_two_paths() {
    let plan = plan(
        "[[link]]\nbetween = [\"left\", \"right\"]\nboth = \"delay 10ms\"\ndown = \"loss 1%\"\n\
         [[link.up]]\ntype = \"fragment-filter\"\n",
    );
    let [up, down] = plan.paths.as_slice() else { panic!("{:?}", plan.paths) };
    assert_eq!(((up.from, up.to), (down.from, down.to)), ((0, 1), (1, 0)));
    let names =
        |path: &plan::PathPlan| path.stages.iter().map(|stage| stage.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(up), ["netem", "fragment-filter"]);
    assert_eq!(names(down), ["netem", "netem-2"]);
}

#[test]
fn routes_lead_to_a_port_or_nowhere() {
    let plan = plan(
        "[[route]]\nprefix = \"10.9.0.0/16\"\nport = \"right\"\n\
         [[route]]\nprefix = \"fd09::/16\"\naction = \"blackhole\"\n",
    );
    let targets: Vec<RouteTarget> = plan.routes.iter().map(|route| route.target).collect();
    assert_eq!(targets, [RouteTarget::Port(1), RouteTarget::Blackhole]);
}

#[test]
fn a_match_reads_every_form() {
    let select = stage(
        r#"type = "fragment-filter"
        match = { protocol = ["tcp", 132], source = "10.0.0.0/8", destination = ["fd00::/8", "10.1.1.1"], port = 9,
                  source_port = ["1-5", 9], destination_port = "8000-", address = "10.1.0.0/16", tcp_flags = "syn,!ack", ip_length = "100-1500",
                  payload_length = "-0", fragment = "later", dscp = ["ef", 46, "af41", "cs1"], ecn = ["ect", "ce"] }"#,
    )
    .select;
    assert_eq!(select.protocols, [6, 132]);
    assert_eq!(select.source[0].to_string(), "10.0.0.0/8");
    assert_eq!(select.destination[1].to_string(), "10.1.1.1/32");
    assert_eq!(
        (select.ports.as_slice(), select.source_ports.as_slice()),
        (&[(9, 9)][..], &[(1, 5), (9, 9)][..])
    );
    assert_eq!(select.destination_ports, [(8_000, 65_535)]);
    assert_eq!(select.addresses[0].to_string(), "10.1.0.0/16");
    assert_eq!((select.tcp_flags_set, select.tcp_flags_unset), (2, 16));
    assert_eq!((select.ip_length, select.payload_length), (Some((100, 1_500)), Some((0, 0))));
    assert_eq!(select.fragment, Some(FragmentSelect::Later));
    assert_eq!((select.dscp, select.ecn), (vec![46, 46, 34, 8], vec![1, 2, 3]));
}

#[test]
fn what_stands_behind_an_exclamation_mark_is_not_meant() {
    let select = stage(
        r#"type = "drop"
        match = { protocol = "!udp", source = ["10.0.0.0/8", "!10.0.0.7"], destination = "!fd00::/8", address = "!10.9.9.9",
                  port = ["!22", "!8000-8100"], source_port = "!1-5", destination_port = ["! 443", "100-"], dscp = "!46",
                  ecn = "!ect" }"#,
    )
    .select;
    assert_eq!((select.source.len(), &select.destination_ports[..]), (1, &[(100, 65_535)][..]));
    let mut left =
        Select { source: select.source, destination_ports: select.destination_ports, ..Select::default() };
    let net = |text: &str| vec![text.parse().unwrap()];
    let none = Select::default;
    left.except = vec![
        Select { protocols: vec![17], ..none() },
        Select { source: net("10.0.0.7/32"), ..none() },
        Select { destination: net("fd00::/8"), ..none() },
        Select { addresses: net("10.9.9.9/32"), ..none() },
        Select { source_ports: vec![(1, 5)], ..none() },
        Select { destination_ports: vec![(443, 443)], ..none() },
        Select { ports: vec![(22, 22), (8_000, 8_100)], ..none() },
        Select { dscp: vec![46], ..none() },
        Select { ecn: vec![1, 2], ..none() },
    ];
    assert_eq!(select.except, left.except);
    let numbers = stage("type = \"drop\"\nmatch = { protocol = [\"!6\", \"!icmp\"] }").select;
    assert_eq!(numbers.except, [Select { protocols: vec![6, 1], ..none() }]);
}

/// A match is a table or an expression, the same for packets.
#[test]
fn a_match_may_be_an_expression() {
    let of = |text: &str| stage(&format!("type = \"drop\"\nmatch = \"{text}\"")).select;
    assert_eq!(of("tcp port 6379"), expression::parse("tcp port 6379").unwrap());
    let said = about("type = \"drop\"\nmatch = \"tcp prt 80\"");
    assert!(said.starts_with(".match: \"prt\" is not a condition"), "{said}");
}

#[test]
fn conditions_and_triggers_that_contradict_each_other_are_refused() {
    let clash = "these conditions contradict each other: no packet meets all of them (remove one of them)";
    for (keys, what) in [
        ("match = { protocol = [\"tcp\", \"!tcp\"] }", clash),
        ("match = { port = [\"80\", \"!70-90\"] }", clash),
        ("match = { source = \"10.0.0.0/8\", destination = \"fd00::1\" }", clash),
        ("match = { source = [\"10.0.0.0/8\", \"!10.0.0.0/7\"] }", clash),
        ("match = { port = 1, source_port = 2, destination_port = 3 }", clash),
        ("match = { tcp_flags = \"syn\", protocol = \"!tcp\" }", clash),
        ("match = { quic = \"initial\", protocol = \"!udp\" }", clash),
        ("match = { dscp = [\"ef\", \"!46\"] }", clash),
        ("match = { protocol = \"igmp\", port = 5 }", "this protocol has no ports: no packet matches"),
        ("match = \"tcp udp\"", "\"udp\" contradicts the conditions before it, so no packet matches"),
        ("trigger = { first = 5, after = 5 }", "nothing is left of the first 5 packets after 5"),
        ("trigger = { nth = [2, 3], first = 1 }", "none of these numbers is among the first 1"),
        ("trigger = { nth = 2, after = 2 }", "none of these numbers comes after the first 2"),
        ("trigger = { every = 10, first = 9 }", "the first packet that is due is number 10"),
        ("trigger = { nth = 3, every = 2 }", "none of these numbers is a multiple of 2"),
        ("trigger = { first_bytes = \"0 B\" }", "0 bytes are no condition"),
        (
            "trigger = { first_bytes = \"1 kB\", probability = \"1%\", scope = \"path\" }",
            "with scope = \"path\" a trigger counts either packets or bytes",
        ),
        (
            "trigger = { first_bytes = \"1 kB\", after_bytes = \"1 kB\" }",
            "nothing is left of the first 1000 B after 1000 B",
        ),
    ] {
        let said = about(&format!("type = \"drop\"\n{keys}"));
        assert!(said.contains(what), "{keys}: {said}");
    }
    // Ports of UDP-Lite are known.
    stage("type = \"drop\"\nmatch = { protocol = \"udplite\", port = 5 }");
}

#[test]
fn a_trigger_reads_every_key_and_makes_the_probability_certain() {
    let stage = stage(
        r#"type = "loss"
        trigger = { probability = "50%", nth = [30, 20, 30], every = 10, first = 50, after = 10, times = 1, from = "1s",
                    until = "2s", scope = "path" }"#,
    );
    let trigger = stage.trigger;
    assert_eq!((trigger.nth, trigger.every, trigger.first), (vec![20, 30], Some(10), Some(50)));
    assert_eq!((trigger.after, trigger.times, trigger.scope), (Some(10), Some(1), Scope::Path));
    assert_eq!((trigger.from, trigger.until), (Some(Duration::from_secs(1)), Some(Duration::from_secs(2))));
    let ImpairmentParams::Loss(loss) = stage.impairment else { panic!("{:?}", stage.impairment) };
    assert_eq!(loss.probability.to_string(), "100%");
}

#[test]
fn each_type_reads_its_keys() {
    let ImpairmentParams::Rate(rate) =
        stage("type = \"rate\"\nrate = \"1 Mbit/s\"\noverhead = -4").impairment
    else {
        panic!("no rate")
    };
    assert_eq!(rate.excess, Excess::Queue { packets: Some(1_000), bytes: None, time: None });
    assert_eq!(rate.overhead, -4);
    let policed = stage("type = \"rate\"\nrate = \"1 Mbit/s\"\npolice = { burst = \"15 kB\" }").impairment;
    assert!(
        matches!(policed, ImpairmentParams::Rate(rate) if rate.excess == Excess::Police { burst: 15_000 })
    );
    let corrupt = stage("type = \"corrupt\"\nprobability = \"1%\"\nbits = 3\narea = \"payload\"").impairment;
    assert!(
        matches!(corrupt, ImpairmentParams::Corrupt(corrupt) if (corrupt.bits, corrupt.area) == (3, CorruptArea::Payload))
    );
    let displaced = stage("type = \"reorder\"\nkind = \"displace\"\nprobability = \"1%\"\nby = 3").impairment;
    let timeout = Duration::from_millis(100);
    assert_eq!(
        displaced,
        ImpairmentParams::Reorder(ReorderParams::Displace {
            probability: "1%".parse().unwrap(),
            by: 3,
            timeout
        })
    );
    assert_eq!(
        stage("type = \"blackout\"\nstart = \"1s\"\ndown = \"2s\"\nup = \"3s\"").impairment,
        ImpairmentParams::Blackout(BlackoutParams {
            start: Duration::from_secs(1),
            down: Duration::from_secs(2),
            up: Some(Duration::from_secs(3)),
            hold: false,
        })
    );
    assert!(matches!(stage("type = \"netem\"\nspec = \"delay 1ms\"").impairment, ImpairmentParams::Netem(_)));
}

#[test]
fn every_problem_of_a_file_is_told_with_its_line() {
    let text = r#"sed = 7
duration = 10

[[port]]
name = "left"
netns = "left"
create = true
addresses = ["10.0.1.2"]
mtu = 20

[[port]]
nam = "right"

[[path]]
from = "left"
to = "rihgt"
spec = "delay 10ms los 1%"

[[path.stage]]
type = "rate"
rate = "10mb"
queu = 5
"#;
    let error = parse(text, "configs/x.toml").unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"configs/x.toml:1:1: sed: is not a known key (did you mean "seed"?)
configs/x.toml:2:12: duration: "10" has no unit (try "10ms")
configs/x.toml:8:14: port[0].addresses[0]: "10.0.1.2" is not an address with its prefix length (try "10.0.1.2/24")
configs/x.toml:9:7: port[0].mtu: 20 is out of range (allowed: 68 to 65535)
configs/x.toml:11:1: port[1].name: is missing (write name = "left")
configs/x.toml:12:1: port[1].nam: is not a known key (did you mean "name"?)
configs/x.toml:16:6: path[0].to: there is no port "rihgt" (allowed: left)
configs/x.toml:17:20: path[0].spec: "los" is not a known word (did you mean "loss"?)
configs/x.toml:21:8: path[0].stage[0].rate: "10mb" has no known unit (try "10mbit")
configs/x.toml:22:1: path[0].stage[0].queu: is not a known key (did you mean "queue"?)"#
    );
}

#[test]
fn a_broken_document_is_told_as_such() {
    let error = parse("[[port]\nname = \n", "x.toml").unwrap_err();
    assert!(error.problems.iter().all(|problem| problem.hint == "not valid TOML"), "{error}");
    assert_eq!(error.problems[0].place.unwrap().line, 1);
    let nothing = parse("", "x.toml").unwrap_err().to_string();
    assert_eq!(
        nothing,
        "x.toml:1:1: there is no port (write a [[port]] for each host, or nodes = [\"a\", \"b\"])"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_its_name() {
    let error = load(Path::new("/nonexistent/x.toml")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/x.toml: cannot be read: "), "{error}");
}

#[test]
fn ports_must_not_clash() {
    for (more, sentence) in [
        (
            "[[port]]\nname = \"left\"\ndevice = \"x\"",
            "port[2].name: \"left\" is the name of another port (names must be unique)",
        ),
        (
            "[[port]]\nname = \"a\"\ndevice = \"fw-left\"",
            "port[2].device: another port has the device name \"fw-left\" (names must be unique)",
        ),
        (
            "[[port]]\nname = \"a-long-name-it-is\"",
            "port[2]: the device name \"fw-a-long-name-it-is\" has 20 bytes, Linux takes 15 (set a shorter one with device = \"...\")",
        ),
        (
            "[[port]]\nname = \"a\"\naddresses = [\"10.0.2.9/24\"]",
            "port[2].addresses[0]: 10.0.2.9/24 overlaps 10.0.2.2/24 of port \"right\" (each port needs prefixes of its own: use another one, such as 10.0.9.2/24, or shorter parts of this one, such as 10.0.1.2/30 and 10.0.1.6/30)",
        ),
        (
            "[[port]]\nname = \"a/b\"",
            "port[2].name: \"a/b\" is not a name of letters, digits, - _ . (try \"left\")",
        ),
        (
            "[[port]]\nname = \"a\"\nnetns = \"../x\"",
            "port[2].netns: \"../x\" is not the name of a namespace or an absolute path (try \"left\")",
        ),
        (
            "[[port]]\nname = \"a\"\ncreate = true",
            "port[2].create: only a namespace with a name can be created (set netns = \"left\")",
        ),
        (
            "[[port]]\nname = \"a\"\nroutes = [\"default\"]",
            "port[2].routes[0]: a port without addresses can have no default route (set addresses)",
        ),
        (
            "[[port]]\nname = \"a\"\naddresses = \"10.3.0.2/24\"\nroutes = [\"fd00::/8\"]",
            "port[2].routes[0]: the port has no address of the same family as fd00::/8 (add one to addresses)",
        ),
        (
            "[[port]]\nname = \"a\"\naddresses = \"10.3.0.0/24\"",
            "port[2].addresses: 10.3.0.0 is the first or last address of its prefix (use one between them)",
        ),
        (
            "[[port]]\nname = \"a\"\naddresses = \"127.0.0.1/8\"",
            "port[2].addresses: 127.0.0.1 cannot be routed (use a unicast address, such as 10.0.1.2/24)",
        ),
        (
            "[[port]]\nname = \"a\"\naddresses = \"10.3.0.1/32\"",
            "port[2]: 10.3.0.1/32 has no address left for the router (use a shorter prefix)",
        ),
        (
            "[[port]]\nname = \"a\"\naddresses = \"10.3.0.2/24\"\nrouter = \"10.4.0.1\"",
            "port[2].router: 10.4.0.1 is in no prefix of this port (the host could not reach it)",
        ),
        (
            "[[port]]\nname = \"a\"\naddresses = \"10.3.0.2/24\"\nrouter = \"10.3.0.2\"",
            "port[2].router: 10.3.0.2 is the host's own address (the router needs another one)",
        ),
        (
            "[[port]]\nname = \"a\"\naddresses = \"fd03::2/64\"\nmtu = 1000",
            "port[2].mtu: 1000 is too small for IPv6 (at least 1280; for a smaller hop use an mtu stage)",
        ),
    ] {
        assert_eq!(said(more), [sentence], "{more}");
    }
}

#[test]
fn routes_and_paths_must_make_sense() {
    for (more, sentence) in [
        (
            "[[route]]\nprefix = \"10.9.0.1/16\"\nport = \"right\"",
            "route[0].prefix: 10.9.0.1/16 has bits beyond its length (try \"10.9.0.0/16\")",
        ),
        (
            "[[route]]\nprefix = \"10.9.0.0/16\"",
            "route[0]: a route needs a port or an action (write port = \"right\" or action = \"unreachable\")",
        ),
        (
            "[[route]]\nprefix = \"10.9.0.0/16\"\nport = \"left\"\naction = \"blackhole\"",
            "route[0].action: a route has a port or an action, not both (remove one of them)",
        ),
        (
            "[[route]]\nprefix = \"10.9.0.0/16\"\naction = \"blakchole\"",
            "route[0].action: \"blakchole\" is not known (did you mean \"blackhole\"?)",
        ),
        (
            "[[route]]\nprefix = \"10.9.0.0/16\"\nport = \"left\"\n[[route]]\nprefix = \"10.9.0.0/16\"\nport = \"right\"",
            "route[1].prefix: 10.9.0.0/16 already has a route (give each prefix one route)",
        ),
        (
            "[[path]]\nfrom = \"left\"\nto = \"right\"\n[[link]]\nbetween = [\"right\", \"left\"]",
            "link[0]: there is already a path from \"left\" to \"right\" (put its stages there)",
        ),
        (
            "[[link]]\nbetween = [\"left\"]",
            "link[0].between: a link is between two ports (write between = [\"left\", \"right\"], or among for more)",
        ),
        (
            "[[link]]\nbetween = [\"left\", \"left\"]",
            "link[0].between: both ends are the same port (name two ports)",
        ),
        (
            "[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"seed 7\"",
            "path[0].spec: \"seed\" belongs to the whole run (write seed = 7 at the top of the file)",
        ),
        ("[icmp]\necho = 1", "icmp.echo: is a whole number (it should be true or false)"),
        (
            "[[link]]\nbetween = [\"left\", \"right\"]\nboth = \"los 1%\"",
            "link[0].both: \"los\" is not a known word (did you mean \"loss\"?)",
        ),
    ] {
        assert_eq!(said(more), [sentence], "{more}");
    }
}

#[test]
fn stages_must_make_sense() {
    for (keys, sentence) in [
        ("type = \"los\"", ".type: \"los\" is not known (did you mean \"loss\"?)"),
        ("probability = \"1%\"", ".type: is missing (write type = \"loss\")"),
        ("type = \"loss\"", ".probability: is missing (write probability = \"1%\")"),
        (
            "type = \"loss\"\nprobability = \"101%\"",
            ".probability: \"101%\" is more than 100% (a probability is \"0%\" to \"100%\")",
        ),
        (
            "type = \"loss\"\nprobability = 0.01",
            ".probability: \"0.01\" has no % (\"1%\" if that is a fraction, \"0.01%\" if it is a percentage)",
        ),
        (
            "type = \"loss\"\nprobability = \"1%\"\ndelay = \"1ms\"",
            ".delay: is not a known key (allowed: ecn, indices, list, match, model, name, pattern, probability, repeat, scope, trigger, type)",
        ),
        (
            "type = \"delay\"\ndelay = \"1ms\"\ndistribution = \"normal\"",
            ".distribution: distribution has no effect without jitter (write jitter = \"1ms\")",
        ),
        (
            "type = \"rate\"\nrate = \"1mbit\"\nqueue = {}",
            ".queue: no limit of the queue is set (write queue = { packets = 100 }, bytes or time)",
        ),
        (
            "type = \"rate\"\nrate = \"1mbit\"\nqueue = { packets = 1 }\npolice = { burst = \"2kB\" }",
            ".police: a rate has a queue or polices, not both (remove queue or police)",
        ),
        (
            "type = \"rate\"\nrate = \"1mbit\"\npolice = { burst = \"10 B\" }",
            ".police.burst: 10 B is less than a packet (at least the largest packet)",
        ),
        (
            "type = \"mtu\"\nmtu = 100\noverhead = 50",
            ".overhead: leaves 50 bytes of an MTU of 100 (at least 68 must be left)",
        ),
        (
            "type = \"mtu\"\nmtu = 100\noverhead = 200",
            ".overhead: leaves -100 bytes of an MTU of 100 (at least 68 must be left)",
        ),
        ("type = \"mtu\"\nmtu = \"1400\"", ".mtu: is a text (it should be a whole number)"),
        ("type = \"corrupt\"\nprobability = \"1%\"\nbits = 0", ".bits: 0 is out of range (allowed: 1 to 64)"),
        ("type = \"reorder\"\nprobability = \"1%\"", ".kind: is missing (write kind = \"displace\")"),
        (
            "type = \"reorder\"\nkind = \"overtake\"\nprobability = \"1%\"\ndelay = \"1ms\"\ngap = 0",
            ".gap: 0 is out of range (allowed: 1 to 4294967295)",
        ),
        ("type = \"blackout\"\ndown = \"0s\"", ".down: is too short (more than 0s)"),
        (
            "type = \"netem\"\nspec = \"mtu 1400\"",
            ".spec: a netem stage takes tc-netem's words only (make mtu, overhead and mss stages of their own)",
        ),
        ("type = \"netem\"\nspec = \" \"", ".spec: asks for nothing (try \"delay 10ms loss 1%\")"),
        (
            "type = \"fragment-filter\"\ntrigger = { from = \"2s\", until = \"1s\" }",
            ".trigger: ends at 1s, before it begins at 2s (until must be after from)",
        ),
        (
            "type = \"fragment-filter\"\ntrigger = { nth = 0 }",
            ".trigger.nth: 0 is out of range (allowed: 1 to 18446744073709551615)",
        ),
        (
            "type = \"fragment-filter\"\nmatch = { protocol = \"udp\", tcp_flags = \"syn\" }",
            ".match: only TCP has flags: no packet matches (set protocol = \"tcp\" or remove tcp_flags)",
        ),
        (
            "type = \"fragment-filter\"\nmatch = { protocol = \"icmp\", port = 1 }",
            ".match: this protocol has no ports: no packet matches (remove the ports or the protocol)",
        ),
        (
            "type = \"fragment-filter\"\nmatch = { tcp_flags = \"syc\" }",
            ".match.tcp_flags: \"syc\" is not a TCP flag (did you mean \"syn\"?)",
        ),
        (
            "type = \"fragment-filter\"\nmatch = { port = \"90-80\" }",
            ".match.port: 90-80 is empty (try \"80-90\")",
        ),
        (
            "type = \"fragment-filter\"\nmatch = { port = \"http\" }",
            ".match.port: \"http\" is not a number or range up to 65535 (try \"100-1500\")",
        ),
        (
            "type = \"fragment-filter\"\nmatch = { dscp = \"af14\" }",
            ".match.dscp: \"af14\" is not a DSCP (0 to 63, ef, cs0 to cs7, af11 to af43) (try \"ef\")",
        ),
        (
            "type = \"fragment-filter\"\nname = \"a b\"",
            ".name: \"a b\" is not a name of letters, digits, - _ . (try \"uplink-loss\")",
        ),
    ] {
        assert_eq!(about(keys), sentence, "{keys}");
    }
}

#[test]
fn a_peak_is_of_a_burst() {
    let rate = "type = \"rate\"\nrate = \"10 Mbit/s\"\n";
    for (keys, sentence) in [
        (
            "peakrate = \"20 Mbit/s\"",
            ".peakrate: peakrate has no effect without burst (write burst = \"30 kB\" as well)",
        ),
        (
            "burst = \"30 kB\"\nmtu = 1500",
            ".mtu: mtu has no effect without peakrate (write peakrate = \"20 Mbit/s\" as well)",
        ),
        (
            "burst = \"30 kB\"\npeakrate = \"10 Mbit/s\"",
            ".peakrate: 10 Mbit/s is not above the rate of 10 Mbit/s (peakrate is the rate of the burst)",
        ),
        (
            "burst = \"30 kB\"\npeakrate = \"11 Mbit/s\"\nmtu = 10",
            ".mtu: 10 is out of range (allowed: 68 to 65535)",
        ),
    ] {
        assert_eq!(about(&format!("{rate}{keys}")), sentence, "{keys}");
    }
}

#[test]
fn a_list_of_packets_must_make_sense() {
    for (keys, sentence) in [
        (
            "type = \"loss\"\nindices = [1, \"5-9\", 9]",
            ".indices[2]: 9 is not above 9, which stands before it (a number or a range from 1 on, each above the one \
             before it: 7, 12-20, 1000-)",
        ),
        (
            "type = \"loss\"\nindices = [1]\nprobability = \"1%\"",
            ".probability: a packet of indices is lost for certain (remove probability, or thin the list with trigger = { \
             probability = \"50%\" })",
        ),
        (
            "type = \"loss\"\nprobability = \"1%\"\nscope = \"path\"",
            ".scope: scope has no effect without a list or a pattern (remove scope, or write list = \"FILE\", indices = [1, \"5-9\"] or \
             pattern = [\"1%\", \"50%\"])",
        ),
        (
            "type = \"loss\"\nindices = [1]\nlist = \"x\"",
            ".indices: list and indices exclude each other (keep one of them)",
        ),
    ] {
        assert_eq!(about(keys), sentence, "{keys}");
    }
}

#[test]
fn patterns_and_models_must_make_sense() {
    let file = std::env::temp_dir().join(format!("fw-model-{}.json", std::process::id()));
    std::fs::write(&file, r#"{"StaticLossConfig":{"loss":[0.25]}}"#).unwrap();
    let model = format!("model = {:?}", file.display().to_string());
    for (keys, sentence) in [
        ("type = \"loss\"\npattern = []", ".pattern: has no probability"),
        ("type = \"loss\"\npattern = [\"1%\", 2]", ".pattern[1]: \"2\" has no %"),
        (
            "type = \"loss\"\npattern = [\"1%\"]\nprobability = \"1%\"",
            ".probability: the pattern says how likely",
        ),
        (
            "type = \"duplicate\"\npattern = [\"1%\"]\ncopies = 2",
            ".copies: the pattern says how likely and how often",
        ),
        (
            "type = \"loss\"\npattern = [\"1%\"]\nmodel = \"x\"",
            ".model: pattern and model exclude each other",
        ),
        (
            "type = \"loss\"\nprobability = \"1%\"\nrepeat = true",
            ".repeat: repeat has no effect without a model",
        ),
        (
            "type = \"delay\"\ndelay = \"1ms\"\nmodel = \"configs/traces/delay.json\"",
            ".delay: the model says how long",
        ),
        ("type = \"delay\"\nmodel = \"none.json\"", ".model: none.json cannot be read"),
        (&format!("type = \"delay\"\n{model}"), "has a model of loss, not of delay"),
        (&format!("type = \"duplicate\"\n{model}"), "has a model of loss, not of copies"),
    ] {
        let told = about(keys);
        assert!(told.contains(sentence), "{keys}: {told}");
    }
    let ImpairmentParams::Pattern(pattern) =
        stage(&format!("type = \"loss\"\n{model}\necn = true")).impairment
    else {
        panic!("no pattern")
    };
    assert_eq!(pattern.fault, PatternFault::Loss { ecn: true });
    assert_eq!(pattern.patterns.values().collect::<Vec<_>>(), [&vec!["25%".parse().unwrap()]]);
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_list_of_packets_is_read_with_its_file_and_line() {
    let file = std::env::temp_dir().join(format!("fw-list-{}", std::process::id()));
    let keys = format!("type = \"loss\"\nlist = {:?}\nscope = \"path\"", file.display().to_string());
    // A file as a generator would write it: 5,000 numbers.
    let lines: Vec<String> = (1..=5_000).map(|number| (number * 7).to_string()).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let ImpairmentParams::ListedLoss(loss) = stage(&keys).impairment else { panic!("no list") };
    assert_eq!((loss.list.count(), loss.list.bounds()), (5_000, Some((7, 35_000))));
    assert_eq!((loss.scope, loss.ecn), (Scope::Path, false));
    std::fs::write(&file, "1\n2\n\n2\n").unwrap();
    let told = about(&keys);
    assert!(told.contains(&format!("{}:4: 2 is not above 2", file.display())), "{told}");
    std::fs::remove_file(&file).unwrap();
    assert!(about(&keys).contains("cannot be read"));
}

#[test]
fn a_name_is_given_to_one_stage_of_a_path() {
    let all = said(
        "[[path]]\nfrom = \"left\"\nto = \"right\"\n\
         [[path.stage]]\ntype = \"fragment-filter\"\nname = \"x\"\n[[path.stage]]\ntype = \"fragment-filter\"\nname = \"x\"",
    );
    assert_eq!(
        all,
        ["path[0].stage[1].name: \"x\" is the name of another stage of the path (names must be unique)"]
    );
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    for (spec, part) in [
        (
            "delay 100ms rate 1gbit limit 1000",
            "stage netem: limit 1000 counts the packets on the line too: over 100.000 ms it lets through 120.000 Mbit/s",
        ),
        ("delay 100ms limit 100", "it lets through at most 12.000 Mbit/s"),
        ("mtu 1400", "stage mtu: packets above 1400 bytes vanish"),
        ("mtu 1000 icmp", "stage mtu: 1000 bytes are less than IPv6 can work with (1280)"),
    ] {
        let plan = plan(&format!("[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"{spec}\"\n"));
        assert_eq!(plan.warnings.len(), 1, "{spec}");
        assert!(plan.warnings[0].contains(part), "{:?}", plan.warnings);
        assert!(plan.warnings[0].starts_with("path left -> right, stage "), "{:?}", plan.warnings);
    }
    assert_eq!(
        plan("[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"delay 10ms rate 1gbit\"\n").warnings,
        [""; 0]
    );
}

#[test]
fn stages_read_alike_in_a_document_of_another_shape() {
    let text = "fault = \"delay 10ms\"\n[[stage]]\ntype = \"loss\"\nprobability = \"1%\"\nx = 1\n";
    let error = reader::document(text, "case.toml", |root| {
        let values: Vec<_> = [root.value("fault"), root.value("stage")].into_iter().flatten().collect();
        Some(read_stages(&values))
    })
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "case.toml:5:1: stage[0].x: is not a known key (allowed: ecn, indices, list, match, model, name, pattern, probability, repeat, scope, trigger, type)"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse(&text, "x").map_err(|error| error.to_string());
    }

    /// Known keys with values of every kind, right and wrong, in every type of stage.
    #[test]
    fn no_stage_panics(
        kind in prop::sample::select(TYPES),
        stage in prop::collection::btree_map(prop::sample::select(KEYS), prop::sample::select(VALUES), 0..20),
        port in prop::collection::btree_map(prop::sample::select(KEYS), prop::sample::select(VALUES), 0..3),
    ) {
        let (stage, port) = (lines(&stage), lines(&port));
        let path = "[[path]]\nfrom = \"left\"\nto = \"right\"\n";
        let text = format!("{PORTS}{path}[[path.stage]]\ntype = \"{kind}\"\n{stage}[[port]]\n{port}");
        match parse(&text, "x") {
            Ok(plan) => plan.paths[0].stages.iter().for_each(|stage| assert!(!describe(stage).to_string().is_empty())),
            Err(error) => assert!(error.problems.iter().all(|problem| !problem.what.is_empty())),
        }
    }

    /// Real files with parts cut out or replaced get further than noise does.
    #[test]
    fn no_damaged_file_panics(from in 0usize..400, length in 0usize..40, insert in "\\PC{0,8}") {
        let text = format!("{PORTS}[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"delay 1ms\"\n");
        let cut: String = text.chars().take(from).chain(insert.chars()).chain(text.chars().skip(from + length)).collect();
        let _ = parse(&cut, "x").map_err(|error| error.to_string());
    }
}

fn lines(keys: &std::collections::BTreeMap<&str, &str>) -> String {
    keys.iter().map(|(key, value)| [key, " = ", value, "\n"].concat()).collect()
}

const KEYS: &[&str] = &[
    "probability",
    "ecn",
    "delay",
    "jitter",
    "distribution",
    "reorder",
    "rate",
    "overhead",
    "queue",
    "police",
    "mtu",
    "action",
    "mss",
    "set",
    "copies",
    "bits",
    "area",
    "fix_checksum",
    "kind",
    "by",
    "timeout",
    "gap",
    "start",
    "down",
    "up",
    "spec",
    "match",
    "trigger",
    "name",
    "device",
    "netns",
    "create",
    "addresses",
    "router",
    "routes",
    "txqueuelen",
];

const VALUES: &[&str] = &[
    "0",
    "1",
    "68",
    "100",
    "65535",
    "-1",
    "9223372036854775807",
    "1.5",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"1%\"",
    "\"100%\"",
    "\"1ms\"",
    "\"0s\"",
    "\"999999h\"",
    "\"1mbit\"",
    "\"1 B\"",
    "\"64 KiB\"",
    "\"normal\"",
    "\"icmp\"",
    "\"payload\"",
    "\"overtake\"",
    "\"displace\"",
    "\"mtu 68 overhead 65535\"",
    "\"delay 1ms gap\"",
    "\"10.0.9.2/24\"",
    "\"fd09::2/128\"",
    "[\"default\", \"0.0.0.0/0\"]",
    "{ packets = 1 }",
    "{ bytes = \"1 B\" }",
    "{ burst = \"1 kB\" }",
    "1979-05-27",
    "{ nth = [1, 2], until = \"1s\" }",
    "{ port = \"9-1\", tcp_flags = \"syn,!syn\" }",
    "{ protocol = \"udp\", port = 1 }",
];

fn config_file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name)
}

/// Every file in `configs/` that is a configuration for `run`.
fn config_files() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(config_file("")).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.filter(|path| Kind::of(&read(path).unwrap()) == Some(Kind::Config)).collect()
}

#[test]
fn every_example_is_a_network_that_needs_nothing_but_itself() {
    let files = config_files();
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let plan = load(&file).unwrap_or_else(|error| panic!("{error}"));
        assert!(
            plan.ports.iter().all(|port| port.create && !port.addresses.is_empty()),
            "{}",
            file.display()
        );
        // A silent MTU black hole is what some examples are for.
        let meant = |warning: &String| warning.contains("black hole");
        assert!(
            plan.warnings.iter().all(meant) || file.ends_with("reference.toml"),
            "{}: {:?}",
            file.display(),
            plan.warnings
        );
    }
}

#[test]
fn the_reference_shows_every_key_and_type() {
    let text = read(&config_file("reference.toml")).unwrap();
    let problems = problem::Problems::new(config_file("reference.toml").display().to_string(), &text);
    let plan = reader::read_into(&text, &problems, |root| Some(file::read_plan(root))).unwrap();
    let present = present_keys(&text);
    // The stages of a phase are as those of a path.
    let shown =
        |key: &str| present.contains(key) || present.contains(&key.replace("path.phase.stage", "path.stage"));
    // A port with `attach` is of another shape; the reference shows it in a comment.
    let other = |key: &str| key == "port.attach" && text.contains("# attach = {");
    let missing = |key: &&String| !shown(key) && !other(key);
    let missing: Vec<String> = problems.asked.borrow().iter().filter(missing).cloned().collect();
    assert_eq!(missing, [""; 0]);
    assert!(!plan.paths[0].stages.is_empty());
    // If the reference lacked a type, its keys would not be tested above.
    for kind in TYPES {
        let block = format!("[[path.stage]]\ntype = \"{kind}\"");
        assert!(text.contains(&block), "configs/reference.toml has no block of the type {kind}");
    }
}

/// The keys of a document with their tables, without indices.
fn present_keys(text: &str) -> std::collections::BTreeSet<String> {
    fn walk(path: &str, value: &toml::Value, keys: &mut std::collections::BTreeSet<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, value, keys);
                    keys.insert(path);
                }
            }
            toml::Value::Array(items) => items.iter().for_each(|item| walk(path, item, keys)),
            _ => {}
        }
    }
    let mut keys = std::collections::BTreeSet::new();
    walk("", &toml::Value::Table(text.parse().unwrap()), &mut keys);
    keys
}

/// The defaults that the reference states are those of the code: a port and a stage without these keys are equal.
#[test]
fn the_reference_states_the_defaults() {
    let reference = load(&config_file("reference.toml")).unwrap();
    let bare = plan("");
    assert_eq!(reference.ports[..2], bare.ports[..]);
    assert_eq!((reference.icmp, reference.flows), (bare.icmp, bare.flows));
    let of = |keys: &str| stage(keys).impairment;
    let shown = |number: usize| reference.paths[0].stages[number].impairment.clone();
    // Behind the three stages of the spec: loss, delay, two rates, a trace, steps, two more rates, mtu, mss, duplicate, corrupt, two reorders.
    assert_eq!(shown(3), of("type = \"loss\"\nprobability = \"1%\""));
    let pie = "type = \"rate\"\nrate = \"10 Mbit/s\"\nburst = \"30 kB\"\npeakrate = \"20 Mbit/s\"\nqueue = { packets = 300, discipline = \"pie\" }";
    assert_eq!(shown(9), of(pie));
    let red = "type = \"rate\"\nrate = \"10 Mbit/s\"\nqueue = { packets = 300, discipline = \"red\", min = 5, max = 15 }";
    assert_eq!(shown(10), of(red));
    assert_eq!(shown(12), of("type = \"mss\"\nmss = 1360"));
    assert_eq!(shown(13), of("type = \"duplicate\"\nprobability = \"0.1%\""));
    assert_eq!(shown(14), of("type = \"corrupt\"\nprobability = \"0.1%\""));
    assert_eq!(shown(15), of("type = \"reorder\"\nkind = \"displace\"\nprobability = \"1%\"\nby = 3"));
    assert_eq!(
        shown(16),
        of("type = \"reorder\"\nkind = \"overtake\"\nprobability = \"25%\"\ndelay = \"10ms\"")
    );
}

/// The same for translators.
#[test]
fn the_reference_states_the_defaults_of_translators() {
    let reference = load(&config_file("reference.toml")).unwrap();
    let bare = plan("[[nat]]\noutside = \"right\"\ninside = \"left\"\n");
    let [shown, bare] = [&reference.nats[0].kind, &bare.nats[0].kind].map(|kind| match kind {
        NatKind::Napt(napt) => (**napt).clone(),
        NatKind::Prefix(_) => panic!("the first one has a table"),
    });
    assert_eq!(bare.addresses, ["10.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!((bare.rebind, bare.forwards.len(), shown.forwards.len()), (None, 0, 1));
    let bare = NaptParams { addresses: shown.addresses.clone(), rebind: shown.rebind, ..bare };
    assert_eq!(NaptParams { forwards: Vec::new(), ..shown }, bare);
    assert_eq!(reference.nats.len(), 2);
}

/// Where translators stand in their paths: (from, to, names of the stages).
#[test]
fn translators_stand_nearest_to_the_outside_or_where_the_path_says() {
    let placed = |more: &str| -> Vec<(usize, usize, Vec<String>)> {
        let names = |path: &plan::PathPlan| path.stages.iter().map(|stage| stage.name.clone()).collect();
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

/// Phases follow each other, and each packet meets those stages only in whose phase it came.
#[test]
fn phases_follow_each_other() {
    let text = |repeat: &str| {
        format!(
            "{PORTS}[[path]]\nfrom = \"left\"\nto = \"right\"\nspec = \"loss 1%\"\n{repeat}\
             [[path.phase]]\nfor = \"10s\"\nspec = \"delay 100ms\"\n\
             [[path.phase]]\nfor = \"5s\"\n[[path.phase.stage]]\ntype = \"blackout\"\ndown = \"1s\"\n"
        )
    };
    let phases = |text: &str| -> Vec<Option<Phase>> {
        parse(text, "x").unwrap().paths[0].stages.iter().map(|stage| stage.trigger.phase).collect()
    };
    let seconds = Duration::from_secs;
    let first = Phase { number: 1, from: Duration::ZERO, until: Some(seconds(10)), period: None };
    let second = Phase { number: 2, from: seconds(10), until: None, period: None };
    assert_eq!(phases(&text("")), [None, Some(first), Some(second)]);
    let period = Some(seconds(15));
    let second = Phase { until: Some(seconds(15)), period, ..second };
    assert_eq!(phases(&text("repeat = true\n")), [None, Some(Phase { period, ..first }), Some(second)]);
    let wrong = format!("{PORTS}[[path]]\nfrom = \"left\"\nto = \"right\"\nrepeat = true\n");
    assert!(parse(&wrong, "x").unwrap_err().to_string().contains("no effect without phases"));
}
