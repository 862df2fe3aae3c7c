use proptest::prelude::*;

use super::*;
use crate::folder::Folder;
use crate::pipeline::params::{
    BlackoutParams, Correlated, DelayParams, Distribution, ImpairmentParams, LossModel, MssParams, MtuAction,
    MtuParams, NetemParams, Select, Slot, SlotGap, Trigger,
};
use crate::pipeline::time::Duration;
use crate::pipeline::units::Probability;

fn netem(spec: &str) -> NetemParams {
    let stages = parse(spec).unwrap().stages;
    match stages.as_slice() {
        [StageParams { impairment: ImpairmentParams::Netem(netem), .. }] => (**netem).clone(),
        other => panic!("{spec}: {other:?}"),
    }
}

fn refusal(spec: &str) -> String {
    let error = parse(spec).unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    format!("{} ({})", error.problems[0].what, error.problems[0].hint)
}

#[test]
fn netems_words_fill_one_stage_in_any_order() {
    let one = netem("loss 1% 25% delay 100ms 10ms 5% distribution normal rate 1mbit -4 48 5 limit 50 ecn");
    let other =
        netem("ecn limit 50 rate 1mbit -4 48 5 latency 100ms 10ms 5% loss random 1% 25% distribution normal");
    assert_eq!(one, other);
    let delay = DelayParams {
        delay: Duration::from_millis(100),
        jitter: Duration::from_millis(10),
        distribution: Distribution::Normal,
        reorder: false,
        half_life: None,
    };
    assert_eq!(one.delay, Some(delay));
    assert_eq!(one.delay_correlation, "5%".parse().unwrap());
    let loss = Correlated { probability: "1%".parse().unwrap(), correlation: "25%".parse().unwrap() };
    assert_eq!(one.loss, LossModel::Random(loss));
    assert!(one.ecn);
    assert_eq!(one.limit, Some(50));
    let rate = one.rate.unwrap();
    assert_eq!((rate.packet_overhead, rate.cell_size, rate.cell_overhead), (-4, 48, 5));
    assert_eq!(rate.rate.bits_per_sec(), 1_000_000);
}

/// What tc fills in where fewer values are given.
#[test]
fn loss_models_have_tcs_defaults() {
    let p = |text: &str| text.parse().unwrap();
    for (spec, values) in [
        ("loss state 1%", ["1%", "99%", "0%", "100%", "0%"]),
        ("loss state 1% 30%", ["1%", "30%", "0%", "100%", "0%"]),
        ("loss state 1% 30% 5% 50% 2%", ["1%", "30%", "5%", "50%", "2%"]),
    ] {
        let [p13, p31, p32, p23, p14] = values.map(p);
        let LossModel::State(chain) = netem(spec).loss else { panic!("{spec}") };
        let close = |one: Probability, other: Probability| (one.as_f64() - other.as_f64()).abs() < 1e-12;
        assert!(close(chain.p13, p13) && close(chain.p31, p31) && close(chain.p32, p32), "{spec}: {chain:?}");
        assert!(close(chain.p23, p23) && close(chain.p14, p14), "{spec}: {chain:?}");
    }
    let LossModel::GilbertElliott(chain) = netem("loss gemodel 1% 10% 70% 0.1%").loss else { panic!() };
    let values = [chain.p, chain.r, chain.bad, chain.good];
    assert_eq!(values, ["1%", "10%", "70%", "0.1%"].map(p));
    let LossModel::GilbertElliott(chain) = netem("loss gemodel 1%").loss else { panic!() };
    assert_eq!((chain.bad, chain.good), (Probability::ONE, Probability::ZERO));
    assert!((chain.r.as_f64() - 0.99).abs() < 1e-12);
}

