//! The report's workloads, under criterion: to look into one, or to compare two versions.

use criterion::{Criterion, criterion_group, criterion_main};
use rivals::workload::{
    Body, Contestant, Owner, Place, checkout, churn, create_and_close, exclusive, post, round_trip,
    shared,
};

fn group(c: &mut Criterion, name: &str, contestants: Vec<Contestant>) {
    let mut group = c.benchmark_group(name);
    for contestant in contestants {
        group.bench_function(contestant.name, |b| b.iter_custom(|times| contestant.run(times)));
    }
    group.finish();
}

fn workloads(c: &mut Criterion) {
    group(c, "exclusive, black box", exclusive(Body::Opaque));
    group(c, "exclusive, plain", exclusive(Body::Plain));
    group(c, "exclusive, called", exclusive(Body::Called));
    group(c, "shared", shared());
    group(c, "one thread", checkout(1));
    group(c, "two threads", checkout(2));
    group(c, "short threads", churn());
    group(c, "post, one producer", post(1));
    group(c, "post, two producers", post(2));
    for (name, place) in [("apart", Place::Apart), ("together", Place::Together)] {
        group(c, &format!("round trip, awake, {name}"), round_trip(Owner::Awake, place));
        group(c, &format!("round trip, asleep, {name}"), round_trip(Owner::Asleep, place));
    }
    c.bench_function("create and close", |b| b.iter_custom(create_and_close));
}

criterion_group!(benches, workloads);
criterion_main!(benches);
