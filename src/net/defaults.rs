//! The settings that a namespace made by faultwire starts with.
//!
//! A new network namespace inherits a part of its settings from the host's first namespace: all of `net.ipv4.conf`, which
//! includes forwarding and the reverse path filter, TCP's congestion control and buffer sizes, and `net.ipv6.conf` too if
//! `net.core.devconf_inherit_init_net` is 1 or 3. The result of a test would then depend on the host's settings. So every
//! created namespace gets the values of this table: Linux's own defaults, unless there is a reason for another value.
//! Namespaces that the user made are not changed.
//!
//! A `*` in a key stands for `all`, `default` and `lo`; devices that are created later start with the values of `default`.

use std::fs;
use std::io;

use crate::net::error::NetError;
use crate::net::sysctl;

/// The congestion control of created namespaces: Linux's own default, which most hosts have.
pub const CONGESTION_CONTROL: &str = "cubic";

/// The key of the congestion control.
const CONGESTION_KEY: &str = "ipv4/tcp_congestion_control";

/// Settings with one reason.
struct Group {
    /// Why they are set, and to this.
    reason: &'static str,
    /// Keys under `/proc/sys/net` with their values.
    settings: &'static [(&'static str, &'static str)],
}

/// The table. Order matters: a change of forwarding resets the settings that depend on it.
const TABLE: &[Group] = &[
    Group {
        reason: "a host is an end: it must not pass on, or send back, what is not for it (container hosts forward)",
        settings: &[
            ("ipv4/ip_forward", "0"),
            ("ipv4/conf/*/forwarding", "0"),
            ("ipv4/conf/*/bc_forwarding", "0"),
            ("ipv4/conf/*/proxy_arp", "0"),
            ("ipv4/conf/*/proxy_arp_pvlan", "0"),
            ("ipv4/conf/*/bootp_relay", "0"),
            ("ipv6/conf/*/forwarding", "0"),
            ("ipv6/conf/*/force_forwarding", "0"),
            ("ipv6/conf/*/proxy_ndp", "0"),
        ],
    },
    Group {
        reason: "what arrives is judged by the faults, not by where it came from (distributions set 1 or 2)",
        settings: &[
            ("ipv4/conf/*/rp_filter", "0"),
            ("ipv4/conf/*/src_valid_mark", "0"),
            ("ipv4/conf/*/accept_local", "0"),
            ("ipv4/conf/*/route_localnet", "0"),
            ("ipv4/conf/*/drop_unicast_in_l2_multicast", "0"),
            ("ipv4/conf/*/drop_gratuitous_arp", "0"),
            ("ipv4/conf/*/disable_policy", "0"),
            ("ipv4/conf/*/disable_xfrm", "0"),
            ("ipv4/conf/*/tag", "0"),
            ("ipv4/conf/*/medium_id", "0"),
            ("ipv4/conf/*/log_martians", "0"),
            ("ipv6/conf/*/disable_policy", "0"),
            ("ipv6/conf/*/drop_unicast_in_l2_multicast", "0"),
        ],
    },
    Group {
        reason: "redirects, source routes and neighbours as in Linux itself",
        settings: &[
            ("ipv4/conf/*/accept_redirects", "1"),
            ("ipv4/conf/*/secure_redirects", "1"),
            ("ipv4/conf/*/send_redirects", "1"),
            ("ipv4/conf/*/shared_media", "1"),
            ("ipv4/conf/*/accept_source_route", "0"),
            ("ipv4/conf/*/ignore_routes_with_linkdown", "0"),
            ("ipv4/conf/*/promote_secondaries", "0"),
            ("ipv4/conf/*/arp_accept", "0"),
            ("ipv4/conf/*/arp_announce", "0"),
            ("ipv4/conf/*/arp_evict_nocarrier", "1"),
            ("ipv4/conf/*/arp_filter", "0"),
            ("ipv4/conf/*/arp_ignore", "0"),
            ("ipv4/conf/*/arp_notify", "0"),
            ("ipv4/conf/*/force_igmp_version", "0"),
            ("ipv4/conf/*/igmpv2_unsolicited_report_interval", "10000"),
            ("ipv4/conf/*/igmpv3_unsolicited_report_interval", "1000"),
            ("ipv6/conf/*/accept_redirects", "1"),
            ("ipv6/conf/*/accept_source_route", "0"),
            ("ipv6/conf/*/ignore_routes_with_linkdown", "0"),
            ("ipv6/conf/*/hop_limit", "64"),
        ],
    },
    Group {
        reason: "an IPv6 address is the one that was given, and usable at once: nobody on the wire answers",
        settings: &[
            ("ipv6/conf/*/disable_ipv6", "0"),
            ("ipv6/conf/*/accept_dad", "0"),
            ("ipv6/conf/*/dad_transmits", "0"),
            ("ipv6/conf/*/optimistic_dad", "0"),
            ("ipv6/conf/*/use_optimistic", "0"),
            ("ipv6/conf/*/accept_ra", "0"),
            ("ipv6/conf/*/autoconf", "0"),
            ("ipv6/conf/*/router_solicitations", "0"),
            ("ipv6/conf/*/addr_gen_mode", "1"),
            ("ipv6/conf/*/use_tempaddr", "0"),
            ("ipv6/conf/*/use_oif_addrs_only", "0"),
            ("ipv6/conf/*/keep_addr_on_down", "0"),
            ("ipv6/conf/*/max_addresses", "16"),
            ("ipv6/conf/*/ndisc_notify", "0"),
            ("ipv6/conf/*/seg6_enabled", "0"),
            ("ipv6/conf/*/rpl_seg_enabled", "0"),
            ("ipv6/conf/*/ioam6_enabled", "0"),
        ],
    },
    Group {
        reason: "the congestion control that most hosts have; BBR, say, takes loss for no sign of congestion",
        settings: &[(CONGESTION_KEY, CONGESTION_CONTROL)],
    },
    Group {
        reason: "buffers of a host with enough memory: what a window can grow to must not depend on the machine",
        settings: &[
            ("ipv4/tcp_rmem", "4096 131072 6291456"),
            ("ipv4/tcp_wmem", "4096 16384 4194304"),
            ("ipv4/tcp_moderate_rcvbuf", "1"),
        ],
    },
    Group {
        reason: "TCP as in Linux itself, where kernels of distributions differ or the machine's memory decides",
        settings: &[
            ("core/somaxconn", "4096"),
            ("ipv4/ip_default_ttl", "64"),
            ("ipv4/ip_no_pmtu_disc", "0"),
            ("ipv4/ip_nonlocal_bind", "0"),
            ("ipv4/ip_local_port_range", "32768 60999"),
            ("ipv4/icmp_echo_ignore_all", "0"),
            ("ipv4/ipfrag_time", "30"),
            ("ipv4/tcp_timestamps", "1"),
            ("ipv4/tcp_sack", "1"),
            ("ipv4/tcp_dsack", "1"),
            ("ipv4/tcp_window_scaling", "1"),
            ("ipv4/tcp_ecn", "2"),
            ("ipv4/tcp_syncookies", "1"),
            ("ipv4/tcp_syn_retries", "6"),
            ("ipv4/tcp_synack_retries", "5"),
            ("ipv4/tcp_retries1", "3"),
            ("ipv4/tcp_retries2", "15"),
            ("ipv4/tcp_fin_timeout", "60"),
            ("ipv4/tcp_tw_reuse", "2"),
            ("ipv4/tcp_rfc1337", "0"),
            ("ipv4/tcp_mtu_probing", "0"),
            ("ipv4/tcp_abort_on_overflow", "0"),
            ("ipv4/tcp_no_metrics_save", "0"),
            ("ipv4/tcp_slow_start_after_idle", "1"),
            ("ipv4/tcp_max_syn_backlog", "2048"),
            ("ipv4/tcp_max_tw_buckets", "131072"),
            ("ipv6/ip6frag_time", "60"),
        ],
    },
];

