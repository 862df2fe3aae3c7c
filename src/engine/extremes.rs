//! Tests with extreme numbers in configurations: `check` refuses them, or they run correctly. Nothing panics or wraps (the
//! tests are built with overflow checks).

use crate::config;
use crate::engine::network::router_params;
use crate::pipeline::params::{PathParams, StageParams};
use crate::pipeline::testing::{Run, Spec};
use crate::pipeline::time::{Duration, Instant};

/// Where the reference stands, so that the files which it names are found.
const FILE: &str = "configs/reference.toml";

/// Numbers of a quantity, without their unit.
const NUMBERS: [&str; 15] = [
    "0",
    "-1",
    "0.1",
    "0.5",
    "1",
    "1.5",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1000000000000000000000000000000000000000",
];
/// Of those, what is at an edge in larger units.
const LARGER: [&str; 4] = ["0.1", "1.5", "65536", "9223372036854775808"];
const COUNTS: [&str; 15] = [
    "0",
    "-1",
    "1",
    "1.5",
    "255",
    "256",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "-2147483649",
    "-9223372036854775808",
    "nan",
];
const SHARES: [&str; 8] =
    ["0%", "-0%", "-1%", "0.000000000000000000001%", "99.99999999999999%", "100%", "100.0000001%", "1%%"];
const RANGES: [&str; 6] = ["0-", "-0", "65535-", "0-4294967296", "9-1", "18446744073709551616-"];

/// Units of a quantity: where the digits end.
fn unit(text: &str) -> Option<&str> {
    let unit = text.trim_start_matches(|sign: char| sign.is_ascii_digit() || sign == '.' || sign == '-');
    (unit.len() < text.len()).then_some(unit)
}

/// Texts at the edge for what stands there now; none if it is no number.
fn edges(value: &str) -> Vec<String> {
    let Some(text) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        let is_count = value.trim_start_matches('-').chars().all(|sign| sign.is_ascii_digit());
        return if is_count { COUNTS.map(str::to_owned).into() } else { Vec::new() };
    };
    let quote = |text: &str| format!("\"{text}\"");
    match unit(text) {
        Some("%") => SHARES.map(quote).into(),
        Some("") if text.contains('-') && !text.contains('.') => RANGES.map(quote).into(),
        Some(unit @ ("ns" | "us" | "ms" | "s" | "m" | "h")) => {
            let smallest = NUMBERS.iter().map(|number| format!("\"{number}ns\""));
            smallest.chain(LARGER.iter().map(|number| format!("\"{number}{unit}\""))).collect()
        }
        Some(unit) if ["bit/s", "B"].iter().any(|end| unit.ends_with(end)) => {
            let base = if unit.ends_with('B') { "B" } else { "bit/s" };
            let smallest = NUMBERS.iter().map(|number| format!("\"{number} {base}\""));
            smallest.chain(LARGER.iter().map(|number| format!("\"{number}{unit}\""))).collect()
        }
        _ => Vec::new(),
    }
}

/// The values in the code of a line, by where they are in it: texts and bare words behind an equals sign, a bracket or a comma.
fn values(line: &str) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let (mut at, bytes) = (0, line.as_bytes());
    let mut expected = false;
    while at < bytes.len() {
        let rest = &line[at..];
        let length = match bytes[at] {
            b'#' => break,
            b'"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            b' ' => 1,
            sign @ (b'=' | b'[' | b',' | b'{' | b'}' | b']') => {
                expected = sign != b'{';
                at += 1;
                continue;
            }
            _ => rest.find([' ', ',', ']', '}', '=']).unwrap_or(rest.len()),
        };
        if bytes[at] != b' ' {
            if expected {
                found.push(at..at + length);
            }
            expected = false;
        }
        at += length;
    }
    found
}

/// Every configuration that differs from the reference by one number at an edge: its line, and what it is now.
fn changed(reference: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut begin = 0;
    for line in reference.split_inclusive('\n') {
        let code = line.trim_end();
        for range in
            values(code).into_iter().filter(|_| !code.trim_start().starts_with("[[") && code.contains('='))
        {
            for edge in edges(&code[range.clone()]) {
                let (from, to) = (begin + range.start, begin + range.end);
                let text = format!("{}{edge}{}", &reference[..from], &reference[to..]);
                files.push((text, format!("{edge} in {code}")));
            }
        }
        begin += line.len();
    }
    files
}

