//! No text is too strange for the readers.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse(&text, "x").map_err(|error| error.to_string());
    }

    /// Known keys with values of every kind, right and wrong, in every type of stage.
    #[test]
    fn no_stage_panics(
        kind in prop::sample::select(stage::types().collect::<Vec<_>>()),
        stage in prop::collection::btree_map(prop::sample::select(KEYS), prop::sample::select(VALUES), 0..20),
        port in prop::collection::btree_map(prop::sample::select(KEYS), prop::sample::select(VALUES), 0..3),
    ) {
        let (stage, port) = (lines(&stage), lines(&port));
        let path = "[[path]]\nfrom = \"left\"\nto = \"right\"\n";
        let text = format!("{PORTS}{path}[[path.stage]]\ntype = \"{kind}\"\n{stage}[[port]]\n{port}");
        match parse(&text, "x") {
            Ok(plan) => plan.paths[0].seats.iter().for_each(|seat| assert!(!describe_seat(seat).to_string().is_empty())),
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