#[test]
fn slots_are_read_as_tc_reads_them() {
    let ms = Duration::from_millis;
    for (spec, gap, packets, bytes) in [
        ("slot 1ms", SlotGap::Uniform(ms(1), ms(1)), None, None),
        ("slot 1ms 5ms packets 7 bytes 3000", SlotGap::Uniform(ms(1), ms(5)), Some(7), Some(3_000)),
        ("slot 1ms bytes 9 packets 2", SlotGap::Uniform(ms(1), ms(1)), Some(2), Some(9)),
        (
            "slot distribution normal 8ms 2ms packets 4",
            SlotGap::Distribution(Distribution::Normal, ms(8), ms(2)),
            Some(4),
            None,
        ),
    ] {
        assert_eq!(netem(spec).slot, Some(Slot { gap, packets, bytes }), "{spec}");
    }
    let line = netem("delay 1ms slot 2ms packets 3 loss 1%");
    assert!(line.delay.is_some() && line.loss != LossModel::default());
}

#[test]
fn reorder_without_gap_considers_every_packet() {
    let netem = netem("delay 10ms reorder 25% 50% duplicate 1% 2% corrupt 3% 4%");
    assert_eq!((netem.gap, netem.reorder.correlation), (1, "50%".parse().unwrap()));
    assert_eq!(
        (netem.duplicate.probability, netem.corrupt.correlation),
        ("1%".parse().unwrap(), "4%".parse().unwrap())
    );
    assert_eq!(netem_gap("delay 10ms gap 5 reorder 25%"), 5);
    assert_eq!(netem_gap("delay 10ms"), 0);
}

fn netem_gap(spec: &str) -> u32 {
    netem(spec).gap
}

#[test]
fn only_a_rate_has_a_queue_of_tcs_default_limit() {
    for (spec, limit, queue) in [
        ("delay 10ms", None, None),
        ("delay 10ms rate 1mbit", None, Some(1_000)),
        ("delay 10ms rate 1mbit limit 7", Some(7), None),
    ] {
        let netem = netem(spec);
        assert_eq!((netem.limit, netem.queue()), (limit, queue), "{spec}");
    }
}

#[test]
fn a_rate_in_bytes_is_warned_of() {
    assert_eq!(
        parse("rate 10Mbps").unwrap().warnings,
        ["rate 10Mbps is bytes a second in tc, 80 Mbit/s; bits are written \"10mbit\""]
    );
    assert!(parse("rate 10Mbit").unwrap().warnings.is_empty());
}

#[test]
fn a_time_without_a_unit_is_warned_of() {
    assert_eq!(
        parse("delay 5").unwrap().warnings,
        ["delay 5 is 5us, as tc reads it; write \"5ms\" if milliseconds are meant"]
    );
    for fine in ["delay 5us", "delay 0", "delay 100000", "delay 5ms"] {
        assert!(parse(fine).unwrap().warnings.is_empty(), "{fine}");
    }
    let unit = parse("delay 5 ms").unwrap_err().to_string();
    assert!(unit.contains("write it directly behind its number, as in \"5ms\""), "{unit}");
}

#[test]
fn tc_drops_and_counts_in_sizes() {
    assert_eq!(netem("drop 1%"), netem("loss 1%"));
    assert_eq!(netem("limit 2k").limit, Some(2_048));
    assert_eq!(netem("slot 1ms bytes 3kb").slot.unwrap().bytes, Some(3_072));
}

#[test]
fn own_words_are_stages_before_netem_in_their_order() {
    let spec = parse("mss 1360 delay 10ms mtu 1400 icmp seed 7 overhead 50").unwrap();
    let names: Vec<&str> = spec.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["mss", "mtu", "netem"]);
    assert_eq!(spec.seed, Some(7));
    assert_eq!(spec.stages[0].impairment, ImpairmentParams::Mss(MssParams { mss: 1_360, set: false }));
    let mtu = MtuParams { mtu: 1_400, overhead: 50, action: MtuAction::Icmp };
    assert_eq!(spec.stages[1].impairment, ImpairmentParams::Mtu(mtu));
    assert_eq!((&spec.stages[1].select, &spec.stages[1].trigger), (&Select::default(), &Trigger::default()));
}

#[test]
fn a_trace_is_a_link_before_netem() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/traces/sawtooth.trace");
    let spec = parse(&format!("delay 20ms trace {file} once")).unwrap();
    let names: Vec<&str> = spec.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["trace", "netem"]);
    assert!(
        matches!(&spec.stages[0].impairment, ImpairmentParams::Bottleneck(link) if link.packets.is_none())
    );
}

