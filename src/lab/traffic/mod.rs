//! Built-in traffic: real kernel sockets, a deadline for everything, and results as data.
//!
//! This code does not handle namespaces: sockets, and the threads that a server starts, belong to the namespace of the calling
//! thread.

pub mod client;
pub mod clients;
pub mod connect;
pub mod exec;
pub mod outcome;
pub mod pattern;
pub mod ping;
pub mod probe;
mod raw;
pub mod request;
pub mod reuse;
pub mod serve;
pub mod sockopt;
pub mod stream;
pub mod talk;
pub mod trace;
pub mod udp;
pub mod wait;

use crate::lab::value::{Facts, Value};

/// Collects facts under their names.
pub(crate) fn facts<const N: usize>(pairs: [(&str, Value); N]) -> Facts {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// `part` of `whole` as a fraction; 0 of nothing.
pub(crate) fn share(part: u64, whole: u64) -> Value {
    Value::Number(if whole == 0 { 0.0 } else { part as f64 / whole as f64 })
}

/// The value that `permille` thousandths of the sorted values do not exceed; 0 of nothing.
pub(crate) fn quantile(sorted: &[u64], permille: usize) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last * permille).div_ceil(1000)).copied().unwrap_or(0)
}
