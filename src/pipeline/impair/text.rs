//! Phrases that the descriptions of several stages share, and numbers in them.

use crate::pipeline::params::Share;
use crate::pipeline::time::Duration;
use crate::pipeline::units::Bytes;

/// The limits of a queue.
pub(super) fn queue(packets: Option<u64>, bytes: Option<u64>, time: Option<Duration>) -> String {
    let limits = [
        packets.map(|packets| format!("{packets} packets")),
        bytes.map(|bytes| Bytes(bytes).to_string()),
        time.map(|time| time.to_string()),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    match limits.as_slice() {
        [] => "queue without limit".to_owned(),
        limits => format!("queue of at most {}", limits.join(" and ")),
    }
}

/// The bytes that a packet costs beside its length.
pub(super) fn overhead(bytes: i32) -> String {
    if bytes == 0 { String::new() } else { format!(", {bytes:+} bytes per packet") }
}

/// The link that several paths share, if the stage belongs to one.
pub(super) fn share(share: Option<Share>) -> String {
    share.map_or_else(String::new, |share| format!(", shared as {share}"))
}

/// A share of packets; small ones with more digits.
pub(crate) fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0%".to_owned(),
        p if p < 0.001 => format!("{p:.6}%"),
        p if p < 0.1 => format!("{p:.4}%"),
        p => format!("{p:.2}%"),
    }
}

/// Bits per second.
pub(crate) fn mbit(bits: f64) -> String {
    format!("{:.3} Mbit/s", bits / 1e6)
}

/// Seconds.
pub(crate) fn millis(seconds: f64) -> String {
    format!("{:.3} ms", seconds * 1e3)
}

/// Bits of a full-sized Ethernet packet, to compare packets with times.
pub(crate) const PACKET_BITS: f64 = 1_500.0 * 8.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_shares_have_more_digits() {
        let shares = [0.0, 0.000_004, 0.000_01, 0.000_5, 0.001, 0.5];
        assert_eq!(shares.map(percent), ["0%", "0.000400%", "0.0010%", "0.0500%", "0.10%", "50.00%"]);
    }
}
