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

fn matrix(criterion: &mut Criterion) {
    let sample = Sample::ten_columns();
    let body = Bytes::from_static(BODY);
    criterion.bench_function("v2 json, 1 row, matrix of 10: decode", |bench| {
        bench.iter(|| decode(Protocol::V2Json, black_box(body.clone()), None));
    });
    criterion.bench_function("v2 json, 1 row, matrix of 10: decode, entities, enrich", |bench| {
        bench.iter(|| {
            let decoded = decode(Protocol::V2Json, black_box(body.clone()), None).expect("a valid body");
            black_box(decoded.rows(&["user_id", "amount"]).expect("equal rows"));
            black_box(decoded.entities("user_id", EntityType::Int64).expect("an integer"));
            sample.body(Protocol::V2Json, decoded).expect("finite values")
        });
    });
}

criterion_group!(benches, matrix);
criterion_main!(benches);