#[test]
fn overhead_alone_is_a_tunnel_on_a_link_of_1500() {
    let spec = parse("overhead 50").unwrap();
    let mtu = MtuParams { mtu: 1_500, overhead: 50, action: MtuAction::Drop };
    assert_eq!(spec.stages[0].impairment, ImpairmentParams::Mtu(mtu));
    let set = parse("mss 1460 set").unwrap();
    assert_eq!(set.stages[0].impairment, ImpairmentParams::Mss(MssParams { mss: 1_460, set: true }));
}

/// The files exist and are right, so that only the rule can refuse them.
#[test]
fn without_files_no_word_reads_one() {
    let folder = Folder::new();
    let (trace, table) = (folder.file("a.trace"), folder.file("a.dist"));
    std::fs::write(&trace, "1\n").unwrap();
    std::fs::write(&table, "-8192 0 8192\n").unwrap();
    let (trace, table) = (trace.display(), table.display());
    for spec in [
        format!("trace {trace}"),
        format!("trace {trace} once"),
        format!("delay 1ms 1ms distribution {table}"),
        format!("slot distribution {table} 1ms 1ms"),
    ] {
        assert!(parse(&spec).is_ok(), "{spec}");
        let error = parse_with(&spec, Files::Named).unwrap_err();
        assert!(error.problems[0].what.ends_with("is a file, and none may be named here"), "{error}");
    }
    // Also where nothing is, where a word is given twice, and in the folder of the process.
    for spec in ["trace x", "loss 1% trace /no/x trace /no/y", "delay 1ms 1ms distribution x.dist"] {
        let error = parse_with(spec, Files::Named).unwrap_err();
        assert!(error.problems.iter().all(|problem| !problem.what.contains("cannot be read")), "{error}");
    }
    for spec in ["delay 1ms 1ms distribution pareto", "slot distribution normal 1ms 1ms", "loss 1%"] {
        assert_eq!(parse_with(spec, Files::Named), parse(spec));
    }
}

fn names(spec: &str) -> Vec<String> {
    parse(spec).unwrap().stages.into_iter().map(|stage| stage.name).collect()
}

#[test]
fn clauses_aim_each_for_itself_and_their_stages_have_names_of_their_own() {
    let spec = parse("tcp port 6379: loss 5%; delay 1ms mss 1360; host fd00::2: delay 2ms; ;").unwrap();
    assert_eq!(
        names("tcp: loss 5%; delay 1ms mss 1360; udp: delay 2ms"),
        ["netem", "mss", "netem-2", "netem-3"]
    );
    let aims = |text: &str| crate::config::expression::parse(text).unwrap();
    let selects: Vec<&Select> = spec.stages.iter().map(|stage| &stage.select).collect();
    assert_eq!(
        selects,
        [&aims("tcp port 6379"), &Select::default(), &Select::default(), &aims("host fd00::2")]
    );
    // The colon that ends a condition is not part of an address; names of files may have colons and so on.
    assert_eq!(parse("host fd00:: : drop"), parse("host fd00::: drop"));
    assert!(parse("net fd00::/64: drop").is_ok());
    assert_eq!(parse("trace /no/x: once").unwrap_err().problems[0].at, 6..12);
    // What a stage says for itself stays.
    let rst = parse("port 80: timestamps zero rst").unwrap().stages.remove(0).select;
    assert_eq!((rst.tcp_flags_set, rst.except.len()), (4, 1));
}

#[test]
fn mistakes_in_a_later_clause_are_shown_where_they_are() {
    let error = parse("loss 1%; tcp prt 80: loss 5%; los 2%").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the faults are not understood:\n\
         \u{20} loss 1%; tcp prt 80: loss 5%; los 2%\n\
         \u{20}              ^^^ \"prt\" is not a condition: write tcp, udp, icmp, icmp6, sctp, proto, ip, ip6, port, host, \
         net, src, dst, not or ( (as in \"tcp port 6379: loss 5%\")\n\
         \u{20}                               ^^^ \"los\" is not a known word (did you mean \"loss\"?)"
    );
}

