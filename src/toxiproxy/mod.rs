//! Toxiproxy's HTTP API (version 2), with packet faults behind it.
//!
//! A proxy listens on an address of this host. Each of its connections is carried by a TCP connection between two
//! network namespaces (`link`), through the packet core. The relay at the near end talks to the client, the relay at
//! the far end to the upstream (`relay`). Toxics become stages of the paths between the two (`stages`). The relays do
//! what only the ends of a connection can do: send in small pieces, close after a number of bytes, reset after a
//! time.
//!
//! - `api`: requests and answers; `answer`: errors; `body`: JSON as Go's decoder takes it; `metrics`.
//! - `collection`: the proxies by name; `proxy`: one of them; `toxic`: its toxics.
//! - `accept`: the listener of a proxy; `connection`: a connection from the client to the upstream; `relay`, `fate`:
//!   its parts.
//! - `files`: how many proxies and connections there can be.
//! - `server`: the thread that runs all of this.

mod accept;
mod address;
mod answer;
mod api;
mod body;
mod class;
mod collection;
mod connection;
mod fate;
mod files;
mod link;
mod metrics;
mod proxy;
mod relay;
mod reset;
mod server;
mod stages;
mod toxic;

pub use server::{Server, ServerError, Starting};
