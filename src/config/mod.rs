//! The configuration: TOML as written, read into a validated [`Plan`]; tc-netem's words.
//!
//! [`load`] and [`parse`] read a whole file. Files of another shape (cases) that contain paths, routes or stages read
//! themselves with [`reader::document`] and use the same parts: [`read_port`], [`read_paths`], [`read_routes`],
//! [`read_icmp`], [`read_seats`]. Every reader reports all problems of a file at once.

// Numbers from outside are converted here: each conversion is checked, or a comment says why this is not needed.
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

mod aim;
mod attached;
mod describe;
mod distribution;
mod draft;
mod explain;
pub mod expression;
mod file;
mod group;
mod impairment;
mod kind;
mod nat;
mod numbers;
mod path;
pub mod plan;
mod pointer;
mod port;
pub mod problem;
pub mod reader;
mod select;
mod share;
pub mod spec;
mod stage;
pub mod suggest;
mod text;
mod trace;
mod trigger;
mod warning;
mod wire;

use std::path::Path;

pub use aim::Aim;
pub use describe::{Description, describe, describe_seat};
pub use draft::{PathDraft, SeatDraft};
pub use explain::{Explanation, Numbers, explain};
pub use file::{read_icmp, read_routes};
pub use kind::Kind;
pub use nat::read_nats;
pub use path::read_paths;
pub use plan::Plan;
pub use port::{at_most, port_index, read_port, read_ports};
pub use problem::{ConfigError, Problem};
pub use select::read_select;
pub use spec::{Spec, SpecError};
pub use stage::read_seats;
pub use trigger::read_trigger;
pub use warning::warnings;
pub use wire::{WireFile, load_wire, parse_wire};

/// Reads the configuration at `path`.
///
/// # Errors
/// If the file cannot be read, or everything that is wrong with it.
pub fn load(path: &Path) -> Result<Plan, ConfigError> {
    let text = read(path)?;
    parse(&text, &path.display().to_string())
}

/// Reads a configuration from its text; `name` is what problems call the file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, name: &str) -> Result<Plan, ConfigError> {
    reader::document(text, name, |root| Some(file::read_plan(root)))
}

/// The content of the file at `path`.
///
/// # Errors
/// A problem that says why it cannot be read.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    text::read_any(path).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "give the path of an existing file",
            std::io::ErrorKind::InvalidData => "a configuration is UTF-8 text",
            _ => "",
        };
        let what = format!("cannot be read: {error}");
        let file = path.display().to_string();
        ConfigError {
            problems: vec![Problem { file, place: None, key: String::new(), what, hint: hint.to_owned() }],
        }
    })
}

#[cfg(test)]
mod tests;
