//! A profile as callgrind writes it, with names in full and lines as numbers.

use std::path::Path;

/// Instructions of the object `binary` itself, without what it calls in others.
pub(crate) fn instructions_of(profile: &str, binary: &Path) -> u64 {
    let binary = binary.to_str().unwrap();
    let (mut here, mut inclusive, mut sum) = (false, false, 0);
    for line in profile.lines() {
        if let Some(object) = line.strip_prefix("ob=") {
            here = object == binary;
        } else if line.starts_with("calls=") {
            // The line after it has the cost of the function that is called, which has lines of its own.
            inclusive = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok());
            if here && !inclusive {
                sum += cost.unwrap_or_else(|| panic!("no line of a profile: {line}"));
            }
            inclusive = false;
        }
    }
    sum
}
