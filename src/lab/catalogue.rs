//! The cases that come with faultwire. They are part of the program, so that it needs no other files. Also the
//! chapters in which the book of incidents presents them.

use crate::config::ConfigError;
use crate::lab::case::Case;

/// Text of each case file by its name.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/cases.rs"));

/// Incidents that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chapter {
    /// Its heading.
    pub title: &'static str,
    /// A sentence or two before its cases.
    pub opening: &'static str,
    /// Names of its cases, in the order in which they are best read.
    pub cases: &'static [&'static str],
}

/// All chapters. Every case is in one.
pub const CHAPTERS: &[Chapter] = &[
    Chapter {
        title: "Lost and damaged",
        opening: "Packets that are lost or changed at random, and the counters that show it.",
        cases: &["loss-netem-30", "loss-statistic-30", "ring-overflow", "checksum-damage"],
    },
    Chapter {
        title: "Too large for the path",
        opening: "Small packets pass and large ones do not. Probes are small, so everything looks healthy.",
        cases: &[
            "mtu-100-receive",
            "mtu-threshold",
            "mtu-blackhole-tunnel",
            "mss-clamp",
            "pmtud-working",
            "fragment",
            "fragment-firewall",
            "offload-superpacket",
        ],
    },
    Chapter {
        title: "Too fast for the path",
        opening: "A rate is enforced in two ways: by dropping packets or by delaying them. Each has its own symptoms.",
        cases: &["rate-policer", "rate-shaper"],
    },
    Chapter {
        title: "No way there, no way back",
        opening: "Routes that are missing or loop, filters that know only one direction, tables that are full or lose entries.",
        cases: &[
            "no-route",
            "ttl-loop",
            "firewall-asymmetric",
            "syn-queue-full",
            "conntrack-full",
            "nat-idle-timeout",
            "nat-rebind-address",
        ],
    },
    Chapter {
        title: "Resets that do not count",
        opening: "A RST is accepted only if its timestamp and its sequence number are. Otherwise the connection stays.",
        cases: &["rst-before-ack", "rst-after-ack", "rst-seq-stale", "accept-queue-pileup"],
    },
    Chapter {
        title: "Clocks that go backwards",
        opening: "Timestamps distinguish a new connection from an old one, but only if one address has one clock.",
        cases: &[
            "time-wait-collision",
            "paws-per-host",
            "paws-toggle-1-0",
            "paws-no-fin",
            "nat-timestamp-collision",
            "paws-per-connection-offset",
            "paws-two-paths",
        ],
    },
];

/// The names of all cases, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

/// The case of this name; `None` if there is none.
///
/// # Errors
/// What is wrong with its file; with those that come with faultwire, nothing.
pub fn case(name: &str) -> Result<Option<Case>, ConfigError> {
    let found = FILES.iter().find(|(known, _)| *known == name);
    found.map(|(name, text)| Case::parse(text, &format!("configs/cases/{name}.toml"), name)).transpose()
}

/// All cases.
///
/// # Errors
/// As [`case`].
pub fn cases() -> Result<Vec<Case>, ConfigError> {
    let all = names().map(case).collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_can_be_read_explains_itself_and_has_a_control() {
        let cases = cases().unwrap();
        assert!(cases.len() >= 27, "{} cases", cases.len());
        for case in cases {
            assert!(case.explain.is_some(), "{} has no [explain]", case.name);
            assert!(case.trials.iter().any(|trial| trial.control.is_some()), "{} has no control", case.name);
        }
    }

    #[test]
    fn every_case_is_in_one_chapter() {
        let told: Vec<&str> = CHAPTERS.iter().flat_map(|chapter| chapter.cases).copied().collect();
        let distinct: BTreeSet<&str> = told.iter().copied().collect();
        assert_eq!(told.len(), distinct.len(), "one is told twice: {told:?}");
        assert_eq!(distinct, names().collect(), "CHAPTERS and configs/cases differ");
    }
}
