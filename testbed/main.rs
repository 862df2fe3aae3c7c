//! The built binary on the real kernel: namespaces, TUN devices, kernel sockets, and tools that others wrote.
//!
//! Needs root and /dev/net/tun, and for some tests curl, nginx, iperf3, hping3, ping and scapy: `testbed/run` installs
//! them. What is missing fails the test that needs it; nothing is skipped.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "nix sets the disposition of a signal by an unsafe function")]

mod system {
    pub(crate) mod attach;
    pub(crate) mod attach_choice;
    pub(crate) mod attached_port;
    pub(crate) mod bottleneck;
    pub(crate) mod capture;
    pub(crate) mod captures;
    pub(crate) mod cases;
    pub(crate) mod cni;
    pub(crate) mod common;
    pub(crate) mod completions;
    pub(crate) mod containers;
    pub(crate) mod control;
    pub(crate) mod evidence;
    pub(crate) mod exec;
    pub(crate) mod flow_cache;
    pub(crate) mod hosts;
    pub(crate) mod howto;
    pub(crate) mod journal;
    pub(crate) mod json;
    pub(crate) mod log;
    pub(crate) mod metrics;
    pub(crate) mod nat;
    pub(crate) mod nested;
    pub(crate) mod network;
    pub(crate) mod numbered;
    pub(crate) mod pcap;
    pub(crate) mod reach;
    pub(crate) mod readme;
    pub(crate) mod recorder;
    pub(crate) mod refusals;
    pub(crate) mod remote;
    pub(crate) mod repeat;
    pub(crate) mod resets;
    pub(crate) mod rewrite;
    pub(crate) mod run;
    pub(crate) mod script;
    pub(crate) mod segments;
    pub(crate) mod shared_link;
    pub(crate) mod steering;
    pub(crate) mod streams;
    pub(crate) mod tc;
    pub(crate) mod tcp;
    pub(crate) mod third_party;
    pub(crate) mod top;
    pub(crate) mod toxiproxy;
    pub(crate) mod veth;
    pub(crate) mod width;
}
