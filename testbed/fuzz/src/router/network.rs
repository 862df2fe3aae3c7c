//! A network out of a few bytes: stages, selections, triggers, translators.

use std::fmt::Write as _;

use faultwire::config;
use faultwire::engine::network::router_params;
use faultwire::pipeline::params::RouterParams;

use super::super::input::Input;

/// Stages, without the closing brace: a selection and a trigger may follow.
const STAGES: [&str; 42] = [
    r#"type = "loss", probability = "20%""#,
    r#"type = "loss", probability = "50%", ecn = true"#,
    r#"type = "loss", pattern = ["10%", "60%"]"#,
    r#"type = "loss", indices = [1, "3-5"]"#,
    r#"type = "delay", delay = "1ms""#,
    r#"type = "delay", delay = "2ms", jitter = "2ms""#,
    r#"type = "delay", delay = "2ms", jitter = "2ms", distribution = "pareto", reorder = true"#,
    r#"type = "rate", rate = "1 Mbit/s""#,
    r#"type = "rate", rate = "1 Mbit/s", queue = { packets = 3 }"#,
    r#"type = "rate", rate = "1 Mbit/s", queue = { packets = 9, discipline = "head-drop" }"#,
    r#"type = "rate", rate = "1 Mbit/s", queue = { packets = 99, discipline = "codel", ecn = true }"#,
    r#"type = "rate", rate = "1 Mbit/s", queue = { packets = 99, discipline = "pie" }"#,
    r#"type = "rate", rate = "1 Mbit/s", queue = { packets = 99, discipline = "red", min = 5, max = 15 }"#,
    r#"type = "rate", rate = "1 Mbit/s", burst = "3 kB""#,
    r#"type = "rate", rate = "1 Mbit/s", police = { burst = "3 kB" }"#,
    r#"type = "rate", steps = [{ for = "1ms", rate = "1 Mbit/s" }, { for = "2ms", rate = "9 Mbit/s" }]"#,
    r#"type = "mtu", mtu = 600"#,
    r#"type = "mtu", mtu = 600, action = "icmp""#,
    r#"type = "mtu", mtu = 600, action = "fragment""#,
    r#"type = "mtu", mtu = 1280, overhead = 60, action = "icmp""#,
    r#"type = "mss", mss = 536"#,
    r#"type = "mss", mss = 1400, set = true"#,
    r#"type = "duplicate", probability = "30%""#,
    r#"type = "corrupt", probability = "50%""#,
    r#"type = "corrupt", probability = "50%", fix_checksum = true"#,
    r#"type = "reorder", kind = "overtake", probability = "50%", delay = "1ms""#,
    r#"type = "reorder", kind = "displace", probability = "50%", by = 2, timeout = "3ms""#,
    r#"type = "drop""#,
    r#"type = "fragment-filter""#,
    r#"type = "timestamps", set = "random-offset""#,
    r#"type = "timestamps", set = "strip""#,
    r#"type = "rst-order", rst = "first""#,
    r#"type = "rst-order", rst = "last""#,
    r#"type = "tcp", window = 0, strip = ["sack", "sack-permitted", "timestamps"]"#,
    r#"type = "tcp", window_scale = 2, ecn = "bleach", ecn_negotiation = "strip", urgent = "clear""#,
    r#"type = "inject", kind = "rst", to = "sender", sequence = "stale""#,
    r#"type = "inject", kind = "dup-ack""#,
    r#"type = "paws-per-host""#,
    r#"type = "blackout", start = "1ms", down = "1ms", up = "2ms""#,
    r#"type = "blackout", start = "1ms", down = "1ms", up = "2ms", hold = true"#,
    r#"type = "netem", spec = "delay 1ms 1ms 25% loss 10% 25% duplicate 10% corrupt 5% reorder 25% gap 3 rate 9mbit""#,
    r#"type = "netem", spec = "delay 1ms slot 1ms 3ms packets 4 loss gemodel 10% 30%""#,
];

const SELECTIONS: [&str; 12] = [
    "",
    "",
    "",
    r#", match = { protocol = "tcp" }"#,
    r#", match = { protocol = ["udp", "icmp", "icmpv6", "sctp"] }"#,
    ", match = { port = 443 }",
    r#", match = { segment = "syn" }"#,
    r#", match = { segment = ["retransmission", "sack", "rst"] }"#,
    r#", match = { fragment = "any" }"#,
    r#", match = { quic = "initial" }"#,
    r#", match = { payload_length = "1-" }"#,
    r#", match = { ecn = "ect" }"#,
];

