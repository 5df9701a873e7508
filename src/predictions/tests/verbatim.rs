//! The very same bytes: answered before the request is on its path.

use super::*;

/// What makes one request another as it comes, also to nobody but who strips its headers.
const REQUEST: (&str, &str, &[(&str, &str)], Option<usize>) =
    ("/v2/models/lite/infer", r#"{"id":"a","x":1}"#, &[], None);

fn came(
    bench: &Bench,
    model: ModelId,
    (path, body, headers, json_length): (&str, &str, &[(&str, &str)], Option<usize>),
) -> Option<Verbatim> {
    let name = |name: &str| name.parse::<http::HeaderName>().unwrap();
    let headers = headers.iter().map(|(of, value)| (name(of), value.parse().unwrap())).collect();
    let protocol = if json_length.is_some() { Protocol::V2Binary } else { Protocol::V2Json };
    bench.predictions.verbatim(&RawRequest {
        model,
        protocol,
        path,
        headers: &headers,
        json_length,
        body: body.as_bytes(),
    })
}

/// Puts the answer to that request to its front, as the pipeline does.
async fn told_twice(bench: &Bench) -> Verbatim {
    let came = came(bench, LITE, REQUEST).unwrap();
    let asked = || bench.question(InferRequest { as_came: Some(came.kept()), ..json(LITE, REQUEST.1) }, None);
    bench.keep(&asked(), answer(r#"{"id":"a","outputs":[],"y":1}"#));
    assert!(bench.predictions.told_before(LITE, &came, Instant::now()).is_none(), "what was asked once takes no room");
    assert_eq!(bench.look(&asked()).unwrap(), r#"{"id":"a","outputs":[],"y":1}"#);
    came
}

#[tokio::test(start_paused = true)]
async fn the_same_bytes_get_the_same_answer_at_once_and_others_never() {
    let bench = Bench::new();
    let same = told_twice(&bench).await;
    assert_eq!(
        bench.predictions.told_before(LITE, &same, Instant::now()).unwrap().body,
        r#"{"id":"a","outputs":[],"y":1}"#
    );
    let (path, body, _, _) = REQUEST;
    let auth = ("authorization", "x");
    for other in [
        ("/v2/models/lite/infer?q", body, &[][..], None),
        (path, r#"{"id":"b","x":1}"#, &[], None),
        (path, r#"{"id":"a","x":1} "#, &[], None),
        (path, body, &[("accept", "a/b")], None),
        (path, body, &[("x-tenant", "t")], None),
        (path, body, &[auth], None),
        (path, body, &[("connection", "authorization"), auth], None),
        (path, body, &[("connection", "close")], None),
        (path, body, &[], Some(16)),
    ] {
        let other_came = came(&bench, LITE, other).unwrap();
        assert!(bench.predictions.told_before(LITE, &other_came, Instant::now()).is_none(), "{other:?}");
    }
    // Nor what says less of who asks.
    let named = came(&bench, LITE, (path, body, &[("connection", "authorization"), auth], None)).unwrap();
    assert_ne!(format!("{named:?}"), format!("{:?}", came(&bench, LITE, (path, body, &[auth], None)).unwrap()));
    assert!(came(&bench, LITE, (path, &"x".repeat(20_000), &[], None)).is_none(), "too long");
    assert!(came(&bench, FRAUD, REQUEST).is_none(), "what it is sent depends on features");
}

#[tokio::test(start_paused = true)]
async fn what_no_cache_renewed_is_told_to_the_same_bytes_too() {
    let bench = Bench::new();
    let came = told_twice(&bench).await;
    advance(Duration::from_secs(1)).await;
    let bypass = InferRequest { caching: Caching::Bypassed, ..json(LITE, REQUEST.1) };
    bench.keep(&bench.question(bypass, None), answer(r#"{"id":"a","outputs":[],"y":2}"#));
    assert!(bench.predictions.told_before(LITE, &came, Instant::now()).is_none());
    let again = bench.question(InferRequest { as_came: Some(came.kept()), ..json(LITE, REQUEST.1) }, None);
    assert_eq!(bench.look(&again).unwrap(), r#"{"id":"a","outputs":[],"y":2}"#);
    assert_eq!(
        bench.predictions.told_before(LITE, &came, Instant::now()).unwrap().body,
        r#"{"id":"a","outputs":[],"y":2}"#
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_known_by_its_bytes_lasts_no_longer_than_its_prediction() {
    let bench = Bench::new();
    let came = told_twice(&bench).await;
    bench.predictions.drop_model(LITE);
    assert!(bench.predictions.told_before(LITE, &came, Instant::now()).is_none(), "a promotion ends it");
    let came = told_twice(&bench).await;
    advance(Duration::from_secs(29)).await;
    assert!(bench.predictions.told_before(LITE, &came, Instant::now()).is_some());
    advance(Duration::from_secs(1)).await;
    assert!(bench.predictions.told_before(LITE, &came, Instant::now()).is_none(), "its ttl does");
    advance(Duration::from_secs(60)).await;
    bench.predictions.maintain(Instant::now());
    assert_eq!(bench.predictions.front.bytes(), 0, "and it leaves");
}
