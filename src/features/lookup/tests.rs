use std::sync::{Arc, atomic::Ordering::SeqCst};

use bytes::Bytes;
use object_store::ObjectStoreExt;
use proptest::prelude::*;

use super::{
    file::{self, DataFile},
    format::{self, Layout},
    manifest::{self, Manifest},
    testing::{Watched, user, user_row, users, view, write_users},
    *,
};
use crate::{
    features::Row,
    infer::{EntityKey, EntityType, FeatureType, Value},
};

fn open(location: &Location, manifest: Manifest) -> DataFile {
    let folder = manifest::folder(&location.path, &manifest.project, &manifest.view);
    DataFile::new(location.store.clone(), &folder, manifest, file::pages(1 << 20))
}

async fn get(file: &DataFile, key: &EntityKey, view: &crate::config::View) -> Result<Option<Row>, Error> {
    let bucket = file.bucket(format::hash(key.as_bytes()), |_| {}).await?;
    file.row(&bucket, key, view)
}

#[test]
fn every_bucket_has_its_entry_on_one_page_inside_the_file() {
    for (rows, bytes) in
        [(1, 1), (1_000, 60_000), (100_000, 6_000_000), (10_000_000, 600_000_000), (10_000_000, 1 << 40)]
    {
        let layout = Layout { buckets: Layout::buckets_for(rows, bytes), directory: format::HEADER_BYTES + bytes };
        let pages = layout.buckets.div_ceil(format::PAGE_ENTRIES);
        let mut at = layout.directory;
        for page in 0..pages {
            let range = layout.page_range(page);
            assert_eq!(range.start, at, "pages follow each other");
            assert!(range.end - range.start <= 64_008, "a page is one small read");
            at = range.end;
        }
        assert_eq!(at, layout.file_bytes(), "the last page ends the file");
        assert_eq!(layout.bucket(0), 0);
        assert_eq!(layout.bucket(u64::MAX), layout.buckets - 1);
        let (page, index) = Layout::page_of(layout.buckets - 1);
        assert_eq!(page, pages - 1);
        assert!(((index as u64 + 1) * 20) < layout.page_range(page).end - layout.page_range(page).start);
    }
}

#[tokio::test]
async fn rows_of_every_size_of_file_are_found_and_others_are_not() {
    for rows in [0, 1, 2, 1_000] {
        let location = Watched::in_memory().location();
        let manifest = write_users(&location, 0..rows, 0).await;
        assert_eq!(manifest.rows, rows as u64);
        let file = open(&location, manifest);
        for id in 0..rows {
            assert_eq!(get(&file, &user(id), &users()).await.unwrap(), Some(user_row(id, 0)));
        }
        for id in rows..rows + 100 {
            assert_eq!(get(&file, &user(id), &users()).await.unwrap(), None);
        }
    }
}

#[tokio::test]
async fn the_newest_row_of_an_entity_is_kept() {
    let location = Watched::in_memory().location();
    let mut writer = Writer::new();
    let row = |time: Option<i64>, value: i64| Row::new(time, [Some(Value::Int64(value)), None].into());
    for (id, time, created, value) in [
        (1, Some(5), None, 10),
        (1, Some(7), None, 11),
        (1, Some(6), Some(9), 12),
        (2, Some(5), Some(2), 20),
        (2, Some(5), Some(1), 21),
        (2, Some(5), None, 22),
        (3, Some(5), Some(1), 30),
        (3, Some(5), Some(1), 31),
        (4, Some(-1), None, 40),
        (4, None, None, 41),
    ] {
        writer.push(&user(id), &row(time, value), created).unwrap();
    }
    assert_eq!(writer.rows(), 10);
    let users = users();
    let target = Target { to: &location, project: "shop", view: &users, source: "a test" };
    let file = open(&location, writer.finish(target).await.unwrap());
    assert_eq!(file.manifest.rows, 4);
    for (id, newest) in [(1, row(Some(7), 11)), (2, row(Some(5), 20)), (3, row(Some(5), 31)), (4, row(Some(-1), 40))] {
        assert_eq!(get(&file, &user(id), &users).await.unwrap(), Some(newest), "entity {id}");
    }
}

#[tokio::test]
async fn a_build_that_fails_changes_nothing() {
    let files = Watched::in_memory();
    let location = files.location();
    let before = write_users(&location, 0..10, 0).await;
    files.down.store(true, SeqCst);
    let (users, rows) = (users(), [(user(1), user_row(1, 1))]);
    let target = Target { to: &location, project: "shop", view: &users, source: "a test" };
    assert!(matches!(write(target, rows).await, Err(Error::Store(_))));
    files.down.store(false, SeqCst);
    let folder = manifest::folder(&location.path, "shop", "user_stats");
    let json = files.get(&manifest::path(&folder)).await.unwrap().bytes().await.unwrap();
    assert_eq!(Manifest::parse(&json, "shop", &users).unwrap(), before);
}

