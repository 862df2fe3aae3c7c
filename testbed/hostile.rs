//! The fuzz targets without a fuzzer: every seed, and as many random changes of seeds as `FAULTWIRE_FUZZ` says for each
//! target. The same changes on every run, so that a failure can be repeated.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a crate of its own for the fuzzer")]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Changed seeds for each target, unless the environment says otherwise.
const EXECUTIONS: u64 = 2_000;
/// An input does not grow beyond this, as a fuzzer's do not.
const LONGEST: usize = 16_384;

/// The `SplitMix64` generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// A seed with one to eight changes.
fn changed(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(64)).min(bytes.len());
        match random.below(9) {
            0 => bytes.insert(at, random.next() as u8),
            1 => drop(bytes.drain(at.min(end)..end)),
            2 => bytes.truncate(at),
            3 => {
                let copy = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => {
                // A part of another seed.
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let part = other[from..(from + 64).min(other.len())].to_vec();
                bytes.splice(at..end.max(at), part);
            }
            5 => {
                let extreme = [0, 1, 0x7f, 0x80, 0xff, b'0', b'9', b'-', b'"', b'\n'];
                let value = extreme[random.below(extreme.len())];
                bytes[at.min(end)..end].fill(value);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// Folders of seeds: those of the target, and what the project has of the kind.
fn folders(target: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let more: &[&str] = match target {
        "config" => &["configs"],
        "case" => &["configs/cases", "configs/examples"],
        "tables" => &["configs/traces"],
        _ => &[],
    };
    let own = root.join("testbed/fuzz/seeds").join(target);
    std::iter::once(own).chain(more.iter().map(|folder| root.join(folder))).collect()
}

/// All seeds of a target, in the order of their names.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    for folder in folders(target) {
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        paths.extend(entries.filter(|path| path.is_file()));
    }
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no seeds");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn executions() -> u64 {
    let told = std::env::var("FAULTWIRE_FUZZ");
    told.map_or(EXECUTIONS, |count| count.parse().expect("FAULTWIRE_FUZZ is a number of executions"))
}

fn attack(target: &str) {
    let seeds = seeds(target);
    let mut random = Random(7);
    let count = executions();
    let inputs = seeds.iter().cloned().chain((0..count).map(|_| changed(&seeds, &mut random)));
    for bytes in inputs {
        if catch_unwind(AssertUnwindSafe(|| targets::run(target, &bytes))).is_err() {
            let file = std::env::temp_dir().join(format!("faultwire-{target}-{}", std::process::id()));
            fs::write(&file, &bytes).unwrap();
            panic!(
                "{target} fails for the {} bytes that are now in {}: make them a seed",
                bytes.len(),
                file.display()
            );
        }
    }
}

#[test]
fn router() {
    attack("router");
}

#[test]
fn capture() {
    attack("capture");
}

#[test]
fn config() {
    attack("config");
}

#[test]
fn spec() {
    attack("spec");
}

#[test]
fn case() {
    attack("case");
}

#[test]
fn tables() {
    attack("tables");
}
