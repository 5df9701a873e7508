use std::sync::Arc;

use arrow_array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, TimestampNanosecondArray,
};
use parquet::arrow::ArrowWriter;

use super::*;
use crate::{
    config,
    features::{
        Row,
        lookup::testing::{user, users, view as make_view},
        object::Store,
    },
    infer::{EntityKey, EntityType, EntityValue, FeatureType, Value},
    resilience::breaker::Policy,
};

/// A temporary folder with an input and an output.
struct Case {
    folder: tempfile::TempDir,
    view: View,
    timestamp: &'static str,
    created: Option<&'static str>,
}

impl Case {
    fn new(view: View) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), view, timestamp: "event_timestamp", created: None }
    }

    fn put(&self, name: &str, columns: Vec<(&str, ArrayRef)>) -> &Self {
        let path = self.folder.path().join("in").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap();
        let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        self
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().into()
    }

    async fn build(&self, from: &str) -> anyhow::Result<Summary> {
        let args = BuildArgs {
            view: self.view.name.to_string(),
            from: self.path(from),
            to: self.path("out"),
            timestamp_field: self.timestamp.into(),
            created_field: self.created.map(Into::into),
        };
        super::build_view(&self.view, "shop", &args).await
    }

    async fn problem(&self, from: &str) -> String {
        let error = self.build(from).await.err().expect("it is refused");
        format!("{error:#}").replace(self.folder.path().to_str().unwrap(), "")
    }

    async fn get(&self, key: &EntityKey) -> Option<Row> {
        let url = format!("file://{}", self.path("out"));
        let config = config::L3 { url, timeout: Duration::from_secs(60) };
        let view = Arc::new(self.view.clone());
        Store::open(&config, Policy::default(), "shop", &[view]).await.unwrap().get(&self.view, key).await.unwrap()
    }
}

fn ints(values: impl Into<Vec<Option<i64>>>) -> ArrayRef {
    Arc::new(Int64Array::from(values.into()))
}

fn words(values: impl Into<Vec<Option<&'static str>>>) -> ArrayRef {
    Arc::new(StringArray::from(values.into()))
}

/// Microseconds without a zone.
fn times(values: impl Into<Vec<Option<i64>>>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values.into()))
}

fn row(micros: i64, count: Option<i64>, city: Option<&str>) -> Option<Row> {
    let count = count.map_or(Value::Null, Value::Int64);
    let city = city.map_or(Value::Null, |city| Value::String(city.into()));
    Some(Row::new(Some(micros * 1_000), [Some(count), Some(city)].into()))
}

#[tokio::test]
async fn the_newest_whole_row_wins_with_its_nulls() {
    let case = Case::new(users());
    case.put(
        "a.parquet",
        vec![
            ("extra", ints([Some(0); 5])),
            ("city", words([Some("old"), None, Some("x"), Some("y"), Some("late")])),
            ("event_timestamp", times([Some(10), Some(20), Some(5), Some(5), Some(-7)])),
            ("user_id", ints([Some(1), Some(1), Some(2), Some(2), Some(3)])),
            ("count", ints([Some(1), Some(2), Some(3), Some(4), None])),
            ("created", times([Some(99), Some(1), Some(2), Some(1), None])),
        ],
    );
    let summary = case.build("in/a.parquet").await.unwrap();
    assert_eq!((summary.rows, summary.manifest.rows), (5, 3));
    assert_eq!(
        case.get(&user(1)).await,
        row(20, Some(2), None),
        "a null does not fall back; created does not beat event time"
    );
    assert_eq!(case.get(&user(2)).await, row(5, Some(3), Some("x")), "ties: the greatest created");
    assert_eq!(case.get(&user(3)).await, row(-7, None, Some("late")));
    assert_eq!(case.get(&user(4)).await, None);
    let text = summary.to_string();
    assert!(text.starts_with("5 rows read, 3 entities written, "), "{text}");
    assert!(text.contains("/out/shop/user_stats/manifest.json"), "{text}");
}

