//! What a rule's answer costs: a decoded request in, the filled output out.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use weir::{enrich::sample::RuleSample, infer::Protocol, ingress::decode::decode};

/// A V2 request of so many amounts.
fn body(rows: usize) -> Bytes {
    let amounts: Vec<String> = (0..rows).map(|row| format!("{row}.5")).collect();
    let data = amounts.join(",");
    format!(r#"{{"inputs":[{{"name":"amount","datatype":"FP32","shape":[{rows}],"data":[{data}]}}]}}"#).into()
}

fn rules(criterion: &mut Criterion) {
    for rows in [1, 1000] {
        let decoded = decode(Protocol::V2Json, body(rows), None).expect("a valid body");
        for (name, rule) in [
            ("one comparison", "amount > 1000.0 ? 0.9 : 0.1"),
            ("two names", "amount > 1000.0 && user_stats.txns < 3 ? 0.9 : amount / 2000.0"),
        ] {
            let sample = RuleSample::new(rule, rows).expect("a valid rule");
            criterion.bench_function(&format!("rule, {name}, {rows} rows"), |bench| {
                bench.iter(|| sample.fill(black_box(&decoded)).expect("a result a row"));
            });
        }
    }
}

criterion_group!(benches, rules);
criterion_main!(benches);
