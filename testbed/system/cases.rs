//! The incident catalogue, through the command.

use crate::system::common::{output, said};

/// Every case that comes with faultwire passes, and each of its controls comes out the other way.
#[test]
fn every_case_passes_with_its_controls() {
    let output = output(&["case", "run", "--all"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&output);
    assert!(text.contains("17 passed, 0 failed"), "{text}");
}

/// A case whose fault is taken away fails: the expectations do look.
#[test]
fn a_case_without_its_fault_fails() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/cases/fragment-firewall.toml"))
            .unwrap()
            .replace(
                "type = \"fragment-filter\"",
                "type = \"fragment-filter\", match = { protocol = \"tcp\" }",
            );
    let file = crate::system::common::Scratch::file(&text);
    let output = output(&["case", "run", file.path()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("FAIL"), "{}", said(&output));
}

#[test]
fn an_unknown_case_is_a_mistake_of_the_command_line() {
    let output = output(&["case", "run", "mss-clmp"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("mss-clamp"), "{}", said(&output));
}
