//! What must not panic, hang or lose count, whatever it is given: one function for each kind of input.
//!
//! libFuzzer drives them by `fuzz_targets/`; the test `hostile` of the main crate drives the same functions with the
//! seeds and with random changes of them.

#![expect(clippy::unwrap_used, reason = "a target fails by panicking")]

mod capture;
mod input;
mod router;
mod tables;
mod text;

/// A target: its name, which is also that of its folder of seeds, and what it does with some bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 6] = [
    ("router", router::run),
    ("capture", capture::run),
    ("config", text::config),
    ("spec", text::spec),
    ("case", text::case),
    ("tables", tables::run),
];

/// Runs one of them by its name.
///
/// # Panics
/// If there is none of that name, or the bytes showed a fault.
pub fn run(target: &str, bytes: &[u8]) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    run(bytes);
}
