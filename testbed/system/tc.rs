//! The words of a spec against tc itself, whose parser works without the kernel's netem: what comes from the kernel comes after it.

use std::process::Command;

use faultwire::config::spec;

use crate::system::common::{Foreign, ip, said};

/// What each word may be followed by: alternatives for each place, the first of which may be nothing.
const WORDS: &[(&[&str], &[&[&str]])] = &[
    (&["delay", "latency"], &[TIMES, &["", "1ms", "200us", "0"], &["", "25%", "0%"]]),
    (&["distribution"], &[&["", "normal", "uniform", "pareto", "paretonormal", "experimental", "norml"]]),
    (&["loss", "drop"], &[&["", "random"], PERCENTS, &["", "25%", "30"]]),
    (&["loss state"], &[PERCENTS, &["", "30%"], &["", "5%"], &["", "50%"], &["", "2%"]]),
    (&["loss gemodel"], &[PERCENTS, &["", "10%"], &["", "70%"], &["", "0.1%"]]),
    (&["ecn"], &[]),
    (&["reorder", "corrupt", "duplicate"], &[PERCENTS, &["", "50%", "101%"]]),
    (&["gap"], &[&["", "5", "1", "x", "1.5"]]),
    (&["rate"], &[RATES, &["", "-4", "20", "0"], &["", "48"], &["", "5", "-5"]]),
    (&["slot"], &[TIMES, &["", "10ms", "1s"], &["", "packets 5"], &["", "bytes 3k", "bytes 9000"]]),
    (&["slot distribution"], &[&["normal", "pareto"], TIMES, &["1ms", ""], &["", "packets 7"]]),
    (&["limit"], &[&["1000", "", "1k", "7kb", "1mbit", "2.5k", "0x10", "-1", "1q", "0"]]),
];

const TIMES: &[&str] =
    &["10ms", "100", "1s", "5usec", "5usecs", "2msec", "1sec", "1Secs", "3msecs", "1e1ms", "5mz", "-1ms", ""];
const PERCENTS: &[&str] = &["1%", "0.5%", "100%", "0%", "1e1%", "101%", "-1%", "x", ""];
const RATES: &[&str] = &[
    "1mbit", "10Mbit", "500kbit", "1gbit", "8000", "1.5mbit", "1mbps", "10KBps", "1Mibit", "1gibps", "1tbit",
    "1bit", "80bps", "10mb", "0bit", "1e6", "",
];

/// The messages with which lines that tc accepts may be refused.
const REASONS: &[&str] = &[
    // tc reads a number without `%` as a percentage, but many users mean a fraction.
    "has no %",
    // tc uses the last one.
    "was already given",
    // tc reads zero as no rate and no queue.
    "is less than 1 bit/s",
    "is out of range",
    // tc accepts hexadecimal numbers, and fractions of a packet.
    "is not a whole number",
    "has no known unit",
    "is not a rate",
    // tc accepts settings without effect, and negative delays.
    "needs a delay to overtake",
    "\"-1ms\" is not a time",
    // tc accepts probabilities out of a state that exceed 100 % together.
    "together more than 100%",
    // tc accepts abbreviations of words.
    "is short for",
];

/// Numbers that only look random, the same on every machine.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn choose<'a>(&mut self, from: &[&'a str]) -> &'a str {
        // Usual values come first, and more often.
        let first = self.below(2) == 0;
        if first { from[0] } else { from[self.below(from.len())] }
    }

    fn line(&mut self) -> String {
        let mut words = Vec::new();
        for _ in 0..=self.below(4) {
            let (names, arguments) = WORDS[self.below(WORDS.len())];
            words.push(names[self.below(names.len())]);
            words.extend(arguments.iter().map(|values| self.choose(values)));
        }
        words.retain(|word| !word.is_empty());
        words.join(" ")
    }
}

/// Whether tc's parser accepts the line, and its message.
fn tc(netns: &Foreign, line: &str) -> (bool, String) {
    let mut command = Command::new("tc");
    command.args(["-n", &netns.0, "qdisc", "replace", "dev", "lo", "root", "netem"]);
    command.args(line.split_whitespace());
    let output = command.output().expect("tc is installed (testbed/run does that)");
    let text = said(&output);
    // This message comes from the kernel, so tc had understood the line.
    let from_kernel = text.starts_with("Error: ") || text.starts_with("RTNETLINK answers");
    (output.status.success() || from_kernel, text)
}

/// A line that tc accepts is accepted, or refused with a known reason. A line that tc refuses is refused.
#[test]
fn lines_are_read_as_tc_reads_them() {
    let netns = Foreign::new();
    ip(&["-n", &netns.0, "link", "set", "lo", "up"]);
    let mut numbers = Numbers(1);
    let (mut both, mut neither) = (0, 0);
    let mut wrong = Vec::new();
    for _ in 0..1_500 {
        let line = numbers.line();
        let (taken, text) = tc(&netns, &line);
        match (taken, spec::parse(&line)) {
            (true, Ok(_)) => both += 1,
            (false, Err(_)) => neither += 1,
            (true, Err(error)) => {
                let told = error.to_string();
                let is_known =
                    |problem: &spec::SpecProblem| REASONS.iter().any(|reason| problem.what.contains(reason));
                if !error.problems.iter().all(is_known) {
                    wrong.push(format!("tc takes {line:?}\n{told}"));
                }
            }
            // tc has a file for each shape but uniform, which it has no word for; here the word is built in.
            (false, Ok(_)) if text.starts_with("No distribution data for uniform") => neither += 1,
            (false, Ok(_)) => wrong.push(format!("tc refuses {line:?}: {text}")),
        }
    }
    assert!(wrong.is_empty(), "{} lines:\n{}", wrong.len(), wrong.join("\n"));
    assert!(both > 200 && neither > 200, "{both} taken by both, {neither} by neither");
}
