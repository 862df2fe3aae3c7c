//! How an exchange ended, in the words that case files use.

use std::io;

use nix::libc;

use crate::lab::value::Value;

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything expected arrived.
    Ok,
    /// The deadline passed, or the kernel gave up (ETIMEDOUT).
    Timeout,
    /// ECONNREFUSED.
    Refused,
    /// ENETUNREACH or EHOSTUNREACH: no route here, or an ICMP error said so.
    Unreachable,
    /// ECONNRESET or EPIPE.
    Reset,
    /// EMSGSIZE: larger than the path MTU with DF set.
    TooBig,
    /// The peer closed before all of the answer was there.
    Closed,
    /// Any other error.
    Failed,
}

impl Outcome {
    /// The outcome that an error stands for.
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ETIMEDOUT | libc::EAGAIN | libc::EINPROGRESS) => Self::Timeout,
            Some(libc::ECONNREFUSED) => Self::Refused,
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => Self::Unreachable,
            Some(libc::ECONNRESET | libc::EPIPE) => Self::Reset,
            Some(libc::EMSGSIZE) => Self::TooBig,
            Some(_) => Self::Failed,
            None => match error.kind() {
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Timeout,
                io::ErrorKind::UnexpectedEof => Self::Closed,
                _ => Self::Failed,
            },
        }
    }

    /// The word for it in a case file.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::TooBig => "too-big",
            Self::Closed => "closed",
            Self::Failed => "failed",
        }
    }
}

impl From<Outcome> for Value {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome.word())
    }
}
