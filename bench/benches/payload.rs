//! What the benchmark itself costs per message: making a payload that proves itself, and checking it.
//!
//! At 64 B each must stay below 10 ns, or `twinlane bench` would measure itself.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use twinlane_bench::payload::{Stamp, check, fill};

const SIZES: [usize; 3] = [64, 1_024, 16_384];

fn stamp(seq: u64) -> Stamp {
    Stamp { publisher: 1, seq, due_ns: 123 }
}

fn make(c: &mut Criterion) {
    let mut group = c.benchmark_group("payload_fill");
    for payload_bytes in SIZES {
        let mut payload = vec![0; payload_bytes];
        group.throughput(Throughput::Bytes(payload_bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(payload_bytes), |b| {
            let mut seq = 0;
            b.iter(|| {
                seq += 1;
                fill(stamp(seq), &mut payload);
                black_box(&payload);
            });
            assert_eq!(check(&payload, payload_bytes), Ok(stamp(seq)));
        });
    }
    group.finish();
}

fn prove(c: &mut Criterion) {
    let mut group = c.benchmark_group("payload_check");
    for payload_bytes in SIZES {
        let mut payload = vec![0; payload_bytes];
        fill(stamp(9), &mut payload);
        group.throughput(Throughput::Bytes(payload_bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(payload_bytes), |b| {
            b.iter(|| assert_eq!(check(black_box(&payload), payload_bytes), Ok(stamp(9))));
        });
    }
    group.finish();
}

criterion_group!(payload, make, prove);
criterion_main!(payload);