#[tokio::test]
async fn old_data_files_are_removed_but_not_the_last_nor_young_ones_nor_others() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::open(folder.path().to_str().unwrap(), Patience::COMMAND).unwrap();
    let files = folder.path().join("shop/user_stats");
    let age = |name: &str, hours: u64| {
        let then = std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600);
        std::fs::File::options().append(true).open(files.join(name)).unwrap().set_modified(then).unwrap();
    };
    let first = write_users(&location, 0..10, 0).await.data;
    let second = write_users(&location, 0..10, 1).await.data;
    for name in ["data-young.weir", "data-notes.txt"] {
        std::fs::write(files.join(name), "x").unwrap();
    }
    for name in [&first, &second, "data-notes.txt", "manifest.json"] {
        age(name, 5);
    }
    let third = write_users(&location, 0..10, 2).await.data;
    let mut expected = [second, third, "data-young.weir".into(), "data-notes.txt".into(), "manifest.json".into()];
    let mut left: Vec<_> =
        std::fs::read_dir(&files).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    expected.sort();
    left.sort();
    assert_eq!(left, expected);
}

#[tokio::test]
async fn features_are_found_by_name() {
    let location = Watched::in_memory().location();
    let file = open(&location, write_users(&location, 0..10, 0).await);
    let (int, text) = (FeatureType::Int64, FeatureType::String);
    let key = [("user_id", EntityType::Int64)];
    let other = view("user_stats", &key, &[("city", text), ("new", FeatureType::Float), ("count", int)]);
    let row = get(&file, &user(3), &other).await.unwrap().unwrap();
    assert_eq!(*row.values, [Some(Value::String("city-3".into())), None, Some(Value::Int64(30))]);
    let fewer = view("user_stats", &key, &[("city", text)]);
    assert_eq!(get(&file, &user(3), &fewer).await.unwrap().unwrap().values.len(), 1);
    let wrong = view("user_stats", &key, &[("count", FeatureType::Double)]);
    let error = get(&file, &user(3), &wrong).await.unwrap_err().to_string();
    assert_eq!(error, "feature \"count\" is INT64 in the lookup file and DOUBLE in the config");
}

