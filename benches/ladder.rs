//! What the ladder's decisions cost a request: its plan, and what becomes of an answer or of a failure.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use weir::ladder::sample::{Sample, Stands};

fn decisions(criterion: &mut Criterion) {
    for (name, stands) in [("level 0", Stands::Full), ("level 2", Stands::Lower)] {
        let sample = Sample::new(stands);
        criterion.bench_function(&format!("ladder, {name}: plan, settle an answer"), |bench| {
            bench.iter_batched(Sample::answer, |answer| sample.settled(black_box(answer)), BatchSize::SmallInput);
        });
        criterion.bench_function(&format!("ladder, {name}: plan, settle a failure and what follows"), |bench| {
            bench.iter(|| sample.descended());
        });
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