#[test]
fn drop_is_a_loss_with_a_share_and_everything_without() {
    assert_eq!(netem("drop 1%"), netem("loss 1%"));
    assert_eq!(names("tcp port 80: drop"), ["drop"]);
    assert_eq!(names("mtu 1400 drop drop"), ["mtu", "drop"]);
    assert_eq!(names("mtu 1400 drop 1%"), ["mtu", "netem"]);
    assert_eq!(netem_of("mtu 1400 drop drop state 1%"), netem("loss state 1%"));
    assert!(parse("delay 1ms drop").unwrap().warnings[0].contains("lets no packet pass"));
    assert!(parse("tcp port 80: drop").unwrap().warnings.is_empty());
}

#[test]
fn a_blackout_is_what_the_stage_of_a_file_is() {
    let s = Duration::from_secs;
    for (spec, start, down, up, hold) in [
        ("blackout 2s", s(0), s(2), None, false),
        ("blackout 2s at 10s", s(10), s(2), None, false),
        ("blackout 2s at 10s up 8s hold", s(10), s(2), Some(s(8)), true),
    ] {
        let blackout = BlackoutParams { start, down, up, hold };
        assert_eq!(parse(spec).unwrap().stages[0].impairment, ImpairmentParams::Blackout(blackout), "{spec}");
    }
}

/// The link of a spec in words, without the netem stage behind it.
fn link(spec: &str) -> String {
    let stage = parse(spec).unwrap().stages.remove(0);
    assert_eq!(stage.name, "rate");
    stage.impairment.to_string()
}

#[test]
fn a_queue_is_in_packets_bytes_or_time_with_any_discipline() {
    for (spec, expected) in [
        ("rate 10mbit queue 100", "rate 10 Mbit/s, queue of at most 100 packets"),
        ("rate 10mbit 38 queue 64kb", "rate 10 Mbit/s, +38 bytes per packet, queue of at most 64 KiB"),
        ("queue 50ms rate 10mbit", "rate 10 Mbit/s, queue of at most 50ms"),
        ("rate 10mbit queue 50ms head-drop", "rate 10 Mbit/s, queue of at most 62500 B, drop at the head"),
        (
            "rate 10mbit queue 100 codel target 2ms ecn",
            "rate 10 Mbit/s, queue of at most 100 packets, CoDel (target 2ms, interval 100ms), marking ECN-capable packets instead",
        ),
        (
            "rate 10mbit queue 1m pie",
            "rate 10 Mbit/s, queue of at most 1 MiB, PIE (target 15ms, update 15ms)",
        ),
        (
            "rate 10mbit queue 100 red 5 15 2%",
            "rate 10 Mbit/s, queue of at most 100 packets, RED (from 5 to 15 packets up to 2%, weight 0.002)",
        ),
    ] {
        assert_eq!(link(spec), expected, "{spec}");
    }
    assert_eq!(names("delay 10ms rate 1mbit queue 5 loss 1%"), ["rate", "netem"]);
    assert!(netem_of("delay 10ms rate 1mbit queue 5 loss 1%").rate.is_none());
}

fn netem_of(spec: &str) -> NetemParams {
    let stages = parse(spec).unwrap().stages;
    stages
        .into_iter()
        .find_map(|stage| match stage.impairment {
            ImpairmentParams::Netem(netem) => Some(*netem),
            _ => None,
        })
        .unwrap()
}

#[test]
fn a_rate_changes_by_shares_with_time() {
    for (spec, expected) in [
        (
            "rate 10mbit steps 10s 100% 5s 20% 1s stopped repeat",
            "rate in 3 steps (10 Mbit/s, 2 Mbit/s, stopped), again every 16s, queue of at most 1000 packets, drop at the tail",
        ),
        (
            "steps 1s 5mbit 1s 1mbit queue 10 codel",
            "rate in 2 steps (5 Mbit/s, 1 Mbit/s), the last one stays, queue of at most 10 packets, CoDel (target 5ms, interval 100ms)",
        ),
    ] {
        assert_eq!(link(spec), expected, "{spec}");
    }
}

#[test]
fn nothing_asks_for_nothing() {
    assert_eq!(parse("  "), Ok(Spec::default()));
}