#[tokio::test]
async fn a_manifest_for_something_else_is_refused() {
    let location = Watched::in_memory().location();
    let manifest = write_users(&location, 0..10, 0).await;
    let parse = |manifest: &Manifest, project: &str, view: &crate::config::View| {
        Manifest::parse(&serde_json::to_vec(manifest).unwrap(), project, view).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(parse(&manifest, "shop", &users()), Ok(()));
    let words = |result: Result<(), String>| result.unwrap_err();
    assert!(words(parse(&manifest, "other", &users())).contains("of project \"shop\""));
    let int32 = view("user_stats", &[("user_id", EntityType::Int32)], &[]);
    assert!(words(parse(&manifest, "shop", &int32)).contains("(user_id INT64), the config's (user_id INT32)"));
    let later = Manifest { format: 2, ..manifest.clone() };
    assert!(words(parse(&later, "shop", &users())).contains("format is 2"));
    let short = Manifest { size: manifest.size - 1, ..manifest.clone() };
    assert!(words(parse(&short, "shop", &users())).contains("do not make"));
    let huge = Manifest { buckets: u64::MAX, ..manifest.clone() };
    assert!(words(parse(&huge, "shop", &users())).contains("do not make"));
    let away = Manifest { data: "../x".into(), ..manifest };
    assert!(words(parse(&away, "shop", &users())).contains("not beside it"));
    assert!(Manifest::parse(b"{}", "shop", &users()).is_err());
}

/// Every single flipped bit is noticed by whoever reads the bytes it is in: the right row or an error, never another answer.
#[tokio::test]
async fn a_flipped_bit_is_an_error_and_never_another_row() {
    const ROWS: i64 = 12;
    let location = Watched::in_memory().location();
    let manifest = write_users(&location, 0..ROWS, 0).await;
    let path = manifest::folder(&location.path, "shop", "user_stats").join(manifest.data.as_str());
    let whole = location.store.get(&path).await.unwrap().bytes().await.unwrap();
    for at in format::HEADER_BYTES as usize..whole.len() {
        let mut damaged = whole.to_vec();
        damaged[at] ^= 1 << (at % 8);
        location.store.put(&path, damaged.into()).await.unwrap();
        let file = open(&location, manifest.clone());
        let mut errors = 0;
        for id in 0..ROWS + 5 {
            match get(&file, &user(id), &users()).await {
                Ok(row) => assert_eq!(row, (id < ROWS).then(|| user_row(id, 0))),
                Err(Error::Damaged { .. }) => errors += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(errors > 0, "byte {at} is covered by no checksum");
    }
}

#[tokio::test]
async fn a_truncated_file_is_an_error() {
    let location = Watched::in_memory().location();
    let manifest = write_users(&location, 0..300, 0).await;
    let path = manifest::folder(&location.path, "shop", "user_stats").join(manifest.data.as_str());
    let whole = location.store.get(&path).await.unwrap().bytes().await.unwrap();
    for length in [0, 10, 100, whole.len() / 2, whole.len() - 30, whole.len() - 1] {
        location.store.put(&path, whole.slice(..length).into()).await.unwrap();
        let file = open(&location, manifest.clone());
        for id in 0..300 {
            get(&file, &user(id), &users()).await.expect_err("the directory is at the end");
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    let text = || any::<String>().prop_map(Arc::<str>::from);
    let bytes = || proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    prop_oneof![
        Just(Value::Null),
        bytes().prop_map(Value::Bytes),
        text().prop_map(Value::String),
        any::<i32>().prop_map(Value::Int32),
        any::<i64>().prop_map(Value::Int64),
        any::<f64>().prop_map(Value::Double),
        any::<f32>().prop_map(Value::Float),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::UnixTimestamp),
        proptest::collection::vec(bytes(), 0..5).prop_map(|v| Value::BytesList(v.into())),
        proptest::collection::vec(text(), 0..5).prop_map(|v| Value::StringList(v.into())),
        proptest::collection::vec(any::<i32>(), 0..300).prop_map(|v| Value::Int32List(v.into())),
        proptest::collection::vec(any::<i64>(), 0..5).prop_map(|v| Value::Int64List(v.into())),
        proptest::collection::vec(any::<f64>(), 0..5).prop_map(|v| Value::DoubleList(v.into())),
        proptest::collection::vec(any::<f32>(), 0..5).prop_map(|v| Value::FloatList(v.into())),
        proptest::collection::vec(any::<bool>(), 0..5).prop_map(|v| Value::BoolList(v.into())),
        proptest::collection::vec(any::<i64>(), 0..5).prop_map(|v| Value::UnixTimestampList(v.into())),
        Just(Value::Opaque(Bytes::from_static(&[0xa2, 0x01, 0x00]))),
    ]
}

fn row(features: usize) -> impl Strategy<Value = Row> {
    let values = proptest::collection::vec(proptest::option::of(value()), features);
    (any::<Option<i64>>(), values).prop_map(|(event_time, values)| Row::new(event_time, values.into()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is written is read, for keys and values of any kind; a map says what that is.
    #[test]
    fn a_file_answers_as_a_map_does(
        rows in proptest::collection::btree_map(proptest::collection::vec(any::<u8>(), 0..30), row(4), 0..40),
        others in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..10),
    ) {
        let features: Vec<_> = ["a", "b", "c", "d"].map(|name| (name, FeatureType::Bytes)).into();
        let view = view("any", &[("id", EntityType::Bytes)], &features);
        let location = Watched::in_memory().location();
        let target = Target { to: &location, project: "p", view: &view, source: "a test" };
        let copies = rows.iter().map(|(key, row)| {
            (EntityKey::from(key.as_slice()), Row::new(row.event_time, row.values.clone()))
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let manifest = runtime.block_on(write(target, copies)).unwrap();
        let file = open(&location, manifest);
        for key in rows.keys().chain(&others) {
            let found = runtime.block_on(get(&file, &EntityKey::from(key.as_slice()), &view)).unwrap();
            prop_assert_eq!(found.as_ref(), rows.get(key));
        }
    }

    /// Whatever the order they come in, the row kept is the one that a map kept by age holds.
    #[test]
    fn the_newest_row_is_the_one_a_map_keeps(
        rows in proptest::collection::vec(
            (0..6i64, proptest::option::of(-2..3i64), proptest::option::of(0..3i64)), 0..60)
    ) {
        let mut partitions = partition::Partitions::new();
        let mut newest = std::collections::BTreeMap::new();
        for (order, &(id, event_time, created)) in rows.iter().enumerate() {
            let row = Row::new(event_time, [Some(Value::Int64(order as i64))].into());
            let (mut record, mut scratch) = (Vec::new(), Vec::new());
            format::put_record(&user(id), &row, &mut scratch, &mut record);
            let age = partition::Age { event_time, created };
            partitions.push(user(id).as_bytes(), age, &record).unwrap();
            let key = user(id).as_bytes().to_vec();
            if newest.get(&key).is_none_or(|(known, _)| age >= *known) {
                newest.insert(key, (age, record));
            }
        }
        let mut sorted = partitions.finish().unwrap();
        prop_assert_eq!(sorted.rows(), newest.len() as u64);
        prop_assert_eq!(sorted.bytes(), newest.values().map(|(_, record)| record.len() as u64).sum::<u64>());
        let mut last = 0;
        while let Some((hash, record)) = sorted.next().unwrap() {
            prop_assert!(last <= hash, "in the order of the hashes");
            last = hash;
            let key = format::Record::take(&mut &record[..]).unwrap().key;
            let (_, expected) = newest.remove(key).expect("each entity once");
            prop_assert_eq!(&expected[..], &record[..]);
        }
        prop_assert!(newest.is_empty());
    }

    /// Bytes that nobody wrote never panic.
    #[test]
    fn any_bytes_are_rows_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), key in any::<[u8; 2]>()) {
        if let Ok(Some(record)) = format::find(&bytes, &key) {
            prop_assert_eq!(record.key, key);
            let _ = record.cells().take(1_000).collect::<Vec<_>>();
        }
    }
}
