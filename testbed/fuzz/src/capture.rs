//! Any file as a capture, through a path, and written again in both formats.

use std::io::Cursor;

use faultwire::capture::{Format, Outputs, Replay, Sink, Source};
use faultwire::config::{self, spec};
use faultwire::engine::network::router_params;

use super::input::sum;

/// Paths that captures take.
const SPECS: [&str; 5] = [
    "loss 20%",
    "mtu 600 icmp delay 1ms 1ms duplicate 10%",
    "mtu 600 fragment mss 500 corrupt 10% reorder 10% gap 3 delay 1ms",
    "timestamps random-offset rate 1mbit limit 20",
    "delay 1ms slot 2ms 3ms loss gemodel 10% 30%",
];

/// The bytes are the file.
pub(crate) fn run(file: &[u8]) {
    let choice = sum(file);
    let format = if choice & 1 == 0 { Format::Pcap } else { Format::PcapNg };
    let Ok(mut source) = Source::new(Cursor::new(file)) else { return };
    let Ok((link, fcs)) = source.peek() else { return };
    let sink = || Sink::new(Vec::new(), format, link, fcs).unwrap();
    let outputs = Outputs { sent: sink(), dropped: Some(sink()), answers: None, log: None };
    let replay = replay(SPECS[(choice >> 1) % SPECS.len()]);
    match replay.run(&mut source, outputs) {
        Ok(outcome) => assert!(outcome.report.is_conserved(), "{outcome:?}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn replay(words: &str) -> Replay {
    let text = format!(
        "[[port]]\nname = \"a\"\n[[port]]\nname = \"b\"\n[[path]]\nfrom = \"a\"\nto = \"b\"\nspec = \"{words}\"\n"
    );
    assert!(spec::parse(words).is_ok(), "{words}");
    let plan = config::parse(&text, "fuzz.toml").unwrap_or_else(|error| panic!("{error}"));
    let mut router = router_params(&plan, 7);
    router.ports.iter_mut().for_each(|port| port.mtu = u32::MAX);
    Replay { router, path: 0, only_from: Vec::new() }
}
