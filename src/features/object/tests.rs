use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use futures_util::FutureExt;
use object_store::{ObjectStoreExt, local::LocalFileSystem};

use super::*;
use crate::features::lookup::{
    manifest,
    testing::{S3, Watched, user, user_row, users, view, write_users},
};
use crate::infer::{EntityType, FeatureType};

const LONG: Duration = Duration::from_secs(60);

async fn open(store: &Arc<Watched>) -> Store {
    Store::open_at(store.location(), (LONG, Policy::default()), "shop", &[Arc::new(users())]).await.unwrap()
}

fn is_ready(store: &Store) -> bool {
    store.views.values().all(|view| view.is_known())
}

/// Waits until `check` holds; a test that hangs is one that fails.
async fn until(check: impl AsyncFn() -> bool) {
    while !check().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Counted twice: by the store, and by the object store itself.
#[tokio::test]
async fn a_point_read_costs_at_most_two_ranged_reads() {
    for (rows, step) in [(1_000, 7), (100_000, 997)] {
        let folder = tempfile::tempdir().unwrap();
        let files = Watched::new(Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap()));
        let manifest = write_users(&files.location(), 0..rows, 0).await;
        assert!(manifest.buckets > 1, "the file has a directory worth the name");
        let store = open(&files).await;
        assert_eq!(store.reads("user_stats"), lookup::view::Reads { manifest: 1, directory: 0, bucket: 0 });
        assert_eq!(files.ranged(), 0, "opening reads the manifest and nothing else");

        for (lookups, id) in (0..rows).step_by(step).chain(rows..rows + 50).enumerate() {
            let before = files.ranged();
            let found = store.get(&users(), &user(id)).await.unwrap();
            assert_eq!(found, (id < rows).then(|| user_row(id, 0)));
            let cost = files.ranged() - before;
            assert!(cost <= if lookups == 0 { 2 } else { 1 }, "warm lookups read a bucket only; {id} cost {cost}");
        }
        let reads = store.reads("user_stats");
        assert_eq!(reads.directory, 1, "{rows} rows have one directory page");
        assert_eq!((reads.directory + reads.bucket) as usize, files.ranged());

        let cold = open(&files).await;
        let before = files.ranged();
        cold.get(&users(), &user(rows / 2)).await.unwrap().unwrap();
        assert_eq!(files.ranged() - before, 2, "cold: a page and a bucket");
    }
}

#[tokio::test]
async fn a_view_without_a_manifest_has_no_rows() {
    let files = Watched::in_memory();
    let store = open(&files).await;
    assert!(is_ready(&store));
    assert_eq!(store.get(&users(), &user(1)).await.unwrap(), None);
    assert_eq!(files.ranged(), 0);
    let unknown = view("never_opened", &[], &[]);
    assert!(matches!(store.get(&unknown, &user(1)).await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn opening_outlives_an_object_store_that_is_down() {
    let files = Watched::in_memory();
    write_users(&files.location(), 0..10, 0).await;
    files.down.store(true, SeqCst);
    let store = open(&files).await;
    assert!(!is_ready(&store));
    let error = store.get(&users(), &user(1)).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(reason) if reason.contains("is down")), "{error}");
    files.down.store(false, SeqCst);
    until(async || is_ready(&store)).await;
    assert_eq!(store.get(&users(), &user(1)).await.unwrap(), Some(user_row(1, 0)));
    files.down.store(true, SeqCst);
    let error = store.get(&users(), &user(1)).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(reason) if reason.contains("is down")), "{error}");
}

#[tokio::test]
async fn the_caller_waits_no_longer_than_the_timeout() {
    let files = Watched::in_memory();
    write_users(&files.location(), 0..10, 0).await;
    files.stuck.store(true, SeqCst);
    let short = Duration::from_millis(20);
    let store =
        Store::open_at(files.location(), (short, Policy::default()), "shop", &[Arc::new(users())]).await.unwrap();
    assert!(matches!(store.get(&users(), &user(1)).await, Err(Error::Timeout(limit)) if limit == short));
}

#[tokio::test]
async fn reads_in_flight_are_bounded_also_those_nobody_waits_for() {
    let files = Watched::in_memory();
    write_users(&files.location(), 0..10, 0).await;
    files.stuck.store(true, SeqCst);
    let store = open(&files).await;
    for _ in 0..READS_IN_FLIGHT {
        assert!(store.get(&users(), &user(1)).now_or_never().is_none());
    }
    assert!(matches!(store.get(&users(), &user(1)).await, Err(Error::Busy)));
}

