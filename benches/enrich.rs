//! What a joined request costs: a body in, the model's body out, without any I/O.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use weir::{
    enrich::sample::Sample,
    infer::{EntityType, Protocol},
    ingress::decode::decode,
};

const BODY: &[u8] = br#"{"id":"7f3c","inputs":[{"name":"user_id","shape":[1],"datatype":"INT64","data":[1001]},{"name":"amount","shape":[1],"datatype":"FP32","data":[129.95]}],"outputs":[{"name":"score"}]}"#;

const INSTANCES: &[u8] = br#"{"instances":[{"user_id":1001,"amount":129.95}]}"#;

fn matrix(criterion: &mut Criterion) {
    let sample = Sample::ten_columns();
    let body = Bytes::from_static(BODY);
    criterion.bench_function("v2 json, 1 row, matrix of 10: decode", |bench| {
        bench.iter(|| decode(Protocol::V2Json, black_box(body.clone()), None));
    });
    for (name, protocol, body) in
        [("v2 json", Protocol::V2Json, body), ("v1", Protocol::V1, Bytes::from_static(INSTANCES))]
    {
        criterion.bench_function(&format!("{name}, 1 row, matrix of 10: decode, entities, enrich"), |bench| {
            bench.iter(|| {
                let decoded = decode(protocol, black_box(body.clone()), None).expect("a valid body");
                black_box(decoded.rows(&["user_id", "amount"]).expect("equal rows"));
                black_box(decoded.entities("user_id", EntityType::Int64).expect("an integer"));
                sample.body(protocol, decoded).expect("finite values")
            });
        });
    }
}

criterion_group!(benches, matrix);
criterion_main!(benches);