#[test]
fn each_mistake_says_what_would_be_right() {
    for (spec, message) in [
        ("los 1%", "\"los\" is not a known word (did you mean \"loss\"?)"),
        ("slot", "\"slot\" needs a time (as in "),
        ("slot 2ms 1ms", "the longest gap, 1ms, is less than the shortest, 2ms ("),
        ("slot distribution normal 1ms", "\"slot\" needs a jitter (as in "),
        ("loss", "\"loss\" needs a percentage (as in \"loss 1%\")"),
        ("loss 30", "\"30\" has no % (try \"30%\")"),
        ("loss 101%", "\"101%\" is more than 100% (a probability is"),
        ("loss gemodel", "\"loss\" needs the probability to turn bad (as in \"loss gemodel 1% 10%\")"),
        ("loss state 60% 50% 0% 100% 50%", "p13 and p14 are 60% and 50%, together more than 100% ("),
        ("loss state 60% 50% 60%", "p31 and p32 are 50% and 60%, together more than 100% ("),
        ("loss gemodel 1% 110%", "\"110%\" is more than 100%"),
        ("delay soon", "\"delay\" needs a time (as in \"delay 100ms\")"),
        ("delay 10mz", "\"10mz\" has no known unit (try \"10ms\")"),
        ("delay 1ms 1ms distribution /no/x.dist", "/no/x.dist cannot be read: "),
        (
            "delay 1ms 1ms distribution bell",
            "\"bell\" is not a known distribution (allowed: uniform, normal, ",
        ),
        (
            "delay 1ms 1ms distribution norml",
            "\"norml\" is not a known distribution (did you mean \"normal\"?)",
        ),
        (
            "delay 1ms distribution normal",
            "\"distribution\" needs a jitter to shape (as in \"delay 100ms 10ms",
        ),
        ("rate 10mb", "\"10mb\" has no known unit (try \"10mbit\")"),
        ("rate 0bit", "\"0bit\" is less than 1 bit/s (for a link that is down"),
        ("reorder 25%", "\"reorder\" needs a delay to overtake (as in \"delay 10ms reorder 25%\")"),
        ("delay 1ms gap 5", "\"gap\" needs a reorder (as in \"delay 10ms reorder 25% gap 5\")"),
        ("ecn", "\"ecn\" needs a loss to mark instead (as in \"loss 1% ecn\")"),
        ("loss 1% loss 2%", "\"loss\" was already given (give each word once)"),
        ("delay 1ms latency 1ms", "\"latency\" was already given (give each word once)"),
        ("limit 0", "\"0\" is out of range (allowed: 1 to "),
        ("limit 1.5", "\"1.5\" is not a whole number (as in \"limit 1000\")"),
        ("trace", "\"trace\" needs a file (as in \"trace uplink.trace\")"),
        ("trace /no/trace", "/no/trace cannot be read: "),
        ("mtu 20", "\"20\" is out of range (allowed: 68 to 65535)"),
        ("mtu 100 overhead 50", "\"overhead\" leaves 50 bytes of an MTU of 100 (at least 68 must be left)"),
        ("mtu 1400 icpm", "\"icpm\" is not a known word (did you mean \"icmp\"?)"),
        ("mss 0", "\"0\" is out of range (allowed: 1 to 65535)"),
        ("netem delay 50ms", "\"netem\" is not needed (write only what follows it in tc"),
        (
            "inject rst",
            "\"inject\" is a stage of configuration files, not a word (write type = \"inject\" in",
        ),
        ("drop state", "\"drop\" needs the probability of a burst (as in \"loss state 1% 30%\")"),
        ("tcp port 80 loss 5%", "a condition ends with a colon (as in \"tcp port 6379: loss 5%\")"),
        ("tcp:loss 5%", "the colon behind a condition ends a word (write a space behind it"),
        ("tcp prt 80: loss 5%", "\"prt\" is not a condition: write tcp, udp"),
        ("tcp udp: loss 5%", "\"udp\" contradicts the conditions before it, so no packet matches"),
        ("tcp:", "this condition has no fault (write a fault"),
        ("tcp: seed 7", "this condition has no fault (write a fault"),
        (
            "delay 1ms tcp: loss 1%",
            "\"tcp:\" is part of a condition; conditions are at the beginning of a clause",
        ),
        ("loss 1%; loss 1% udp: drop", "\"udp:\" is part of a condition"),
        ("udp: timestamps zero rst", "\"timestamps\" acts on none of these packets"),
        ("seed 1; seed 2", "\"seed\" was already given (a run has one seed)"),
        ("queue 100ms", "\"queue\" needs a rate (as in \"rate 10mbit queue 100ms\")"),
        ("rate 1mbit queue", "\"queue\" needs a depth: a time, bytes or packets (as in \"queue 100ms"),
        ("rate 1mbit queue 0", "\"0\" is out of range (more than 0"),
        ("rate 1mbit queue 0s", "\"0s\" is out of range (more than 0"),
        ("rate 1mbit queue 5 red 5 5", "5 is not above 5 (as in \"queue 100 red 5 15 10%\")"),
        ("rate 1mbit queue 5 limit 5", "\"limit\" belongs to tc's rate, not to a rate with its own queue ("),
        ("rate 1mbit 0 48 queue 5", "cells belong to tc's rate, without queue and steps (write"),
        (
            "rate 1mbit steps 1s 50% queue 5ms",
            "a time can limit a queue only at a constant rate (limit bytes",
        ),
        ("steps 1s 50%", "a share needs the rate that it is a share of (as in"),
        ("steps 1s 0%", "a share needs the rate that it is a share of (as in"),
        ("rate 1mbit steps 1s 0%", "these steps block all packets at the end (end with"),
        ("steps 1s 1mbit 2s", "\"steps\" needs a share or a rate for each time (as in"),
        ("steps", "\"steps\" needs times and shares of the rate (as in"),
        ("rate 1mbit steps 0s 50%", "\"0s\" is too short (more than 0s)"),
        ("blackout", "\"blackout\" needs how long the link is down (as in"),
        ("blackout 1s up 0s", "\"0s\" is too short (more than 0s)"),
        ("blackout 1s at hold", "\"blackout\" needs a time behind \"at\" (as in"),
        ("hold", "\"hold\" cannot be used alone (write it behind \"blackout\")"),
        ("l 7", "\"l\" is short for \"limit\" in tc (write the word in full)"),
        ("delay 1ms icmp", "\"icmp\" cannot be used alone (write it behind \"mtu\")"),
        ("gemodel 1%", "\"gemodel\" cannot be used alone (write it behind \"loss\")"),
        ("trace stairs.json", "stairs.json is not a trace of Mahimahi (a rate stage of a file takes"),
        ("5% loss", "\"5%\" is not a known word (allowed: "),
    ] {
        let said = refusal_start(spec);
        assert!(said.starts_with(message), "{spec}: {said}");
    }
    assert_eq!(refusal("delay 10ms loss"), "\"loss\" needs a percentage (as in \"loss 1%\")");
}

