//! Deliveries as MLflow signed them, and looks at what its registry has.

use std::{future::Future, pin::pin};

use super::*;
use crate::{
    app::Tasks,
    config::{MlflowAccess, MlflowServer, PredictionCache, Secret},
    fixture,
    telemetry::scratch,
};

/// What MLflow 3.17.2 sent while a model was registered, promoted, demoted, tagged, and its webhook tested: id, timestamp, signature, body.
const DELIVERIES: [(&str, &str, &str, &str); 6] = [
    (
        "f93fe4d0-e557-48cb-93b3-381a3725bd11",
        "1795417187",
        "v1,Kgwd3iFqU0FfQC2XrsUI3M0gvSHp0C9b8LgncxAI8jY=",
        r#"{"entity": "registered_model", "action": "created", "timestamp": "2026-11-23T06:59:47.170437+00:00", "data": {"name": "fraud", "tags": {"team": "risk"}, "description": "d"}}"#,
    ),
    (
        "b2ece5e6-b4fd-4ac4-8cfb-a8d26cb63985",
        "1795417191",
        "v1,4zthrvKvoOOu/FLhL6vVQbFhwG5RLu6zw3O0D8zNMnw=",
        r#"{"entity": "model_version", "action": "created", "timestamp": "2026-11-23T06:59:51.319955+00:00", "data": {"name": "fraud", "version": "2", "source": "s3://models/fraud/2", "run_id": null, "tags": {"k": "v"}, "description": null}}"#,
    ),
    (
        "68bde9fc-e42c-4312-a0b6-252f5b0532bc",
        "1795417195",
        "v1,tGn33GWQ9vKOsC+6dhhQ2qlydwZ6cDAjSWx+4nZfbYE=",
        r#"{"entity": "model_version_alias", "action": "created", "timestamp": "2026-11-23T06:59:55.356219+00:00", "data": {"name": "fraud", "alias": "champion", "version": "2"}}"#,
    ),
    (
        "267680e7-ba4a-4e5f-8387-dbf96e596a54",
        "1795417199",
        "v1,nsVWbAeT2Ai2RLL+WpD87w/nFAp9UvmNGvSR4Htfln4=",
        r#"{"entity": "model_version_alias", "action": "deleted", "timestamp": "2026-11-23T06:59:59.590760+00:00", "data": {"name": "fraud", "alias": "champion"}}"#,
    ),
    (
        "41fddc85-8812-41d3-9135-e543e2a564ae",
        "1795417203",
        "v1,zgGKA44Ds+jZTP2y3sHvk5AxhR1OSSMYHEJVcu+blNI=",
        r#"{"entity": "model_version_tag", "action": "deleted", "timestamp": "2026-11-23T07:00:03.627461+00:00", "data": {"name": "fraud", "version": "2", "key": "validation"}}"#,
    ),
    (
        "14fb55d4-5a9a-426f-9b4d-fe6bc0b67f66",
        "1795417219",
        "v1,ijT9D6GNteqLth7QbC6K+hpVou+HWGea67J641g+aBo=",
        r#"{"entity": "model_version_alias", "action": "created", "timestamp": "2026-11-23T07:00:19.722031+00:00", "data": {"name": "example_model", "alias": "example_alias", "version": "1"}}"#,
    ),
];
const SECRET: &str = "weir-test-secret-1";
/// Which of them are what.
const PROMOTED: usize = 2;
const DEMOTED: usize = 3;
const TESTED: usize = 5;

const FRAUD: ModelId = ModelId(0);
const LITE: ModelId = ModelId(1);

/// A gateway whose `fraud` has a cache, and `lite` none; both are registered as `fraud`.
fn promotions(change: impl FnOnce(&mut Mlflow)) -> Promotions {
    let mut config = fixture::config();
    config.models.iter_mut().for_each(|model| model.registered = "fraud".into());
    config.models[FRAUD.index()].cache = Some(PredictionCache {
        ttl: Duration::from_secs(30),
        keep_for: Duration::from_secs(3600),
        entity: None,
        headers: Vec::new(),
    });
    let mut mlflow = Mlflow {
        secret: Some(Secret(SECRET.into())),
        tolerance: Duration::from_secs(300),
        server: None,
        aliases: None,
    };
    change(&mut mlflow);
    config.mlflow = Some(mlflow);
    scratch(|| {
        let predictions = Predictions::new(&config, Tasks::default(), Instant::now()).unwrap();
        Promotions::new(&config, Arc::new(predictions))
    })
    .0
}

fn delivery(number: usize) -> Delivery<'static> {
    let (id, timestamp, signature, body) = DELIVERIES[number];
    Delivery { id, timestamp, signature, body: body.as_bytes() }
}