const TRIGGERS: [&str; 8] = [
    "",
    "",
    "",
    ", trigger = { nth = [2, 5] }",
    ", trigger = { every = 3 }",
    r#", trigger = { after = 1, times = 4, scope = "path" }"#,
    r#", trigger = { probability = "50%" }"#,
    r#", trigger = { from = "1ms", until = "1m" }"#,
];

const TRANSLATORS: [&str; 7] = [
    "",
    "",
    "[[nat]]\noutside = \"b\"\n",
    "[[nat]]\noutside = \"b\"\ntable_size = 5\nallocation = \"smallest\"\ntimestamps = \"one-clock\"\n\
     addresses = [\"10.0.2.1\", \"fd00:2::10\"]\nrebind = { at = \"3ms\", every = \"11ms\" }\n\
     [[nat.forward]]\nprotocol = \"tcp\"\nport = 443\nto = \"10.0.1.2:443\"\n",
    "[[nat]]\noutside = \"b\"\nports = \"1024-1030\"\nallocation = \"random\"\n\
     mapping = \"address-and-port-dependent\"\nfiltering = \"endpoint-independent\"\n\
     [nat.timeouts]\nudp = \"1ms\"\nicmp = \"1ms\"\ntcp_opening = \"2ms\"\ntcp_established = \"9ms\"\n\
     tcp_closing = \"1ms\"\ntcp_reset = \"1ms\"\n",
    "[[nat]]\noutside = \"b\"\nmapping = \"address-dependent\"\nfiltering = \"address-dependent\"\nhairpin = false\ntcp_without_session = \"reset\"\n\
     inbound_refresh = false\n",
    "[[nat]]\ntype = \"prefix\"\noutside = \"b\"\ninside_prefix = \"fd00:1::/48\"\noutside_prefix = \"2001:db8:9::/48\"\n",
];

const PORTS: &str = "flows = 16\n\
    [[port]]\nname = \"a\"\naddresses = [\"10.0.1.2/24\", \"fd00:1::2/64\"]\n\
    [[port]]\nname = \"b\"\naddresses = [\"10.0.2.2/24\", \"fd00:2::2/64\"]\nmtu = 1400\n\
    [[route]]\nprefix = \"10.9.0.0/16\"\nport = \"b\"\n\
    [[route]]\nprefix = \"10.66.0.0/16\"\naction = \"unreachable\"\n";

/// None if the choices do not go together.
pub(super) fn choose(input: &mut Input<'_>) -> Option<RouterParams> {
    let text = written(input);
    let plan = match config::parse(&text, "fuzz.toml") {
        Ok(plan) => plan,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return None;
        }
    };
    Some(router_params(&plan, u64::from(input.byte())))
}

fn written(input: &mut Input<'_>) -> String {
    let mut text = String::new();
    if input.byte() & 1 != 0 {
        text.push_str("mode = \"netem\"\n");
    }
    text.push_str(PORTS);
    for (from, to) in [("a", "b"), ("b", "a")] {
        let stages: Vec<_> = (0..input.byte() % 5).map(|_| stage(input)).collect();
        writeln!(text, "[[path]]\nfrom = \"{from}\"\nto = \"{to}\"\nstage = [{}]", stages.join(",\n"))
            .unwrap();
    }
    text.push_str(input.choose::<&str>(&TRANSLATORS));
    text
}

fn stage(input: &mut Input<'_>) -> String {
    let (stage, how) = (*input.choose(&STAGES), input.byte());
    let select = SELECTIONS[usize::from(how & 0x0f) % SELECTIONS.len()];
    let trigger = TRIGGERS[usize::from(how >> 4) % TRIGGERS.len()];
    format!("{{ {stage}{select}{trigger} }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word that has changed would leave a stage out of every run, and nobody would see it.
    #[test]
    fn every_choice_can_be_read() {
        let mut refused = String::new();
        let mut read = |paths: &str, rest: &str| {
            if let Err(error) = config::parse(&format!("{PORTS}{paths}{rest}"), "fuzz.toml") {
                writeln!(refused, "{paths}{rest}{error}").unwrap();
            }
        };
        let path = |stage: &str| format!("[[path]]\nfrom = \"a\"\nto = \"b\"\nstage = [{{ {stage} }}]\n");
        for stage in STAGES {
            read(&path(stage), "");
        }
        for select in SELECTIONS {
            read(&path(&format!("type = \"drop\"{select}, trigger = {{ nth = 9 }}")), "");
        }
        for trigger in TRIGGERS {
            read(&path(&format!("type = \"loss\", probability = \"1%\"{trigger}")), "");
        }
        for translator in TRANSLATORS {
            read("", translator);
        }
        assert!(refused.is_empty(), "{refused}");
    }
}
