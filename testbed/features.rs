//! What a project that depends on faultwire compiles with it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::process::Command;

/// The packages that faultwire needs with these features only (besides itself), as cargo resolves them for this host.
fn packages(features: &str) -> BTreeSet<String> {
    let arguments = ["tree", "--locked", "--no-default-features", "--features", features];
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split(' ').next()).map(ToOwned::to_owned);
    names.filter(|name| name != "faultwire" && !name.is_empty()).collect()
}

/// Checksums, prefixes, the same mathematics everywhere, traits of generators, errors, and TOML and JSON.
const CORE: [&str; 25] = [
    "crc",
    "crc-catalog",
    "ipnet",
    "itoa",
    "libm",
    "memchr",
    "proc-macro2",
    "quote",
    "rand",
    "rand_core",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "serde_spanned",
    "strsim",
    "syn",
    "thiserror",
    "thiserror-impl",
    "toml",
    "toml_datetime",
    "toml_parser",
    "unicode-ident",
    "winnow",
    "zmij",
];

#[test]
fn the_core_needs_few_packages() {
    assert_eq!(packages(""), CORE.map(ToOwned::to_owned).into());
}

#[test]
fn a_feature_brings_what_it_is_for_and_no_more() {
    for (features, brings, does_not_bring) in [
        (
            "net",
            &["nix", "rtnetlink", "tokio", "hdrhistogram"][..],
            &["clap", "anyhow", "flate2", "ruzstd"][..],
        ),
        ("lab", &["nix", "rtnetlink"], &["clap", "anyhow", "flate2", "ruzstd"]),
        ("capture", &["flate2", "ruzstd"], &["clap", "anyhow"]),
        ("control", &["axum", "hyper", "tokio"], &["clap", "anyhow", "flate2", "ruzstd"]),
        ("cli", &["clap", "anyhow", "flate2", "nix"], &["criterion", "proptest"]),
    ] {
        let packages = packages(features);
        for name in brings {
            assert!(packages.contains(*name), "{features} without {name}: {packages:?}");
        }
        for name in does_not_bring {
            assert!(!packages.contains(*name), "{features} brings {name}");
        }
    }
}

/// A feature that is not in the list above is not held to anything.
#[test]
fn every_feature_is_known() {
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let table = manifest.split("[features]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let names: BTreeSet<&str> =
        table.lines().filter_map(|line| line.split_once(" = [")).map(|(name, _)| name).collect();
    assert_eq!(names, ["capture", "cli", "control", "default", "lab", "net"].into());
}
