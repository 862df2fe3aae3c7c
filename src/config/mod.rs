//! The configuration: TOML as written, read into a validated [`plan::Plan`]; tc-netem's words.

pub mod problem;
pub mod reader;
pub mod spec;
pub mod suggest;
