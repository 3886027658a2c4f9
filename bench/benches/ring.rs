//! The ring beside what people use instead, under the workloads of `twinlane-bench-cores`.
//!
//! Every workload checks what it handed over. For ratios run `twinlane-bench-cores p8`: it interleaves the
//! rivals, criterion measures one after the other.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use twinlane_bench_cores::BATCH;
use twinlane_bench_cores::contenders::contenders;
use twinlane_bench_cores::hand_over::Load;

/// Everything that can carry the shape, with a call for each frame and with a call for many.
fn hand_overs<const N: usize>(c: &mut Criterion, shapes: &[(usize, usize)]) {
    for &(producers, consumers) in shapes {
        let mut group = c.benchmark_group(format!("ring/{producers} to {consumers}, {N} B"));
        for batch in [1, BATCH] {
            for contender in contenders::<N>() {
                let load = |messages| Load { messages, producers, consumers, batch };
                if contender.can(&load(1)) {
                    group.bench_function(BenchmarkId::new(contender.name, batch), |bencher| {
                        bencher.iter_custom(|messages| (contender.hand_over)(&load(messages)).elapsed);
                    });
                }
            }
        }
    }
}

fn alone<const N: usize>(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("ring/alone, {N} B"));
    for contender in contenders::<N>() {
        for batch in [1, BATCH].into_iter().filter(|&batch| batch == 1 || contender.takes_batches) {
            group.bench_function(BenchmarkId::new(contender.name, batch), |bencher| {
                bencher.iter_custom(|messages| (contender.alone)(messages, batch));
            });
        }
    }
}

fn appends(c: &mut Criterion) {
    alone::<64>(c);
    alone::<256>(c);
    alone::<1024>(c);
}

fn deliveries(c: &mut Criterion) {
    hand_overs::<8>(c, &[(1, 1)]);
    hand_overs::<64>(c, &[(1, 1), (2, 1), (4, 1), (1, 4), (1, 16)]);
    hand_overs::<256>(c, &[(1, 1)]);
    hand_overs::<1024>(c, &[(1, 1)]);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    targets = appends, deliveries
}
criterion_main!(benches);
