//! What needs no privilege; the rest is in `testbed/hosts.rs`.

use super::*;

#[test]
fn names_are_checked_before_anything_is_made() {
    for name in ["", "a-name-too-long", "with space", "ü", "a/b"] {
        assert!(matches!(Lab::start(&[name], 1), Err(LabError::Name(bad)) if bad == name), "{name}");
    }
    assert!(matches!(Lab::start(&["a", "b", "a"], 1), Err(LabError::Name(bad)) if bad == "a"));
    assert!(matches!(Lab::start(&[], 1), Err(LabError::Count(0))));
    assert!(matches!(Lab::start(&["a"; 251], 1), Err(LabError::Count(251))));
}