/// What a test sees of the breaker: what it counts, and how often the store was asked.
#[tokio::test]
async fn a_store_that_keeps_failing_is_left_alone_and_found_again() {
    let files = Watched::in_memory();
    write_users(&files.location(), 0..10, 0).await;
    let policy = Policy { open_for: Duration::from_millis(50), ..Policy::default() };
    let views = [Arc::new(users())];
    let store = Store::open_at(files.location(), (LONG, policy), "shop", &views).await.unwrap();
    files.down.store(true, SeqCst);
    for _ in 0..policy.failure_threshold {
        assert!(matches!(store.get(&users(), &user(1)).await, Err(Error::Unavailable(_))));
    }
    let asked = store.reads("user_stats");
    assert!(matches!(store.get(&users(), &user(1)).await, Err(Error::Open { .. })));
    assert_eq!(store.reads("user_stats"), asked, "an open breaker asks nobody");
    files.down.store(false, SeqCst);
    until(async || store.get(&users(), &user(1)).await.is_ok()).await;
    for _ in 1..policy.success_threshold {
        assert_eq!(store.get(&users(), &user(1)).await.unwrap(), Some(user_row(1, 0)));
    }
    let next = store.next("shop", &views).await;
    assert_eq!(format!("{:?}", next.guard), "Guard(Circuit(Closed))");
}

#[tokio::test]
async fn a_file_that_is_damaged_or_gone_is_not_the_store_s_failure() {
    let files = Watched::in_memory();
    let manifest = write_users(&files.location(), 0..10, 0).await;
    let store = open(&files).await;
    let file = files.location().path.join("shop").join(users().name.to_string()).join(manifest.data);
    files.location().store.delete(&file).await.unwrap();
    for _ in 0..20 {
        let error = store.get(&users(), &user(1)).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
    }
}

#[test]
fn a_store_outlives_the_runtime_it_was_opened_on() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let files = Watched::in_memory();
    let first = runtime();
    let store = first.block_on(async {
        write_users(&files.location(), 0..10, 0).await;
        let store = open(&files).await;
        store.get(&users(), &user(1)).await.unwrap().unwrap();
        store
    });
    drop(first);
    runtime().block_on(async {
        assert_eq!(store.get(&users(), &user(2)).await.unwrap(), Some(user_row(2, 0)));
        drop(store);
    });
}

#[tokio::test]
async fn a_rebuild_takes_over_without_an_error_or_a_mixed_row() {
    let files = Watched::in_memory();
    write_users(&files.location(), 0..500, 0).await;
    let store = open(&files).await;
    let read_all = async || {
        let mut versions = std::collections::BTreeSet::new();
        for id in 0..500 {
            let row = store.get(&users(), &user(id)).await.unwrap().unwrap();
            let version = row.event_time.unwrap() % 1_000;
            assert_eq!(row, user_row(id, version));
            versions.insert(version);
        }
        versions
    };
    write_users(&files.location(), 0..500, 1).await;
    assert_eq!(read_all().await, [0].into(), "the file of the build before still answers");
    store.views["user_stats"].stale.notify_one();
    until(async || read_all().await == [1].into()).await;
}

#[tokio::test]
async fn a_data_file_that_is_gone_makes_the_manifest_be_read_again() {
    let files = Watched::in_memory();
    let location = files.location();
    let first = write_users(&location, 0..10, 0).await;
    let store = open(&files).await;
    let folder = manifest::folder(&location.path, "shop", "user_stats");
    files.delete(&folder.clone().join(first.data.as_str())).await.unwrap();
    write_users(&location, 0..10, 1).await;
    assert!(matches!(store.get(&users(), &user(1)).await, Err(Error::Unavailable(_))));
    until(async || store.get(&users(), &user(1)).await.is_ok()).await;
    assert_eq!(store.get(&users(), &user(1)).await.unwrap(), Some(user_row(1, 1)));
}

#[tokio::test]
async fn a_damaged_bucket_is_an_error() {
    let files = Watched::in_memory();
    let location = files.location();
    let written = write_users(&location, 0..10, 0).await;
    let path = manifest::folder(&location.path, "shop", "user_stats").join(written.data.as_str());
    let mut bytes = files.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    bytes[20] ^= 1;
    files.put(&path, bytes.into()).await.unwrap();
    let store = open(&files).await;
    let error = store.get(&users(), &user(1)).await.unwrap_err();
    assert!(matches!(&error, Error::Damaged(words) if words.contains("checksum is wrong")), "{error}");
}

