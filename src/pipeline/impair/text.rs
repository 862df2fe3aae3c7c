//! Phrases that several stages are described by.

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

/// What a packet costs beside its length.
pub(super) fn overhead(bytes: i32) -> String {
    if bytes == 0 { String::new() } else { format!(", {bytes:+} bytes per packet") }
}