fn wall(delivery: &Delivery<'_>) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(delivery.timestamp.parse().unwrap())
}

fn hear(promotions: &Promotions, number: usize) -> Result<Heard, Refused> {
    let delivery = delivery(number);
    promotions.deliver(delivery, wall(&delivery))
}

impl Promotions {
    fn era(&self) -> u64 {
        self.predictions.era(FRAUD)
    }

    fn found(&self, aliases: &[(&str, &str)]) -> bool {
        self.looked("fraud", aliases.iter().map(|(a, v)| ((*a).to_owned(), (*v).to_owned())).collect())
    }
}

#[test]
fn what_mlflow_signed_is_heard_and_only_promotions_drop() {
    let promotions = promotions(|_| {});
    for number in 0..DELIVERIES.len() {
        let before = promotions.era();
        let heard = hear(&promotions, number).unwrap();
        let promotes = number == PROMOTED || number == DEMOTED;
        let expected = Heard::Promoted {
            registered: "fraud".into(),
            dropped: vec!["fraud".into()],
            not_kept: vec!["lite".into()],
        };
        assert_eq!(heard == expected, promotes, "{number}: {heard:?}");
        assert_eq!(promotions.era() != before, promotes, "{number}");
    }
    assert_eq!(promotions.predictions.era(LITE), 0, "nothing is kept of it");
}

#[test]
fn a_delivery_counts_once_and_a_test_not_at_all() {
    let promotions = promotions(|_| {});
    hear(&promotions, PROMOTED).unwrap();
    let era = promotions.era();
    assert_eq!(hear(&promotions, PROMOTED), Ok(Heard::Duplicate));
    assert_eq!(hear(&promotions, TESTED), Ok(Heard::Ignored("a test: nothing is dropped".into())));
    assert_eq!(promotions.era(), era);
}

#[test]
fn whatever_is_changed_on_the_way_is_refused_and_not_remembered() {
    let promotions = promotions(|_| {});
    let good = delivery(PROMOTED);
    let other = String::from_utf8(good.body.to_vec()).unwrap().replace("\"2\"", "\"3\"");
    let near = &good.signature[..good.signature.len() - 2];
    for (what, forged) in [
        ("body", Delivery { body: other.as_bytes(), ..good }),
        ("id", Delivery { id: "00000000-e42c-4312-a0b6-252f5b0532bc", ..good }),
        ("time", Delivery { timestamp: "1795417196", ..good }),
        ("no signature", Delivery { signature: "", ..good }),
        ("no version", Delivery { signature: &good.signature[3..], ..good }),
        ("a shorter one", Delivery { signature: near, ..good }),
        ("of another", Delivery { signature: DELIVERIES[DEMOTED].2, ..good }),
    ] {
        assert_eq!(promotions.deliver(forged, wall(&good)), Err(Refused::Unsigned), "{what}");
    }
    assert_eq!(promotions.era(), 0);
    let both = format!("v1,AAAA {} v2,x", good.signature);
    let replaced = Delivery { signature: &both, ..good };
    assert!(matches!(promotions.deliver(replaced, wall(&good)), Ok(Heard::Promoted { .. })), "one of two secrets'");
}

#[test]
fn a_delivery_of_another_time_is_refused() {
    let promotions = promotions(|_| {});
    let (good, second) = (delivery(PROMOTED), Duration::from_secs(1));
    let late = Err(Refused::Late(300 * second));
    assert_eq!(promotions.deliver(good, wall(&good) + 301 * second), late);
    assert_eq!(promotions.deliver(good, wall(&good) - 301 * second), late);
    assert_eq!(promotions.deliver(good, UNIX_EPOCH), late);
    assert!(promotions.deliver(good, wall(&good) + 300 * second).is_ok());
}

