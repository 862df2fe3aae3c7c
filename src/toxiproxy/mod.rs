//! Toxiproxy's HTTP API (version 2), with faults of packets behind it.
//!
//! A proxy listens on an address of this host. Each of its connections is carried by a TCP connection of its own between two
//! network namespaces (`link`), which crosses the packet core: the relay at the near end speaks to the client, the relay at the far
//! end to the upstream (`relay`). Toxics become stages of the paths between the two (`stages`). What only the ends of a connection
//! can do is done by the relays: to send in small pieces, to close after so many bytes, to reset after a time.
//!
//! - `api`: requests and answers; `answer`: errors; `body`: JSON as Go's decoder takes it; `metrics`.
//! - `collection`: the proxies by name; `proxy`: one of them; `toxic`: its toxics.
//! - `accept`: the listener of a proxy; `connection`: a connection from the client to the upstream; `relay`, `fate`: parts of it.
//! - `files`: how many proxies and connections there can be.
//! - `server`: the thread that does all of it.

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
