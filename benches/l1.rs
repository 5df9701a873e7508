//! What a row in L1 costs a request of the feature server, without HTTP and JSON: the key built from the entity's value, the row
//! found, judged fresh, and its values read. The ids are drawn at random, so that rows are as cold as they are to a server.
//!
//! The aim is 2 million rows a second on a core: 500 ns a row.

use std::{hint::black_box, sync::OnceLock};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::time::Instant;
use weir::features::tiered::sample::{Filled, entities};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Entities of the larger request.
const MANY: usize = 100;

fn hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("L1");
    for rows in [1_000_i64, 20_000, 90_000] {
        let (filled, counting) = (Filled::with(rows), Filled::with(rows).counting());
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("a hit", rows), |bench| {
            let now = Instant::now();
            bench.iter(|| filled.hit(random.below(rows), now));
        });
        let requests: Vec<_> = (0..200).map(|_| entities((0..MANY).map(|_| random.below(rows)))).collect();
        let mut turn = requests.iter().cycle();
        group.throughput(Throughput::Elements(MANY as u64));
        group.bench_function(BenchmarkId::new("a lookup of 100", rows), |bench| {
            bench.iter(|| filled.look_up(black_box(turn.next().expect("it never ends")), MANY));
        });
        // With `features.hot_keys`.
        group.bench_function(BenchmarkId::new("a lookup of 100, counted", rows), |bench| {
            bench.iter(|| counting.look_up(black_box(turn.next().expect("it never ends")), MANY));
        });
    }
}

/// With metrics as in a server.
fn measured(criterion: &mut Criterion) {
    static SCRAPE: OnceLock<weir::telemetry::Scrape> = OnceLock::new();
    SCRAPE.get_or_init(|| weir::telemetry::install().expect("it is the first"));
    hits(criterion);
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, most: i64) -> i64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        bits.cast_signed() % most
    }
}

criterion_group!(benches, measured);
criterion_main!(benches);