#[test]
fn what_is_signed_and_no_delivery_is_malformed() {
    let promotions = promotions(|_| {});
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = aws_lc_rs::hmac::sign(&key, b"a.7.[]");
    let signature = format!("v1,{}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, tag));
    let odd = Delivery { id: "a", timestamp: "7", signature: &signature, body: b"[]" };
    assert!(matches!(promotions.deliver(odd, wall(&odd)), Err(Refused::Malformed(_))));
}

#[test]
fn without_a_secret_nobody_can_tell_anything() {
    let promotions = promotions(|mlflow| mlflow.secret = None);
    assert_eq!(hear(&promotions, PROMOTED), Err(Refused::Unconfigured));
}

#[test]
fn other_aliases_and_models_are_passed_over() {
    let promotions = promotions(|mlflow| mlflow.aliases = Some(vec!["production".into()]));
    let other = "alias \"champion\" is not one of mlflow.aliases";
    assert_eq!(hear(&promotions, PROMOTED), Ok(Heard::Ignored(other.into())));
    assert!(!promotions.found(&[("champion", "1")]) && !promotions.found(&[("champion", "2")]));
    assert!(promotions.found(&[("production", "1")]));
    let mut unknown = self::promotions(|_| {});
    unknown.models.clear();
    let Ok(Heard::Ignored(why)) = hear(&unknown, PROMOTED) else { panic!("heard") };
    assert!(why.starts_with("no model here is registered as \"fraud\""), "{why}");
}

#[test]
fn looking_finds_what_no_delivery_told() {
    let promotions = promotions(|_| {});
    assert!(!promotions.found(&[("champion", "1")]), "the first look learns");
    assert_eq!(promotions.era(), 0);
    assert!(promotions.found(&[("champion", "2")]));
    let second = promotions.era();
    assert_ne!(second, 0);
    assert!(!promotions.found(&[("champion", "2")]));
    assert_eq!(promotions.era(), second);
    assert!(promotions.found(&[]), "deleted");
    assert_ne!(promotions.era(), second);
}

#[test]
fn what_a_delivery_told_is_not_found_again() {
    let promotions = promotions(|_| {});
    promotions.found(&[("champion", "1")]);
    hear(&promotions, PROMOTED).unwrap();
    let era = promotions.era();
    assert!(!promotions.found(&[("champion", "2")]));
    assert_eq!(promotions.era(), era);
}

#[test]
fn a_promotion_begins_one_era_however_many_gateways_find_it() {
    let [told, looks, late] = std::array::from_fn(|_| promotions(|_| {}));
    for gateway in [&told, &looks, &late] {
        gateway.found(&[("champion", "1")]);
    }
    hear(&told, PROMOTED).unwrap();
    // Before it hears of the other's era it comes to the same one.
    assert!(looks.found(&[("champion", "2")]));
    assert_eq!(looks.era(), told.era());
    // Another has heard of it already, as gateways do through Redis.
    late.predictions.drop_because(FRAUD, "fraud@champion=2");
    assert_eq!(late.era(), told.era());
    assert!(late.found(&[("champion", "2")]));
    assert_eq!(late.era(), told.era(), "not dropped once more");
    // But where something else happened meanwhile, it is.
    late.predictions.drop_model(FRAUD);
    let operators = late.era();
    assert!(late.found(&[("champion", "3")]));
    assert_ne!(late.era(), operators);
}

/// A registry that is away is waited for, and what changed meanwhile is found: over real sockets, as MLflow would answer.
#[tokio::test]
async fn a_registry_that_fails_is_asked_again() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let promotions = promotions(|mlflow| {
        mlflow.server = Some(MlflowServer {
            url: format!("http://{}/base", listener.local_addr().unwrap()).into(),
            access: MlflowAccess::Bearer(Secret("t0ken".into())),
            every: Duration::from_millis(1),
            timeout: Duration::from_secs(60),
        });
    });
    let model = |version: u32| {
        (
            200,
            format!(
                r#"{{"registered_model": {{"name": "fraud", "aliases": [{{"alias": "champion", "version": "{version}"}}]}}}}"#
            ),
        )
    };
    let answers = [
        model(1),
        (503, String::new()),
        (404, "not here".into()),
        (200, "<html>".into()),
        model(1),
        model(2),
        (404, r#"{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "x"}"#.into()),
    ];
    let mut eras = Vec::new();
    let mut reconciling = pin!(promotions.reconcile());
    for (status, body) in answers {
        let answered = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(socket.read_u8().await.unwrap());
            }
            let asked = String::from_utf8(asked).unwrap();
            assert!(
                asked.starts_with("GET /base/api/2.0/mlflow/registered-models/get?name=fraud HTTP/1.1\r\n"),
                "{asked}"
            );
            assert!(asked.contains("authorization: Bearer t0ken\r\n"), "{asked}");
            let answer =
                format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            socket.write_all(answer.as_bytes()).await.unwrap();
        };
        beside(&mut reconciling, answered).await;
        eras.push(promotions.era());
    }
    // What the last answer said is taken when the next is asked for.
    let asked_again = async { drop(listener.accept().await.unwrap()) };
    beside(&mut reconciling, asked_again).await;
    eras.push(promotions.era());
    assert!(eras[..6].iter().all(|era| *era == 0), "failures and the same again change nothing: {eras:?}");
    assert!(eras[6] != 0 && eras[7] != eras[6], "promoted, and then deleted: {eras:?}");
}

async fn beside<T>(work: &mut (impl Future<Output = ()> + Unpin), awaited: impl Future<Output = T>) -> T {
    tokio::select! {
        () = work => panic!("it ended"),
        done = awaited => done,
    }
}
