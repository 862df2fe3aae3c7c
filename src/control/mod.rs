//! The control interface of a running instance: HTTP with JSON on a Unix socket, and Prometheus metrics.
//!
//! A thread with a small runtime serves it. It sends messages to the workers, which take them between bursts;
//! requests that come at about the same time share a message. Without requests, nothing wakes up here. [`client`] is
//! the client side.

// Numbers from outside are converted here: each conversion is checked, or a comment says why this is not needed.
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

mod answer;
pub mod client;
mod desk;
mod document;
mod edit;
mod events;
mod flows;
mod gauge;
mod instance;
mod json_toml;
mod metrics;
mod once;
mod order;
mod routes;
mod schedule;
mod server;
mod settings;
mod socket;
mod steer;
mod token;
mod view;
mod way;
mod words;

pub use client::{Client, ClientError, VARIABLE};
pub use instance::{Attachment, Device, Instance};
pub use server::{Control, Door, Remote};
pub use socket::{Choice, SocketError, folder};
pub use token::TokenError;

/// Why the control interface cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The address of the metrics.
    #[error("cannot serve metrics on {address}: {source}")]
    Metrics {
        /// Which.
        address: std::net::SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The address of the interface.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Its token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// There is no place for its token.
    #[error("there is no control socket beside which the token could be: name a file (--control-token FILE)")]
    NoToken,
    /// The thread or its runtime.
    #[error("cannot start the thread that serves the control socket: {0}")]
    Start(std::io::Error),
}
