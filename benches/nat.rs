//! A translator's lookup and rewrite, at one session and at 100,000, out and in.
//!
//! Every packet is of another session than the one before it, so that at 100,000 the table comes from memory. The time of
//! writing the headers, which is the bench's own, stands beside.

#![expect(clippy::unwrap_used, reason = "constants")]

#[path = "work/translator.rs"]
mod translator;

use criterion::{Criterion, criterion_group, criterion_main};

use crate::translator::{HOSTS, PORTS, Sessions};

fn translate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nat");
    // An odd step visits all, far apart.
    for (count, step, order) in [
        (1, 1, "one session"),
        (HOSTS * PORTS, 1, "100,000 in turn"),
        (HOSTS * PORTS, 38_629, "100,000 at random"),
    ] {
        let mut sessions = Sessions::new(count, step);
        let mut row = |what: &str, one: fn(&mut Sessions)| {
            group.bench_function(format!("{order}, {what}"), |bencher| bencher.iter(|| one(&mut sessions)));
        };
        row("headers alone", Sessions::headers);
        row("out", Sessions::out);
        row("in", Sessions::back);
        row("in, and its route before", Sessions::routed);
    }
    group.finish();
}

criterion_group!(benches, translate);
criterion_main!(benches);
