//! Each stage by itself: time for one wire packet through a router whose path has this one stage, against none.

#![expect(clippy::unwrap_used, reason = "constants")]

#[path = "work/stage.rs"]
mod stage;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stage");
    group.throughput(Throughput::Elements(1));
    for (name, text) in stage::STAGES {
        let mut single = stage::Single::new(text);
        group.bench_function(name, |bencher| bencher.iter(|| single.one()));
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
