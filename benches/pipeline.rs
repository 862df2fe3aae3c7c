//! The packet core alone, one core, no device: time per wire packet through a whole router.
//!
//! `single`: one wire packet at a time through five stages. `train`: a 44-segment TCP train through the same stages, with
//! and without a decision inside it. criterion's `thrpt` line counts wire packets.

#![expect(clippy::unwrap_used, reason = "constants")]

#[path = "work/packets.rs"]
mod packets;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    for row in packets::rows() {
        let mut feed = row.feed();
        group.throughput(Throughput::Elements(row.wires));
        (0..1000).for_each(|_| feed.one());
        assert!(feed.sink.wires > 0, "{}: nothing came through", row.name);
        group.bench_function(row.name, |bencher| bencher.iter(|| feed.one()));
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
