//! What is refused or warned of, with its place and its cure.

use super::*;

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
            "stage netem: limit 1000 counts the delay line too: over 100.000 ms it lets through 120.000 Mbit/s",
        ),
        ("delay 100ms limit 100", "it lets through at most 12.000 Mbit/s"),
        ("mtu 1400", "stage mtu: packets above 1400 bytes are dropped silently"),
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