#[tokio::test]
async fn times_may_have_other_names() {
    let mut case = Case::new(users());
    (case.timestamp, case.created) = ("at", Some("made"));
    let columns = |made: &[i64]| {
        vec![
            ("user_id", ints([Some(1), Some(1)])),
            ("count", ints([Some(1), Some(2)])),
            ("city", words([None, None])),
            ("at", times([Some(5), Some(5)])),
            ("made", times(made.iter().map(|at| Some(*at)).collect::<Vec<_>>())),
            ("created", times([Some(1), Some(2)])),
        ]
    };
    case.put("a.parquet", columns(&[2, 1])).build("in/a.parquet").await.unwrap();
    assert_eq!(case.get(&user(1)).await, row(5, Some(1), None), "created is not the column named");
    case.created = Some("nowhere");
    let problem = case.problem("in/a.parquet").await;
    assert!(problem.contains(r#"missing "nowhere"; the file has "user_id", "count""#), "{problem}");
}

#[tokio::test]
async fn part_files_and_hive_folders_are_one_input() {
    let view = make_view(
        "visits",
        &[("region", EntityType::String), ("user_id", EntityType::Int64)],
        &[("day", FeatureType::Int64), ("count", FeatureType::Int64)],
    );
    let case = Case::new(view);
    for (folder, id) in
        [("day=7/region=eu%20west", 1), ("day=8/region=007", 2), ("day=__HIVE_DEFAULT_PARTITION__/region=us", 3)]
    {
        let columns = vec![
            ("user_id", ints([Some(id)])),
            ("count", ints([Some(id * 10)])),
            ("event_timestamp", times([Some(id)])),
        ];
        case.put(&format!("{folder}/part-0.parquet"), columns);
    }
    for ignored in ["_SUCCESS", ".hidden/x", "day=7/_tmp/x", "day=7/empty.parquet"] {
        let path = case.folder.path().join("in").join(ignored);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, if ignored.ends_with("parquet") { "" } else { "not parquet" }).unwrap();
    }
    assert_eq!(case.build("in").await.unwrap().manifest.rows, 3);
    let key = |region: &str, id| {
        let region = EntityValue::String(region.into());
        EntityKey::new([("region", &region), ("user_id", &EntityValue::Int64(id))].into_iter())
    };
    for (region, id, day) in [("eu west", 1, Value::Int64(7)), ("007", 2, Value::Int64(8)), ("us", 3, Value::Null)] {
        let found = case.get(&key(region, id)).await.unwrap();
        assert_eq!(*found.values, [Some(day), Some(Value::Int64(id * 10))]);
    }
}

#[tokio::test]
async fn views_without_entities_have_one_row() {
    for entities in [&[][..], &[("__dummy_id", EntityType::String)]] {
        let case = Case::new(make_view("globals", entities, &[("rate", FeatureType::Double)]));
        let rates: ArrayRef = Arc::new(Float64Array::from(vec![0.25, 0.5]));
        case.put("a.parquet", vec![("rate", rates), ("event_timestamp", times([Some(1), Some(2)]))]);
        case.build("in/a.parquet").await.unwrap();
        let key = EntityKey::new([("__dummy_id", &EntityValue::String(String::new()))].into_iter());
        assert_eq!(*case.get(&key).await.unwrap().values, [Some(Value::Double(0.5))]);
    }
}

#[tokio::test]
async fn what_does_not_fit_is_told_with_file_column_and_row() {
    let good = || {
        vec![
            ("user_id", ints([Some(1), Some(2)])),
            ("count", ints([Some(1), Some(2)])),
            ("city", words([None, None])),
            ("event_timestamp", times([Some(5), Some(5)])),
        ]
    };
    let with = |name: &str, array: ArrayRef| {
        let mut columns = good();
        columns.iter_mut().find(|(column, _)| *column == name).unwrap().1 = array;
        columns
    };
    let case = Case::new(users());
    let table = [
        (
            with("user_id", ints([Some(1), None])),
            "/in/a.parquet: column \"user_id\", row 1 (from 0): is null; a join key must be there",
        ),
        (
            with("event_timestamp", times([None, Some(1)])),
            "/in/a.parquet: column \"event_timestamp\", row 0 (from 0): is null; an event time must be there",
        ),
        (
            with("event_timestamp", ints([Some(1), Some(1)])),
            "/in/a.parquet: column \"event_timestamp\": is Int64; allowed: timestamps (without a zone: UTC), dates",
        ),
        (
            with("city", ints([Some(1), Some(1)])),
            "/in/a.parquet: column \"city\": is Int64, declared STRING; allowed: string",
        ),
        (
            with("count", Arc::new(Float64Array::from(vec![1.0, 0.5]))),
            "/in/a.parquet: column \"count\", row 1 (from 0): 0.5 is not a whole number; allowed: whole numbers",
        ),
        (
            good()[..1].to_vec(),
            "/in/a.parquet: missing \"count\", \"city\", \"event_timestamp\"; the file has \"user_id\"; --timestamp-field names the \
             column with the event time",
        ),
    ];
    for (columns, expected) in table {
        assert_eq!(case.put("a.parquet", columns).problem("in/a.parquet").await, expected);
    }
    assert_eq!(case.problem("nowhere").await, "--from: no parquet file at /nowhere");
    std::fs::write(case.folder.path().join("in/a.parquet"), "PAR1 but not really").unwrap();
    let problem = case.problem("in/a.parquet").await;
    assert!(problem.starts_with("/in/a.parquet: not a parquet file that can be read: "), "{problem}");
    assert!(!case.folder.path().join("out").exists(), "nothing was written");
}

#[tokio::test]
async fn a_time_may_be_a_join_key_but_no_null_one() {
    let case = Case::new(make_view("hours", &[("hour", EntityType::UnixTimestamp)], &[("count", FeatureType::Int64)]));
    let columns = |hour| {
        vec![
            ("hour", times([Some(3_600_000_000), hour])),
            ("count", ints([Some(1), Some(2)])),
            ("event_timestamp", times([Some(5), Some(5)])),
        ]
    };
    let problem = case.put("a.parquet", columns(None)).problem("in").await;
    assert!(problem.contains("column \"hour\", row 1 (from 0): is null; a join key must be there"), "{problem}");
    case.put("a.parquet", columns(Some(7_200_000_000))).build("in").await.unwrap();
    let key = EntityKey::new([("hour", &EntityValue::UnixTimestamp(7_200))].into_iter());
    assert_eq!(*case.get(&key).await.unwrap().values, [Some(Value::Int64(2))]);
}

#[tokio::test]
async fn rows_are_counted_over_batches() {
    let case = Case::new(users());
    let ids: Vec<_> = (0..10_000).map(|id| (id != 9_000).then_some(id)).collect();
    let nothing = || words(vec![None; 10_000]);
    let at: ArrayRef = Arc::new(TimestampNanosecondArray::from_value(7_000, 10_000).with_timezone("UTC"));
    let columns =
        vec![("user_id", ints(ids.clone())), ("count", ints(ids)), ("city", nothing()), ("event_timestamp", at)];
    let problem = case.put("a.parquet", columns).problem("in").await;
    assert!(problem.contains("column \"user_id\", row 9000"), "{problem}");
}

/// More rows than fit the partitions' buffers: the same as a map of the newest.
#[tokio::test]
async fn rows_that_overflow_to_disk_are_all_there() {
    const ROWS: i64 = 60_000;
    let case = Case::new(users());
    let city: &'static str = "x".repeat(900).leak();
    for part in 0..2 {
        let ids = || (0..ROWS).map(Some).collect::<Vec<_>>();
        let columns = vec![
            ("user_id", ints(ids())),
            ("count", ints(ids().into_iter().map(|id| id.map(|id| id + part)).collect::<Vec<_>>())),
            ("city", words(vec![Some(city); ROWS as usize])),
            (
                "event_timestamp",
                times(ids().into_iter().map(|id| id.map(|id| if id % 2 == part { 2 } else { 1 })).collect::<Vec<_>>()),
            ),
        ];
        case.put(&format!("part-{part}.parquet"), columns);
    }
    let summary = case.build("in").await.unwrap();
    assert_eq!((summary.rows, summary.manifest.rows), (2 * ROWS as u64, ROWS as u64));
    for id in (0..ROWS).step_by(1_777) {
        assert_eq!(case.get(&user(id)).await, row(2, Some(id + id % 2), Some(city)));
    }
}

#[test]
fn an_unknown_view_is_told_with_those_there_are() {
    let known = [Arc::new(users())];
    let error = super::find_view(&known, "user_stat").unwrap_err().to_string();
    assert_eq!(error, "--view: unknown view \"user_stat\"; the configuration has user_stats");
}

#[test]
fn arguments_have_the_names_that_are_documented() {
    use clap::{Args, FromArgMatches};
    let command = BuildArgs::augment_args(clap::Command::new("build"));
    let given = command.try_get_matches_from(["build", "--view", "v", "--from", "f", "--to", "t"]).unwrap();
    let args = BuildArgs::from_arg_matches(&given).unwrap();
    assert_eq!((args.timestamp_field.as_str(), args.created_field), ("event_timestamp", None));
}