#[tokio::test]
async fn a_local_folder_is_opened_by_its_url() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    write_users(&Location::open(&url, Patience::COMMAND).unwrap(), 0..10, 0).await;
    let names: Vec<_> = std::fs::read_dir(folder.path().join("shop/user_stats")).unwrap().collect();
    assert_eq!(names.len(), 2, "a manifest and a data file: {names:?}");
    let config = config::L3 { url, timeout: LONG };
    let store = Store::open(&config, Policy::default(), "shop", &[Arc::new(users())]).await.unwrap();
    assert_eq!(store.get(&users(), &user(9)).await.unwrap(), Some(user_row(9, 0)));
    let wrong = config::L3 { url: "ftp://x/y".into(), timeout: LONG };
    assert!(matches!(Store::open(&wrong, Policy::default(), "shop", &[]).await, Err(Error::Url(_))));
}

/// A folder with 1,000 users, served as S3 does.
async fn served() -> (tempfile::TempDir, S3) {
    let folder = tempfile::tempdir().unwrap();
    let to = Location::open(folder.path().to_str().unwrap(), Patience::COMMAND).unwrap();
    write_users(&to, 0..1_000, 0).await;
    let s3 = S3::serve(folder.path());
    (folder, s3)
}

#[tokio::test]
async fn over_http_a_lookup_is_two_requests_on_a_kept_connection() {
    let (_folder, s3) = served().await;
    let store = Store::open_at(s3.location(), (LONG, Policy::default()), "shop", &[Arc::new(users())]).await.unwrap();
    assert_eq!(s3.seen(), (1, 1), "the manifest");
    store.get(&users(), &user(1)).await.unwrap().unwrap();
    assert_eq!(s3.seen().1, 3, "a page and a bucket");
    for id in 0..100 {
        assert_eq!(store.get(&users(), &user(id)).await.unwrap(), Some(user_row(id, 0)));
    }
    let (connections, requests) = s3.seen();
    assert_eq!(requests, 103);
    // A connection is put back a moment after its answer: a request in between makes another.
    assert!(connections < 50, "{connections} connections for {requests} requests one after the other");
}

#[test]
fn over_http_runtimes_come_and_go() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let (_folder, s3) = runtime().block_on(served());
    let views = [Arc::new(users())];
    let open = Store::open_at(s3.location(), (LONG, Policy::default()), "shop", &views);
    let store = runtime().block_on(open).unwrap();
    thread::scope(|scope| {
        for worker in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for id in worker * 10..worker * 10 + 10 {
                    let row = runtime().block_on(store.get(&users(), &user(id)));
                    assert_eq!(row.unwrap(), Some(user_row(id, 0)));
                }
            });
        }
    });
}

#[tokio::test]
async fn over_http_a_server_that_hangs_up_is_an_error_and_passes() {
    let (_folder, s3) = served().await;
    let store = Store::open_at(s3.location(), (LONG, Policy::default()), "shop", &[Arc::new(users())]).await.unwrap();
    s3.hang_up(true);
    for _ in 0..3 {
        let error = store.get(&users(), &user(1)).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
    }
    s3.hang_up(false);
    assert_eq!(store.get(&users(), &user(1)).await.unwrap(), Some(user_row(1, 0)));
}

#[tokio::test]
async fn the_next_snapshot_keeps_open_what_has_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let files = Watched::new(Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap()));
    write_users(&files.location(), 0..100, 0).await;
    let store = open(&files).await;
    let kept = |next: &Store| Arc::ptr_eq(&store.views["user_stats"], &next.views["user_stats"]);
    let other = view("other", &[("user_id", EntityType::Int64)], &[("f", FeatureType::Int64)]);
    let next = store.next("shop", &[Arc::new(other), Arc::new(users())]).await;
    assert!(kept(&next) && is_ready(&next) && next.views.len() == 2);
    assert_eq!(next.get(&users(), &user(7)).await.unwrap(), Some(user_row(7, 0)));
    let fewer = view("user_stats", &[("user_id", EntityType::Int64)], &[("count", FeatureType::Int64)]);
    assert!(!kept(&store.next("shop", &[Arc::new(fewer)]).await));
    assert!(!kept(&store.next("elsewhere", &[Arc::new(users())]).await));
}