/// A setting that the kernel did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its name as `sysctl(8)` writes it.
    pub key: String,
    /// The value that was set.
    pub wanted: &'static str,
    /// The value that it has.
    pub is: String,
    /// The system's reason.
    pub why: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key, wanted, is, why } = self;
        write!(f, "{key} is {is} in created namespaces, not {wanted}: {why}")?;
        if *key == sysctl::dotted(CONGESTION_KEY) {
            write!(
                f,
                " (this host lets ordinary namespaces choose from net.ipv4.tcp_allowed_congestion_control only)"
            )?;
        }
        Ok(())
    }
}

impl Refused {
    /// Whether it is the congestion control.
    pub fn is_congestion_control(&self) -> bool {
        self.key == sysctl::dotted(CONGESTION_KEY)
    }
}

/// Every setting with its value and its reason, `*` written out.
pub fn settings() -> impl Iterator<Item = (String, &'static str, &'static str)> {
    TABLE.iter().flat_map(|group| {
        group.settings.iter().flat_map(|(key, value)| {
            let devices: &[&str] = if key.contains('*') { &["all", "default", "lo"] } else { &[""] };
            devices.iter().map(|device| (key.replace('*', device), *value, group.reason))
        })
    })
}

/// Gives the namespace of the calling thread the settings of the table; those that it refuses.
///
/// A setting that the kernel does not have is passed over, and so is one that is right already: where `/proc/sys` is
/// mounted read-only, as in most containers, nothing fails that need not.
///
/// # Errors
/// If a setting is there and cannot be read.
pub fn apply() -> Result<Vec<Refused>, NetError> {
    let mut refused = Vec::new();
    for (key, wanted, _) in settings() {
        let path = sysctl::path_of(&key)?;
        let is = match fs::read_to_string(&path) {
            Ok(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(NetError::file("read", path)(error)),
        };
        if is != wanted
            && let Err(error) = fs::write(&path, wanted)
        {
            refused.push(Refused { key: sysctl::dotted(&key), wanted, is, why: error.to_string() });
        }
    }
    Ok(refused)
}