/// Packets of all kinds through one stage, in both directions, at times up to the end of time.
fn play(stage: &StageParams) {
    let mut params = Run::params(1, vec![stage.clone()]);
    params.paths.push(PathParams::new(1, 0, Vec::new()));
    let mut run = Run::built(&params);
    let times = [0, 2_000, 1_000_000, 10_000_000_000, 31_536_000_000_000_000, 1 << 63];
    for time in times {
        let now = Instant::from_nanos(time);
        for spec in [
            Spec::udp(10),
            Spec::udp(1_400).v6(),
            Spec::tcp(9_000).train(1_000),
            Spec { flags: 2, ..Spec::tcp(0) },
        ] {
            run.feed(now, &spec.frame());
            run.feed_by(1, now, &spec.back().frame());
        }
        run.advance(Instant::from_nanos(time + 1_000));
    }
    run.shut_down();
}

fn stages(plan: &config::plan::Plan) -> Vec<StageParams> {
    plan.paths.iter().flat_map(|path| path.stages().cloned()).collect()
}

/// Every number of the reference, and so of every key that there is, at every edge.
#[test]
fn every_number_of_the_reference_at_its_edges_is_refused_or_runs() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let reference = std::fs::read_to_string(root.join(FILE)).unwrap();
    let file = root.join(FILE);
    let file = file.to_str().unwrap();
    let usual = stages(&config::parse(&reference, file).unwrap());
    let files = changed(&reference);
    let (mut refused, mut played) = (0, 0);
    for (text, what) in &files {
        let attempt = || match config::parse(text, file) {
            Err(error) => {
                assert!(!error.problems.is_empty() && !error.to_string().is_empty());
                None
            }
            Ok(plan) => {
                let new = stages(&plan).into_iter().filter(|stage| !usual.contains(stage));
                Some(new.map(|stage| play(&stage)).count())
            }
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt));
        assert!(outcome.is_ok(), "{what}: it panics");
        match outcome.unwrap_or_default() {
            None => refused += 1,
            Some(count) => played += count,
        }
    }
    // Not a scan of nothing: the reference has more than 100 numbers, and each has edges that hold and edges that do not.
    assert!(
        refused > 500 && played > 200,
        "{} files, {refused} refused, {played} stages played",
        files.len()
    );
}

/// The nanoseconds until a packet of `length` bytes leaves a router with these stages; `None` if they are refused.
fn leaves_after(stage: &str, length: usize) -> Option<u64> {
    let text = format!(
        "[[port]]\nname = \"a\"\naddresses = \"10.0.1.2/24\"\n[[port]]\nname = \"b\"\naddresses = \"10.0.2.2/24\"\n\
         [[path]]\nfrom = \"a\"\nto = \"b\"\nstage = [{stage}]\n"
    );
    let plan = config::parse(&text, "x.toml").ok()?;
    let mut run = Run::built(&router_params(&plan, 1));
    run.feed(Instant::ZERO, &Spec::udp(length - 28).frame());
    run.finish();
    run.times().first().copied()
}

/// Times and rates that are taken hold to the nanosecond, or to the last digit of a float where they are written with a fraction.
#[test]
fn what_is_taken_is_exact() {
    let scale = |unit: &str| match unit {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        _ => 3_600e9,
    };
    let close = |seen: u64, expected: f64| (seen as f64 - expected).abs() <= 1.0 + expected * 1e-9;
    let mut taken = 0;
    for number in NUMBERS {
        for unit in ["ns", "us", "ms", "s", "m", "h"] {
            let stage = format!("{{ type = \"delay\", delay = \"{number}{unit}\" }}");
            let expected = number.parse::<f64>().unwrap() * scale(unit);
            let seen = leaves_after(&stage, 100);
            taken += u32::from(seen.is_some());
            match seen {
                Some(seen) => assert!(close(seen, expected), "{stage}: {seen} and not {expected}"),
                None => assert!(!(0.0..9e18).contains(&expected), "{stage} is refused"),
            }
        }
        for (unit, bits) in [("bit/s", 1.0), ("kbit/s", 1e3), ("Tbit/s", 1e12)] {
            let stage = format!("{{ type = \"rate\", rate = \"{number} {unit}\" }}");
            let rate = number.parse::<f64>().unwrap() * bits;
            let Some(seen) = leaves_after(&stage, 100) else {
                assert!(!(1.0..9e18).contains(&rate), "{stage} is refused");
                continue;
            };
            // A rate is a whole number of bits a second.
            let expected = 800e9 / rate.round();
            assert!(close(seen, expected), "{stage}: {seen} and not {expected}");
        }
    }
    assert!(taken > 30, "{taken}");
    assert_eq!(
        leaves_after("{ type = \"delay\", delay = \"1h\" }", 100),
        Some(Duration::from_secs(3_600).as_nanos())
    );
}
