//! Each stage by itself: time for one wire packet through a router whose path has this one stage, against none.

#![expect(clippy::unwrap_used, reason = "constants")]

#[path = "work/stage.rs"]
mod stage;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use faultwire::config;
use faultwire::pipeline::impair::TYPES;
use faultwire::pipeline::params::{PathParams, StageParams};
use stage::{STAGES, Single, parsed};

/// Name and stage of each type that [`STAGES`] lacks, as the reference shows it first; a translator has rows of its own.
fn others() -> Vec<(String, StageParams)> {
    let reference = config::load("configs/reference.toml".as_ref()).unwrap_or_else(|error| panic!("{error}"));
    let shown: Vec<&StageParams> = reference.paths.iter().flat_map(PathParams::stages).collect();
    let is_there = |kind: &str| STAGES.iter().any(|(_, text)| text.contains(&format!("type = \"{kind}\"")));
    let lacking = TYPES.iter().filter(|kind| !is_there(kind));
    let first = |kind: &&str| {
        let stage = shown.iter().find(|stage| stage.name == *kind);
        let stage = stage.unwrap_or_else(|| panic!("the reference has no stage that is named {kind}"));
        (kind.to_string(), StageParams::clone(stage))
    };
    lacking.map(first).collect()
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stage");
    group.throughput(Throughput::Elements(1));
    for (name, text) in STAGES {
        let mut single = Single::new(parsed(text));
        group.bench_function(name, |bencher| bencher.iter(|| single.one()));
    }
    for (name, params) in others() {
        let mut single = Single::new(vec![params]);
        group.bench_function(name, |bencher| bencher.iter(|| single.one()));
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