fn refusal_start(spec: &str) -> String {
    let error = parse(spec).unwrap_err();
    format!("{} ({})", error.problems[0].what, error.problems[0].hint)
}

#[test]
fn every_mistake_is_shown_under_its_word() {
    let error = parse("delay 10 los 1% rate 10mb mtu 1400").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the faults are not understood:\n\
         \u{20} delay 10 los 1% rate 10mb mtu 1400\n\
         \u{20}          ^^^ \"los\" is not a known word (did you mean \"loss\"?)\n\
         \u{20}                      ^^^^ \"10mb\" has no known unit (try \"10mbit\")"
    );
}

proptest! {
    #[test]
    fn no_text_panics(spec in "\\PC{0,60}") {
        if let Err(error) = parse(&spec) {
            let _ = error.to_string();
        }
    }

    #[test]
    fn no_row_of_words_panics(
        words in prop::collection::vec(prop::sample::select(words::all().chain(
            ["1%", "10ms", "queue", "steps", "codel", "repeat", ";", "tcp", "udp:", ":", "(", "not", "port", "state", "gemodel", "5", "-3", "random", "normal", "icmp", "set", "1mbit", "ü", "1e999", "99999999999"]
        ).collect::<Vec<_>>()), 0..12)
    ) {
        if let Err(error) = parse(&words.join(" ")) {
            let _ = error.to_string();
        }
    }
}
